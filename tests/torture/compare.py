"""Two finished runs, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from rpg_bench import checkpoint
from torture.damage import newest_first, run_directory

# All that may differ between two runs of the same training: times, starts, and where it ran. The source tree may
# change while the harness runs for half an hour.
TIMES = {"train_seconds", "session_seconds", "seconds", "images_per_second", "finished_at"}
ELSEWHERE = {"starts", "peak_memory_bytes", "hardware", "git", "tracking_id"}
# Settings that the hash of a run leaves out.
SETTINGS = {"config.checkpoint_seconds", "config.tracking"}


def differences(expected: Path, found: Path) -> list[str]:
    """The names of all values that differ in record and final checkpoint of the one run below each folder."""
    return [
        *_differing(_record(expected), _record(found), "record"),
        *_differing(_final(expected), _final(found), "checkpoint"),
    ]


def _record(folder: Path) -> dict[str, Any]:
    (path,) = (folder / "results" / "records").glob("*.json")
    record: dict[str, Any] = json.loads(path.read_bytes())
    return record


def _final(folder: Path) -> dict[str, Any]:
    directory = run_directory(folder)
    assert directory is not None
    return checkpoint.load(newest_first(directory)[0])


def _differing(first: Any, second: Any, where: str) -> Iterator[str]:
    if isinstance(first, dict) and isinstance(second, dict):
        for key in first.keys() | second.keys():
            path = f"{where}.{key}"
            if key in TIMES | ELSEWHERE or path.partition(".")[2] in SETTINGS:
                continue
            if key not in first or key not in second:
                yield path
            else:
                yield from _differing(first[key], second[key], path)
    elif isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        if first.dtype != second.dtype or not torch.equal(first, second):
            yield where
    elif isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        if len(first) != len(second):
            yield where
        else:
            for number, (one, other) in enumerate(zip(first, second, strict=True)):
                yield from _differing(one, other, f"{where}[{number}]")
    elif type(first) is not type(second) or first != second:
        yield where
