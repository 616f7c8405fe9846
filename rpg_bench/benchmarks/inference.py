"""`inference`: what a materialised network costs, against the dense one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rpg_bench.benchmarks.networks import SMALL, in_format, random_batch, resnet
from rpg_bench.benchmarks.result import Figure, Result, Settings
from rpg_bench.benchmarks.timing import Contestant, Ratio, Times, in_turn
from rpg_bench.sharing import materialize, share

TITLE = "Inference of ResNet18"
BOUND = 1.02  # times the dense network; the two run the same code


def run(settings: Settings) -> Result:
    """Time single images and a batch, in float32."""
    dense = resnet("cifar", settings.device).eval()
    shared = share(resnet("cifar", settings.device), "rpg_global", SMALL).eval()
    plain = in_format(materialize(shared), torch.channels_last)  # as the dense one
    networks = {"dense": dense, "materialised": plain, "shared": shared}
    figures: list[Figure] = []
    times: dict[str, Times] = {}
    for size in (1,) if settings.short else (1, 128):
        images, _ = random_batch(size, settings.device)
        rounds = settings.rounds(30, 12)
        contestants = {name: _pass(network, images) for name, network in networks.items()}
        found = in_turn(contestants, settings.device, rounds=rounds)
        times |= {f"batch {size} {name}": value for name, value in found.items()}
        for name in ("materialised", "shared"):
            bound = BOUND if name == "materialised" else None
            ratio = Ratio.of(found[name], found["dense"])
            figures.append(Figure.ratio(f"batch {size} {name}", ratio, "x dense", bound=bound, compared=bool(bound)))
    return Result(tuple(figures), times, {"network": "resnet18", "stem": "cifar", "precision": "fp32"})


def _pass(network: nn.Module, images: Tensor) -> Contestant:
    @torch.inference_mode()
    def forward() -> None:
        network(images)

    return forward
