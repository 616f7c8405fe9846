"""`attention`: the attention of vision transformers on a CPU, written out against torch's fused kernel."""

from __future__ import annotations

import torch
from timm.layers import Attention
from torch import nn

from rpg_bench.attention import use_plain_attention
from rpg_bench.benchmarks.networks import autocast
from rpg_bench.benchmarks.result import HIGHER, Figure, Result, Settings
from rpg_bench.benchmarks.timing import Contestant, Ratio, Times, in_turn

TITLE = "Attention layers of vision transformers on a CPU"
# Images, tokens, width, heads: DeiT-Tiny at 32 pixels in patches of 8 and of 4, and DeiT-Tiny and DeiT-Base at 224.
LAYERS = ((128, 17, 192, 3), (128, 65, 192, 3), (32, 197, 192, 3), (16, 197, 768, 12))


def run(settings: Settings) -> Result:
    """Time forward and backward of each layer, in bfloat16."""
    figures: list[Figure] = []
    times: dict[str, Times] = {}
    for count, tokens, width, heads in LAYERS if settings.device.type == "cpu" else ():
        name = f"{count} images of {tokens} tokens, width {width}, {heads} heads"
        torch.manual_seed(0)
        fused, plain = Attention(width, heads), Attention(width, heads)
        use_plain_attention(plain)
        features = torch.randn(count, tokens, width)
        contestants = {"fused": _round_trip(fused, features), "plain": _round_trip(plain, features)}
        found = in_turn(contestants, settings.device, rounds=settings.rounds(15, 5))
        times |= {f"{name}: {kind}": value for kind, value in found.items()}
        figures.append(
            Figure.ratio(f"{name}: fused", Ratio.of(found["fused"], found["plain"]), "x plain", better=HIGHER)
        )
    return Result(tuple(figures), times, {"precision": "bf16"})


def _round_trip(layer: nn.Module, features: torch.Tensor) -> Contestant:
    features = features.clone().requires_grad_()

    def round_trip() -> None:
        with autocast(features.device):
            output = layer(features)
        output.backward(torch.ones_like(output))
        features.grad = None
        layer.zero_grad(set_to_none=True)

    return round_trip
