"""`share` on one network in a process of its own: prints seconds and the peak of memory."""

from __future__ import annotations

import gc
import json
import sys
import time
from typing import Any

import timm
import torch
from torch import nn

from rpg_bench.benchmarks.process import peak, reset_peak, resident
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
        seconds; before_bytes and peak_bytes of this process, before and while it is shared; slots.
    """
    found: list[float] = []
    while True:
        network = build(model)
        gc.collect()
        before = resident()
        reset_peak()
        started = time.perf_counter()
        share(network, "rpg_global", dof, **options)
        found.append(time.perf_counter() - started)
        slots = sharing_of(network).plan.total
        if slots >= REPEATED_BELOW or len(found) == 3:
            return {"seconds": min(found), "before_bytes": before, "peak_bytes": peak(), "slots": slots}


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
