"""`schemes`: what a training step costs through every scheme, against dense."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rpg_bench.benchmarks.networks import SMALL, random_batch, resnet, training_step
from rpg_bench.benchmarks.result import Figure, Result, Settings
from rpg_bench.benchmarks.timing import Contestant, Ratio, Times, in_turn
from rpg_bench.errors import InvalidInput
from rpg_bench.sharing import SCHEMES, dof_report, get_scheme, share
from rpg_bench.sharing.slots import find_slots

TITLE = "Training step of ResNet18 through every scheme"
BOUND = 1.10  # times the dense step, at most
UNBOUNDED = ("lors_adaptive",)  # it generates weights for each image
SHORT = ("hashed", "lors", "lowrank", "magnitude", "rpg_lors")  # one of each kind
TOGETHER = 5  # schemes that are timed in turn with one dense network; more would need much memory


def run(settings: Settings) -> Result:
    """Time a few schemes at a time in turn with the dense network."""
    stem, batch_size = ("half", 16) if settings.short else ("cifar", 128)
    images, labels = random_batch(batch_size, settings.device)
    figures: list[Figure] = []
    times: dict[str, Times] = {}
    budgets: dict[str, Any] = {}
    refused: dict[str, str] = {}
    names = SHORT if settings.short else sorted(SCHEMES)
    for start in range(0, len(names), TOGETHER):
        steps: dict[str, Contestant] = {"dense": training_step(resnet(stem, settings.device), images, labels)}
        for name in names[start : start + TOGETHER]:
            try:
                network = _shared(name, stem, settings.device, images, labels)
            except InvalidInput as error:
                refused[name] = str(error)
                continue
            budgets[name] = dof_report(network).dof
            steps[name] = training_step(network, images, labels)
        found = in_turn(steps, settings.device, rounds=settings.rounds(7, 5), warmup=1)
        for name in steps:
            if name != "dense":
                ratio = Ratio.of(found[name], found["dense"])
                bound = BOUND if name not in UNBOUNDED and not settings.short else None
                figures.append(Figure.ratio(name, ratio, "x dense step", bound=bound))
                times[name] = found[name]
        times[f"dense beside {', '.join(name for name in steps if name != 'dense')}"] = found["dense"]
    details = {"network": "resnet18", "stem": stem, "batch_size": batch_size, "dof": budgets, "refused": refused}
    return Result(tuple(figures), times, details)


def _shared(name: str, stem: str, device: torch.device, images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """ResNet18 through the scheme at 36k, or at what it takes that is nearest to it."""
    network = resnet(stem, device)
    least, most = get_scheme(name).range(find_slots(network))
    dof = min(max(SMALL, least), most)
    return share(network, name, dof, batches=lambda: iter([(images, labels)]))
