"""One network in a process of its own: prints the peak of its training step in bytes."""

from __future__ import annotations

import gc
import io
from typing import Any

import torch

from rpg_bench.benchmarks.networks import random_batch, resnet, training_step
from rpg_bench.benchmarks.process import answer, peak, reset_peak, resident, table_bytes
from rpg_bench.sharing import share, sharing_of

STEPS = 3


def measure(stem: str, batch_size: int, device: str, dof: int | None = None, options: Any = None) -> dict[str, int]:
    """Train for a few steps; dense without `dof`.

    Returns:
        Bytes: peak_bytes, state_bytes (of the state_dict as torch.save writes it), and for a ring
        table_bytes; and slots, the number of weights that are generated.
    """
    on = torch.device(device)
    images, labels = random_batch(batch_size, on)
    before = resident()
    network = resnet(stem, on)
    if dof is not None:
        share(network, "rpg_global", dof, **options)
    step = training_step(network, images, labels)
    gc.collect()
    reset_peak()
    if on.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(STEPS):
        step()
    found = torch.cuda.max_memory_allocated() if on.type == "cuda" else peak() - before
    state = io.BytesIO()
    torch.save(network.state_dict(), state)
    tables = {} if dof is None else {"table_bytes": table_bytes(sharing_of(network)), "slots": slots(network)}
    return {"peak_bytes": found, "state_bytes": state.tell(), **tables}


def slots(network: torch.nn.Module) -> int:
    """D, the number of weights that are generated."""
    return sharing_of(network).plan.total


if __name__ == "__main__":
    answer(measure)
