"""`unpack`: unpacking alone, forward and backward, against copying as many floats."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rpg_bench.benchmarks.networks import BUDGETS, resnet18, rings
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
    for name, network in rings("half", device):
        sharing = sharing_of(network)
        total = sharing.plan.total
        contestants |= _both(name, sharing)
    for budget, dof in list(BUDGETS.items())[: 1 if settings.short else None]:
        layers = share_layer_by_layer(resnet18("half", device), dof)
        contestants[f"yardstick {budget} {ROUND_TRIP}"] = _yardstick(layers)
    source, destination = torch.randn(total, device=device), torch.empty(total, device=device)
    times = in_turn({"copy": lambda: destination.copy_(source), **contestants}, device, rounds=settings.rounds(25, 8))
    figures = []
    for name, found in times.items():
        if name != "copy":
            compared = not name.startswith("yardstick")
            figures.append(Figure.ratio(name, Ratio.of(found, times["copy"]), "x copy", compared=compared))
    for name in times:
        yardstick = f"yardstick {name.split()[1]} {ROUND_TRIP}" if name != "copy" else ""
        if name.startswith("rpg_global") and name.endswith(ROUND_TRIP) and yardstick in times:
            ratio = Ratio.of(times[yardstick], times[name])
            figures.append(Figure.ratio(f"{name}: yardstick", ratio, "x ours", better=HIGHER, bound=BOUND))
    return Result(tuple(figures), times, {"network": "resnet18", "slot_scalars": total})


def _both(name: str, sharing: Sharing) -> dict[str, Contestant]:
    gradients = _gradients(list(sharing.produce()))

    def forward() -> None:
        sharing.produce()

    def round_trip() -> None:
        torch.autograd.backward(list(sharing.produce()), gradients)
        sharing.zero_grad(set_to_none=True)

    return {f"{name} forward": forward, f"{name} {ROUND_TRIP}": round_trip}


def _yardstick(network: nn.Module) -> Contestant:
    gradients = _gradients(unpack(network))

    def round_trip() -> None:
        torch.autograd.backward(unpack(network), gradients)
        network.zero_grad(set_to_none=True)

    return round_trip


def _gradients(slots: list[Tensor]) -> list[Tensor]:
    """What a network would hand back: of the slots' shapes, contiguous."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(slot.shape, generator=generator).to(slot.device) for slot in slots]
