"""`memory`: the peak of a training step, fixed tables, and checkpoints, shared against dense.

On a CPU each network trains in a process of its own, and the peak of its resident memory is counted
from before the network was built: oneDNN's buffers and what the allocator keeps are in it. On CUDA
it is the allocator's own peak.
"""

from __future__ import annotations

from typing import Any

from rpg_bench.benchmarks.networks import BUDGETS, RING_OPTIONS
from rpg_bench.benchmarks.process import in_a_process
from rpg_bench.benchmarks.result import Figure, Result, Settings

TITLE = "Memory of ResNet18 through one ring"
PEAK_BOUND = 1.10  # times dense, at most
TABLE_BOUND = 4.005  # bytes of fixed tables per weight, at most: 4 of index, and what says where its parts begin


def run(settings: Settings) -> Result:
    """Train each for a few steps in a process of its own."""
    stem, batch_size = ("half", 16) if settings.short else ("cifar", 128)
    common = {"stem": stem, "batch_size": batch_size, "device": settings.device.type}
    variants: dict[str, dict[str, Any]] = {"dense": {}}
    for budget, dof in list(BUDGETS.items())[: 1 if settings.short else None]:
        for name, options in {"": {}}.items() if settings.short else RING_OPTIONS.items():
            variants[f"rpg_global {budget}{name}"] = {"dof": dof, "options": options}
    found = {name: in_a_process("memory_child", {**common, **variant}) for name, variant in variants.items()}
    dense = found.pop("dense")
    figures: list[Figure] = []
    for name, measured in found.items():
        bound = None if settings.short else PEAK_BOUND
        ratio = measured["peak_bytes"] / dense["peak_bytes"]
        figures += [
            Figure(f"{name}: peak of a training step", ratio, "x dense", bound=bound),
            Figure(
                f"{name}: fixed tables", measured["table_bytes"] / measured["slots"], "bytes per weight", TABLE_BOUND
            ),
            Figure(
                f"{name}: checkpoint", measured["state_bytes"] / dense["state_bytes"], "x dense", compared=not bound
            ),
        ]
    return Result(tuple(figures), details={**common, "network": "resnet18", "dense": dense, **found})
