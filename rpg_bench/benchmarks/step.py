"""`step`: what a training step costs through one ring, against dense and against the yardstick."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from rpg_bench.benchmarks.networks import BUDGETS, random_batch, resnet18, rings, training_step
from rpg_bench.benchmarks.result import HIGHER, Figure, Result, Settings
from rpg_bench.benchmarks.timing import Ratio, Times, in_turn
from rpg_bench.benchmarks.yardstick import share_layer_by_layer

TITLE = "Training step of ResNet18 through one ring"
# Times the dense step, at most: stem, then the ring without and with blocks.
BOUNDS = {
    "cpu": {
        "cifar": {"36k": (1.03, 1.02), "2.36M": (1.06, 1.02)},
        "half": {"36k": (1.08, 1.05), "2.36M": (1.18, 1.05)},
    },
    "cuda": {"cifar": {"36k": (1.03, 1.03), "2.36M": (1.03, 1.03)}},
}
OVERHEAD_BOUND = 4.0  # times less than the yardstick's
# On a CPU also with torch's own convolutions, which the bounds were set for: the matrix products halve the
# dense step, of which the ring's share is then larger.
TORCH = ", torch's convolutions"


def run(settings: Settings) -> Result:
    """Time each group in turn, at both stems."""
    figures: list[Figure] = []
    times: dict[str, Times] = {}
    batch_size = 16 if settings.short else 128
    for stem in ("half",) if settings.short else ("half", "cifar"):
        rounds = settings.rounds(15 if stem == "half" else 9, 6)
        ratios: dict[str, Ratio] = {}
        for group in _groups(stem, settings):
            images, labels = random_batch(batch_size, settings.device)
            steps = {name: training_step(network, images, labels) for name, network in group.items()}
            found = in_turn(steps, settings.device, rounds=rounds)
            baseline = next(iter(group))
            ratios |= {name: Ratio.of(value, found[baseline]) for name, value in found.items() if name != baseline}
            times |= {f"{stem} {name}": value for name, value in found.items()}
        figures += _figures(stem, ratios, settings)
    details = {"network": "resnet18", "batch_size": batch_size, "precision": "bf16", "optimizer": "sgd_nesterov"}
    return Result(tuple(figures), times, details)


def _groups(stem: str, settings: Settings) -> Iterator[dict[str, nn.Module]]:
    """What is compared, with its own dense network first: few at a time, for each finds what the one before it has
    left in the caches, where training finds its own."""
    device = settings.device
    yield {"dense": resnet18(stem, device), **dict(rings(stem, device))}
    if settings.short:
        return
    yardsticks = {
        f"yardstick {budget}": share_layer_by_layer(resnet18(stem, device), dof) for budget, dof in BUDGETS.items()
    }
    yield {"dense beside the yardstick": resnet18(stem, device), **yardsticks}
    if device.type == "cpu":
        direct = {f"{name}{TORCH}": ring for name, ring in rings(stem, device, direct=True)}
        yield {f"dense{TORCH}": resnet18(stem, device, direct=True), **direct}


def _figures(stem: str, ratios: dict[str, Ratio], settings: Settings) -> list[Figure]:
    bounds = {} if settings.short else BOUNDS.get(settings.device.type, {}).get(stem, {})
    figures = []
    for name, ratio in ratios.items():
        plain, torch_s, _ = name.partition(TORCH)
        kind, _, rest = plain.partition(" ")
        budget, _, block = rest.partition(" ")
        bound = bounds[budget][1 if block else 0] if kind == "rpg_global" and budget in bounds else None
        compared = kind == "rpg_global" and not torch_s
        unit = f"x dense{torch_s} step"
        figures.append(Figure.ratio(f"{stem} {name}", ratio, unit, bound=bound, compared=compared))
    for budget in BUDGETS:
        for name in (f"rpg_global {budget}", f"rpg_global {budget} block=16"):
            if f"yardstick {budget}" in ratios:
                theirs, ours = ratios[f"yardstick {budget}"], ratios[name]
                figures.append(
                    Figure(
                        f"{stem} {name}: overhead of the yardstick",
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
