"""`share` on one network in a process of its own: prints seconds and the peak of memory."""

from __future__ import annotations

import gc
import time
from typing import Any

import timm
import torch
from torch import nn

from rpg_bench.benchmarks.process import answer, peak, reset_peak, resident
from rpg_bench.sharing import share, sharing_of

REPEATED_BELOW = 50_000_000  # weights: smaller networks are shared three times, and the fastest counts


def build(name: str) -> nn.Module:
    """A network of timm with weights of noise at the usual scale.

    timm's own initialisers take longer than `share` on a large network, and are not what is measured.
    """
    with torch.device("meta"):
        network: nn.Module = timm.create_model(name)
    network.to_empty(device="cpu")
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.02)
    return network


def measure(model: str, dof: int, options: dict[str, Any]) -> dict[str, float]:
    """Share it.

    Returns:
        seconds of `share`; first_seconds of `share` and unpacking once, which makes the tables;
        before_bytes, peak_bytes and first_peak_bytes of this process before and during these; slots.
    """
    found: list[dict[str, float]] = []
    while True:
        network = build(model)
        gc.collect()
        before = resident()
        reset_peak()
        started = time.perf_counter()
        share(network, "rpg_global", dof, **options)
        seconds, most = time.perf_counter() - started, peak()
        sharing = sharing_of(network)
        with torch.no_grad():
            sharing.produce()
        found.append(
            {
                "seconds": seconds,
                "first_seconds": time.perf_counter() - started,
                "before_bytes": before,
                "peak_bytes": most,
                "first_peak_bytes": peak(),
                "slots": sharing.plan.total,
            }
        )
        if sharing.plan.total >= REPEATED_BELOW or len(found) == 3:
            return min(found, key=lambda each: each["first_seconds"])


if __name__ == "__main__":
    answer(measure)
