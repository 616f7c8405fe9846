"""What a run leaves beside its checkpoints for others to read: how far it is, and why it failed.

Small JSON files that are read without torch. Neither is needed to go on: where they cannot be written (a full disk),
training goes on without them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpg_bench.config import TrainConfig, without_paths
from rpg_bench.errors import InvalidInput
from rpg_bench.files import discard, write_aside
from rpg_bench.lease import Held, Lost
from rpg_bench.runs import RunFiles, run_hash
from rpg_bench.secrets import redacted

if TYPE_CHECKING:
    from rpg_bench.engine import Trainer

PROGRESS, FAILURE = "progress.json", "failure.json"
FORMAT = 1
LAST_LINES = 12  # of a trace


class Progress:
    """Tells of one run's progress, whenever `report` is called. Only the main process has one."""

    def __init__(self, config: TrainConfig, trainer: Trainer) -> None:
        """Say that the run begins: what it was left by an earlier failure is over."""
        files = RunFiles.of(config)
        self._trainer, self._path = trainer, files.directory / PROGRESS
        self._fixed = {
            "format": FORMAT,
            "run": run_hash(config),
            "sweep": config.sweep,
            "record": str(files.record.resolve()),
            "config": without_paths(dataclasses.asdict(config)),
            "host": platform.node(),
            "pid": os.getpid(),
            "since": utc(),
        }
        discard(files.directory / FAILURE)
        self.report()

    def report(self) -> None:
        """Write where the run is."""
        trainer, position = self._trainer, self._trainer.position
        step = {"step": position.step, "steps": trainer.steps}
        epoch = {"epoch": position.epoch, "epochs": trainer.config.recipe.epochs}
        seconds = {"updated": utc(), "train_seconds": round(position.train_seconds, 1)}
        metrics = position.history[-1] if position.history else None
        _write(self._path, {**self._fixed, **seconds, **step, **epoch, "metrics": metrics})


@contextlib.contextmanager
def failure_noted(config: TrainConfig, in_sweep: bool) -> Iterator[None]:
    """Within this block an exception is noted in the run's directory before it goes on its way.

    Not what ends a run in good order, and not bad input to a single run that has left nothing: who gave it reads the
    error, and nothing shall be left of it.
    """
    try:
        yield
    except (Held, Lost):
        raise
    except Exception as error:
        directory = RunFiles.of(config).directory
        if in_sweep or directory.is_dir() or not isinstance(error, InvalidInput):
            note_failure(directory, error)
        raise


def note_failure(directory: Path, error: Exception) -> None:
    """Write why a run ended. No environment, no values of variables; what is secret is hidden."""
    trace = "".join(traceback.format_exception(error)).splitlines()
    _write(
        directory / FAILURE,
        {
            "format": FORMAT,
            "at": utc(),
            "host": platform.node(),
            "pid": os.getpid(),
            "rank": int(os.environ.get("RANK", "0")),
            "kind": type(error).__name__,
            "message": redacted(" ".join(str(error).split())),
            "last_lines": [redacted(line) for line in trace[-LAST_LINES:]],
        },
    )


def read(directory: Path, name: str) -> dict[str, Any] | None:
    """What `PROGRESS` or `FAILURE` says; None if there is none that can be read."""
    try:
        values: Any = json.loads((directory / name).read_bytes())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) and values.get("format") == FORMAT else None


def utc(seconds: float | None = None) -> str:
    """The time, or that of seconds since the epoch, as records state it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _write(path: Path, values: Mapping[str, Any]) -> None:
    content = json.dumps(values, indent=1) + "\n"
    with contextlib.suppress(OSError):
        write_aside(path, content.encode(), durable=False)
