"""`setup`: seconds and memory of `share`, and seconds from the command to the first training step."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from typing import Any

import torch
from torch import nn

from rpg_bench.benchmarks.networks import LARGE, RING_OPTIONS, SMALL, resnet
from rpg_bench.benchmarks.process import environment, in_a_process
from rpg_bench.benchmarks.result import Figure, Result, Settings
from rpg_bench.benchmarks.timing import Contestant, Ratio, Times, in_turn
from rpg_bench.errors import Failed
from rpg_bench.sharing import share, sharing_of

TITLE = "Seconds before training"
SHARE_BOUNDS = {"resnet18": 0.5, "vit_base_patch16_224": 4.0, "vit_huge_patch14_224": 40.0}  # seconds
LARGEST_PEAK = 8.0  # GiB of the whole process while the largest of them is shared
FIRST_STEP_BOUND = 6.0  # seconds
COMMAND = ("-m", "rpg_bench.train", "backbone=resnet18", "sharing=rpg_global", "dof=36k", "device=cpu")
IMPORTS = ("-c", "import torch, timm")


def run(settings: Settings) -> Result:
    """`share` against building the network; in the long form large networks and the whole command too."""
    figures, times = _against_building(settings)
    details: dict[str, Any] = {}
    if not settings.short:
        details = _large_networks(figures)
        times |= _first_step(figures)
    return Result(tuple(figures), times, details)


def _against_building(settings: Settings) -> tuple[list[Figure], dict[str, Times]]:
    networks: list[nn.Module] = []

    def build() -> None:
        networks[:] = [resnet("half", settings.device)]

    def put() -> None:
        share(networks[0], "rpg_global", SMALL)
        with torch.no_grad():
            sharing_of(networks[0]).produce()

    name = "share resnet18 36k and first unpacking"
    contestants: dict[str, Contestant] = {"build resnet18": build, name: put}
    times = in_turn(contestants, settings.device, rounds=settings.rounds(7, 5))
    return [Figure.ratio(name, Ratio.of(times[name], times["build resnet18"]), "x building it")], times


def _large_networks(figures: list[Figure]) -> dict[str, Any]:
    details = {}
    for model, bound in SHARE_BOUNDS.items():
        for suffix, options in RING_OPTIONS.items():
            name = f"share {model} 2.36M{suffix}"
            found = in_a_process("setup_child", {"model": model, "dof": LARGE, "options": options})
            details[name] = found
            # The bounds are on both together: the tables are made when they are first used.
            seconds, peak = found["first_seconds"], found["first_peak_bytes"] / 2**30
            limit = LARGEST_PEAK if model == list(SHARE_BOUNDS)[-1] else None
            figures += [
                Figure(f"{name} alone", found["seconds"], "s", compared=False),
                Figure(f"{name} and first unpacking", seconds, "s", bound, compared=False),
                Figure(f"{name}: peak", found["peak_bytes"] / 2**30, "GiB of the process", limit, compared=False),
                Figure(f"{name} and first unpacking: peak", peak, "GiB of the process", compared=False),
            ]
    return details


def _first_step(figures: list[Figure]) -> dict[str, Times]:
    found: dict[str, list[float]] = {"command to first step on digits": [], "imports alone": []}
    for _ in range(4):
        found["command to first step on digits"].append(seconds_until("step 1/", COMMAND))
        found["imports alone"].append(seconds_until("", IMPORTS))
    # The first round reads the files of the packages from the disk.
    command, imports = (Times(tuple(values[1:])) for values in found.values())
    name = "command to first step on digits"
    figures.append(
        Figure(name, command.median, "s", FIRST_STEP_BOUND, best=command.minimum, spread=command.spread, compared=False)
    )
    figures.append(Figure.ratio(f"{name}, against imports", Ratio.of(command, imports), "x importing torch and timm"))
    return {name: command, "imports alone": imports}


def seconds_until(beginning: str, arguments: tuple[str, ...]) -> float:
    """Start Python so in an empty folder; seconds until a line of its output begins so, or, if empty, until its end.

    Raises:
        Failed: it ended before.
    """
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-u", *arguments], cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        with process:
            seen = any(line.startswith(beginning) for line in process.stdout) if beginning else process.wait() == 0
            seconds = time.perf_counter() - started
            process.kill()
        if not seen:
            raise Failed(f"{' '.join(arguments)}: ended without a line {beginning!r}")
        return seconds
