"""`step`: what a training step costs through one ring, against dense and against the yardstick."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rpg_bench.benchmarks.networks import BUDGETS, IMAGE_SIZE, random_batch, resnet, rings, training_step
from rpg_bench.benchmarks.result import HIGHER, Figure, Result, Settings
from rpg_bench.benchmarks.timing import Ratio, Times, in_turn
from rpg_bench.benchmarks.yardstick import share_layer_by_layer

TITLE = "Training step of ResNets through one ring"


@dataclass(frozen=True)
class Subject:
    """A network that is timed."""

    name: str
    stem: str
    depth: int = 18
    image_size: int = IMAGE_SIZE

    def network(self, device: torch.device, **options: Any) -> nn.Module:
        return resnet(self.stem, device, depth=self.depth, image_size=self.image_size, **options)

    def rings(self, device: torch.device, **options: Any) -> dict[str, nn.Module]:
        return dict(rings(self.stem, device, depth=self.depth, image_size=self.image_size, **options))


SMALL_IMAGES = (Subject("half", "half"), Subject("cifar", "cifar"))
# Minutes a step on a CPU.
LARGE_IMAGES = tuple(Subject(f"resnet{depth} at 224", "imagenet", depth, 224) for depth in (18, 50))
# Times the dense step, at most: network, then the ring without and with blocks.
BOUNDS = {
    "cpu": {
        "cifar": {"36k": (1.03, 1.02), "2.36M": (1.06, 1.02)},
        "half": {"36k": (1.08, 1.05), "2.36M": (1.18, 1.05)},
    },
    "cuda": {
        name: {"36k": (1.03, 1.03), "2.36M": (1.03, 1.03)} for name in ("cifar", "resnet18 at 224", "resnet50 at 224")
    },
}
OVERHEAD_BOUND = 4.0  # times less than the yardstick's
# On a CPU also with torch's own convolutions, which the bounds were set for: the matrix products halve the
# dense step, of which the ring's share is then larger.
TORCH = ", torch's convolutions"


def run(settings: Settings) -> Result:
    """Time each group in turn, of each network."""
    figures: list[Figure] = []
    times: dict[str, Times] = {}
    batch_size = 16 if settings.short else 128
    for subject in subjects(settings):
        rounds = settings.rounds(15 if subject.name == "half" else 9, 6)
        ratios: dict[str, Ratio] = {}
        for group in _groups(subject, settings):
            images, labels = random_batch(batch_size, settings.device, subject.image_size)
            steps = {name: training_step(network, images, labels) for name, network in group.items()}
            found = in_turn(steps, settings.device, rounds=rounds)
            baseline = next(iter(group))
            ratios |= {name: Ratio.of(value, found[baseline]) for name, value in found.items() if name != baseline}
            times |= {f"{subject.name} {name}": value for name, value in found.items()}
        figures += _figures(subject.name, ratios, settings)
    names = [subject.name for subject in subjects(settings)]
    details = {"networks": names, "batch_size": batch_size, "precision": "bf16", "optimizer": "sgd_nesterov"}
    return Result(tuple(figures), times, details)


def subjects(settings: Settings) -> tuple[Subject, ...]:
    """The networks that are timed on this device."""
    if settings.short:
        return SMALL_IMAGES[:1]
    return SMALL_IMAGES + (LARGE_IMAGES if settings.device.type == "cuda" else ())


def _groups(subject: Subject, settings: Settings) -> Iterator[dict[str, nn.Module]]:
    """What is compared, with its own dense network first: few at a time, for each finds what the one before it has
    left in the caches, where training finds its own."""
    device = settings.device
    yield {"dense": subject.network(device), **subject.rings(device)}
    if settings.short:
        return
    yardsticks = {
        f"yardstick {budget}": share_layer_by_layer(subject.network(device), dof) for budget, dof in BUDGETS.items()
    }
    yield {"dense beside the yardstick": subject.network(device), **yardsticks}
    if device.type == "cpu":
        direct = {f"{name}{TORCH}": ring for name, ring in subject.rings(device, direct=True).items()}
        yield {f"dense{TORCH}": subject.network(device, direct=True), **direct}


def _figures(subject: str, ratios: dict[str, Ratio], settings: Settings) -> list[Figure]:
    bounds = {} if settings.short else BOUNDS.get(settings.device.type, {}).get(subject, {})
    figures = []
    for name, ratio in ratios.items():
        plain, torch_s, _ = name.partition(TORCH)
        kind, _, rest = plain.partition(" ")
        budget, _, block = rest.partition(" ")
        bound = bounds[budget][1 if block else 0] if kind == "rpg_global" and budget in bounds else None
        compared = kind == "rpg_global" and not torch_s
        unit = f"x dense{torch_s} step"
        figures.append(Figure.ratio(f"{subject} {name}", ratio, unit, bound=bound, compared=compared))
    for budget in BUDGETS:
        for name in (f"rpg_global {budget}", f"rpg_global {budget} block=16"):
            if f"yardstick {budget}" in ratios:
                theirs, ours = ratios[f"yardstick {budget}"], ratios[name]
                figures.append(
                    Figure(
                        f"{subject} {name}: overhead of the yardstick",
                        _overhead(theirs.median, ours.median),
                        "x ours",
                        bound=OVERHEAD_BOUND,
                        better=HIGHER,
                        best=_overhead(theirs.best, ours.best),
                        compared=False,  # a quotient of two small differences
                    )
                )
    return figures


def _overhead(theirs: float, ours: float) -> float:
    """How much more the yardstick adds to a dense step; an overhead below a thousandth of it counts as that."""
    return (theirs - 1) / max(ours - 1, 1 / 1000)
