"""`small_maps`: convolutions over small maps on a CPU, as matrix products against direct kernels."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from rpg_bench.benchmarks.networks import autocast, in_format
from rpg_bench.benchmarks.result import HIGHER, Figure, Result, Settings
from rpg_bench.benchmarks.timing import Contestant, Ratio, Times, in_turn
from rpg_bench.small_maps import use_matrix_products

TITLE = "Convolutions of ResNet18's last stages on a CPU"
BATCH_SIZE = 128
# Channels in and out, kernel, stride, side of the input.
LAYERS = ((256, 256, 3, 1, 4), (256, 512, 3, 2, 8), (256, 512, 1, 2, 8), (512, 512, 3, 1, 4), (512, 512, 3, 1, 2))


def run(settings: Settings) -> Result:
    """Time forward and backward of each layer, in bfloat16."""
    figures: list[Figure] = []
    times: dict[str, Times] = {}
    for channels, out, kernel, stride, side in LAYERS if settings.device.type == "cpu" else ():
        name = f"{channels} to {out} channels, kernel {kernel}, stride {stride}, map {side}x{side}"
        torch.manual_seed(0)
        layer = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
        direct = in_format(layer, torch.channels_last)
        product = nn.Sequential(copy.deepcopy(direct))
        use_matrix_products(product)
        images = torch.randn(BATCH_SIZE, channels, side, side).to(memory_format=torch.channels_last)
        contestants = {"direct": _round_trip(direct, images), "product": _round_trip(product, images)}
        found = in_turn(contestants, settings.device, rounds=settings.rounds(15, 5))
        times |= {f"{name}: {kind}": value for kind, value in found.items()}
        ratio = Ratio.of(found["direct"], found["product"])
        figures.append(Figure.ratio(f"{name}: direct", ratio, "x the product", better=HIGHER))
    return Result(tuple(figures), times, {"batch_size": BATCH_SIZE, "precision": "bf16"})


def _round_trip(layer: nn.Module, images: Tensor) -> Contestant:
    images = images.clone().requires_grad_()

    def round_trip() -> None:
        with autocast(images.device):
            output = layer(images)
        output.backward(torch.ones_like(output))
        images.grad = None
        layer.zero_grad(set_to_none=True)

    return round_trip
