"""A plain training loop in a process of its own, with torch and the allocator as they come.

Trains for one epoch each time it reads a line, and answers with one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from rpg_bench.benchmarks.networks import resnet
from rpg_bench.benchmarks.trainers import plain_loop
from rpg_bench.benchmarks.yardstick import share_layer_by_layer


def serve(stem: str, batch_size: int, steps: int, device: str, dof: int | None, directory: str) -> None:
    """An epoch of `steps` steps for each line; through one ring, layer by layer, unless `dof` is None."""
    on = torch.device(device)
    network = resnet(stem, on, direct=True)
    if dof is not None:
        share_layer_by_layer(network, dof)
    epoch = plain_loop(network, batch_size, steps, on, Path(directory))
    for _ in sys.stdin:
        epoch()
        print("done", flush=True)


if __name__ == "__main__":
    serve(**json.loads(sys.argv[1]))
