"""Attention of vision transformers on a CPU, as two products and a softmax.

In bfloat16 the backward pass of torch's fused attention took half of DeiT-Tiny's training step there; layers that write
it out, projections included, take a third to three quarters of the time (`python -m rpg_bench.benchmarks attention`;
results/benchmarks/attention.json). In float32 the fused one is as fast, and needs less memory.
"""

from __future__ import annotations

from torch import nn


def use_plain_attention(model: nn.Module) -> None:
    """Let timm's attention layers do without the fused kernel. In place.

    Parameters, their names and their start stay as they are; results agree up to rounding.
    """
    for module in model.modules():
        if getattr(module, "fused_attn", False) is True:
            module.fused_attn = False  # type: ignore[assignment]  # torch's hint says that attributes are modules
