"""`unpack`: unpacking alone, forward and backward, against copying as many floats.

Once in float32 with contiguous kernels, and once as a network trains that is channels last and in
bfloat16: the slots are then made so, and their gradients come so.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from rpg_bench.benchmarks.networks import BUDGETS, autocast, in_format, resnet, rings
from rpg_bench.benchmarks.result import HIGHER, Figure, Result, Settings
from rpg_bench.benchmarks.timing import Contestant, Ratio, in_turn
from rpg_bench.benchmarks.yardstick import share_layer_by_layer, unpack
from rpg_bench.sharing import Sharing, sharing_of

TITLE = "Unpacking the weights of ResNet18 alone"
BOUND = 4.0  # times as long as ours, at least, for the yardstick
ROUND_TRIP = "forward + backward"


def run(settings: Settings) -> Result:
    """Time forward alone, and forward with backward."""
    device = settings.device
    contestants: dict[str, Contestant] = {}
    total = 0
    for name, sharing, as_trained in _sharings(device):
        if settings.short and not as_trained:
            continue
        total = sharing.plan.total
        contestants[f"{name} {ROUND_TRIP}"] = _round_trip(sharing, as_trained)
        if not settings.short:
            contestants[f"{name} forward"] = _forward(sharing, as_trained)
    for budget, dof in list(BUDGETS.items())[: 1 if settings.short else None]:
        contestants[f"yardstick {budget} {ROUND_TRIP}"] = _yardstick(share_layer_by_layer(_contiguous(device), dof))
    source, destination = torch.randn(total, device=device), torch.empty(total, device=device)
    contestants = {"copy": lambda: destination.copy_(source), **contestants}
    times = in_turn(contestants, device, rounds=settings.rounds(25, 6))
    figures = []
    for name, found in times.items():
        if name == "copy":
            continue
        ours = name.startswith("rpg_global")
        figures.append(Figure.ratio(name, Ratio.of(found, times["copy"]), "x copy", compared=False))
        yardstick = f"yardstick {name.split()[1]} {ROUND_TRIP}"
        if ours and name.endswith(ROUND_TRIP) and yardstick in times:
            ratio = Ratio.of(times[yardstick], found)
            figures.append(Figure.ratio(f"{name}: yardstick", ratio, "x ours", better=HIGHER, bound=BOUND))
    return Result(tuple(figures), times, {"network": "resnet18", "slot_scalars": total})


def _sharings(device: torch.device) -> Iterator[tuple[str, Sharing, bool]]:
    for name, network in rings("half", device):
        yield f"{name} bf16 channels last", sharing_of(network), True
    for name, network in rings("half", device):
        yield f"{name} fp32", sharing_of(in_format(network, torch.contiguous_format)), False


def _contiguous(device: torch.device) -> nn.Module:
    return in_format(resnet("half", device), torch.contiguous_format)


def _produced(sharing: Sharing, as_trained: bool) -> list[Tensor]:
    if not as_trained:
        return list(sharing.produce())
    with autocast(next(sharing.parameters()).device):
        return list(sharing.produce())


def _forward(sharing: Sharing, as_trained: bool) -> Contestant:
    return lambda: _produced(sharing, as_trained)


def _round_trip(sharing: Sharing, as_trained: bool) -> Contestant:
    gradients = _gradients(_produced(sharing, as_trained))

    def round_trip() -> None:
        torch.autograd.backward(_produced(sharing, as_trained), gradients)
        sharing.zero_grad(set_to_none=True)

    return round_trip


def _yardstick(network: nn.Module) -> Contestant:
    gradients = _gradients(unpack(network))

    def round_trip() -> None:
        torch.autograd.backward(unpack(network), gradients)
        network.zero_grad(set_to_none=True)

    return round_trip


def _gradients(slots: list[Tensor]) -> list[Tensor]:
    """What a network hands back: like its weights in dtype and in memory format."""
    return [torch.randn_like(slot.detach()) for slot in slots]
