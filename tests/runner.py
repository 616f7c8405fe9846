"""Starts small trainings: in this process where that is enough, else as the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from rpg_bench import checkpoint
from rpg_bench.command_line import register_schema
from rpg_bench.config import TrainConfig, config_directory, from_hydra
from rpg_bench.train import train

ROOT = Path(__file__).resolve().parents[1]

# 2 epochs of 8 steps on 287 images, about a second.
TINY = (
    "backbone=timm",
    "backbone.name=test_resnet",
    "dof=5k",
    "dataset.subset=0.2",
    "dataset.image_size=8",
    "recipe.epochs=2",
    "recipe.batch_size=32",
    "tracking=disabled",
    "device=cpu",
)
# What differs between two runs of the same training.
TIMINGS = ("seconds", "images_per_second")


def composed(*overrides: str) -> DictConfig:
    """What Hydra hands to the command for these arguments."""
    register_schema()
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        return compose("train", list(overrides))


def configured(*overrides: str) -> TrainConfig:
    return from_hydra(composed(*overrides))


def train_tiny(*overrides: str) -> float:
    """Train in this process, relative to its working directory."""
    return train(composed(*TINY, *overrides))


def start(
    arguments: Sequence[str], directory: Path, *launcher: str, **environment: str | None
) -> subprocess.Popen[str]:
    """Start the command in `directory`. A variable that is None is taken out of its environment."""
    given = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "rpg_bench.train", *arguments],
        cwd=directory,
        env={name: value for name, value in given.items() if value is not None},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 120) -> tuple[int, str, str]:
    """Wait for the end; exit code, stdout, stderr. A process that hangs is killed."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out, err


def only_record(directory: Path) -> dict[str, Any]:
    """The one record below `directory`."""
    (path,) = (directory / "results" / "records").glob("*.json")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def untimed(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The history of a record without its timings."""
    return [{key: value for key, value in row.items() if key not in TIMINGS} for row in record["history"]]


def checkpoints(directory: Path) -> list[Path]:
    """Paths of all checkpoints below `directory`, the oldest first."""
    return sorted((directory / "runs").glob("*/checkpoint-*.pt"))


def final_state(directory: Path) -> dict[str, Any]:
    """The newest checkpoint below `directory`."""
    return checkpoint.load(checkpoints(directory)[-1])


def assert_same(first: Any, second: Any, where: str = "") -> None:
    """Nested containers of tensors and plain values are equal, bit for bit."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for number, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same(one, other, f"{where}[{number}]")
    else:
        assert first == second, where


def assert_same_result(first: Path, second: Path) -> None:
    """Both directories hold one finished run, with the same weights, optimizer and history."""
    assert untimed(only_record(first)) == untimed(only_record(second))
    assert only_record(first)["final"] == only_record(second)["final"]
    for part in ("model", "average", "optimizer"):
        assert_same(final_state(first)[part], final_state(second)[part], part)
