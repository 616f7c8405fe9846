"""One ring over a stack of linear layers in a process of its own: prints its costs."""

from __future__ import annotations

import gc
import math
import time
from typing import Any

import torch
from torch import nn

from rpg_bench.benchmarks.process import answer, peak, reset_peak, resident, table_bytes
from rpg_bench.benchmarks.timing import in_turn
from rpg_bench.sharing import share, sharing_of

LAYERS = 16


def build(size: int, device: torch.device) -> nn.Module:
    """Square linear layers with about `size` weights in all, and a small head."""
    width = max(16, 16 * round(math.sqrt(size / LAYERS) / 16))
    with torch.device("meta"):
        stack = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(LAYERS)), nn.Linear(width, 1))
    stack.to_empty(device=device)
    for parameter in stack.parameters():
        nn.init.normal_(parameter, std=0.02)
    return stack


def measure(size: int, dof: int, device: str) -> dict[str, Any]:
    """Share it and unpack it, forward and backward.

    Returns:
        weights, dof; share_seconds of `share` and the first unpacking, which makes the tables;
        unpack_seconds of unpacking forward and backward; share_peak_bytes, what the process had at
        most in `share` above what it had before, with the dense weights; table_bytes; and
        state_bytes of the ring's part of a checkpoint.
    """
    on = torch.device(device)
    network = build(size, on)
    gc.collect()
    before = resident()
    reset_peak()
    started = time.perf_counter()
    slots = sum(layer.weight.numel() for layer in list(network.children())[:LAYERS])  # type: ignore[misc,operator]
    share(network, "rpg_global", min(dof, slots))
    share_peak = peak() - before
    sharing = sharing_of(network)
    with torch.no_grad():
        sharing.produce()
    seconds = time.perf_counter() - started
    gradients = [torch.full_like(slot, 1e-3) for slot in sharing.produce()]

    def unpack() -> None:
        torch.autograd.backward(list(sharing.produce()), gradients)
        sharing.zero_grad(set_to_none=True)

    unpacking = in_turn({"unpack": unpack}, on, rounds=3, warmup=1)["unpack"]
    return {
        "weights": sharing.plan.total,
        "dof": sharing.plan.dof,
        "share_seconds": seconds,
        "share_peak_bytes": share_peak,
        "unpack_seconds": unpacking.minimum,
        "table_bytes": table_bytes(sharing),
        "state_bytes": sum(value.nbytes for value in sharing.state_dict().values()),
    }


if __name__ == "__main__":
    answer(measure)
