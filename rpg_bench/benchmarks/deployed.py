"""`deployed`: what networks cost at inference as they are deployed: dense, materialised, compiled, in 8 bits.

ResNet18 with the `half` stem through a ring of 36,000, and DeiT-Tiny with patch 8 through LORS of rank 32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rpg_bench.backbones import create_backbone
from rpg_bench.benchmarks.networks import CLASSES, IMAGE_SIZE, SMALL, in_format, random_batch, resnet
from rpg_bench.benchmarks.result import Figure, Result, Settings
from rpg_bench.benchmarks.timing import Contestant, Ratio, Times, in_turn
from rpg_bench.compact.int8 import available, compiled, quantised_network
from rpg_bench.config import BackboneConfig
from rpg_bench.sharing import materialize, share

Network = Callable[[Tensor], Tensor]

TITLE = "Networks as they are deployed"
BATCHES = (1, 64)  # latency and throughput
BOUND = 1.02  # times dense, of what runs the same code
RANK = 32


def run(settings: Settings) -> Result:
    """Time both networks in float32."""
    figures: list[Figure] = []
    times: dict[str, Times] = {}
    for network, contestants in (("resnet18", _resnet(settings)), ("deit_tiny", _deit(settings))):
        for size in BATCHES:
            images, _ = random_batch(size, settings.device)
            passes = {name: _pass(one, images) for name, one in contestants.items()}
            rounds = settings.rounds(40, 10) if size == 1 else settings.rounds(12, 4)
            found = in_turn(passes, settings.device, rounds=rounds, warmup=3)
            times |= {f"{network} batch {size} {name}": value for name, value in found.items()}
            for name, value in found.items():
                if name != "dense":
                    same = name in ("materialised", "lors folded")
                    figures.append(
                        Figure.ratio(
                            f"{network} batch {size} {name}",
                            Ratio.of(value, found["dense"]),
                            "x dense",
                            bound=BOUND if same else None,
                            compared=same,
                        )
                    )
            if "int8" in found:
                ratio = Ratio.of(found["int8"], found["compiled"])
                figures.append(
                    Figure.ratio(f"{network} batch {size} int8 to compiled", ratio, "x compiled", compared=False)
                )
    details = {"stem": "half", "ring": SMALL, "rank": RANK, "precision": "fp32", "int8": available()}
    return Result(tuple(figures), times, details)


def _resnet(settings: Settings) -> dict[str, Network]:
    dense = resnet("half", settings.device).eval()
    shared = share(resnet("half", settings.device), "rpg_global", SMALL).eval()
    found: dict[str, Network] = {
        "dense": dense,
        "materialised": in_format(materialize(shared), torch.channels_last),
        "shared": shared,
    }
    if settings.device.type == "cpu":
        plain = materialize(share(resnet("half", settings.device, direct=True), "rpg_global", SMALL)).eval()
        found["compiled"] = compiled(plain)
        if available():
            images, _ = random_batch(64, settings.device)
            found["int8"] = quantised_network(plain, [images])
    return found


def _deit(settings: Settings) -> dict[str, Network]:
    def network() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            backbone = BackboneConfig(name="deit_tiny_patch16_224", patch_size=8)
            return create_backbone(backbone, classes=CLASSES, channels=3, image_size=IMAGE_SIZE).to(settings.device)

    shared = share(network(), "lors", rank=RANK).eval()
    return {"dense": network().eval(), "lors folded": materialize(shared).eval(), "lors not folded": shared}


def _pass(network: Network, images: Tensor) -> Contestant:
    @torch.no_grad()
    def forward() -> None:
        network(images)

    return forward
