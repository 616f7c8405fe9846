"""Weights & Biases, through its own client. Tracking may fail; training does not."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpg_bench.config import TrackingConfig, TrainConfig
from rpg_bench.runs import run_hash
from rpg_bench.secrets import redacted
from rpg_bench.sharing import DofReport

if TYPE_CHECKING:
    from rpg_bench.engine import Trainer

Say = Callable[[str], None]
BEGINNING = 60.0  # seconds in which the server must have answered
FINISHING = 30.0  # seconds in which it must have taken what is left, after which `wandb sync` can send it


def tracker(config: TrainConfig, trainer: Trainer, report: DofReport, say: Say | None) -> Tracker:
    """Describe a run to be tracked, or to be tracked further under the id that its checkpoint has."""
    if trainer.tracking_id is None:
        trainer.tracking_id = secrets.token_hex(4)
    dof = format_dof(report.dof)
    return Tracker(
        config.tracking,
        trainer.directory,
        trainer.tracking_id,
        say,
        config={**dataclasses.asdict(config), "hash": run_hash(config), "dof_report": report.to_dict()},
        group=config.tracking.group or config.sweep,
        name=config.tracking.name
        or f"{config.sharing.name} {config.backbone.name} {config.dataset.name} {dof} seed {config.seed}",
        tags=[*config.tracking.tags, config.sharing.name, config.backbone.name, config.recipe.name],
    )


def format_dof(dof: int) -> str:
    """Shorten a number of DoF for a name.

    >>> [format_dof(n) for n in (800, 36_000, 36_864, 2_359_296)]
    ['800', '36k', '36.9k', '2.36M']
    """
    for size, suffix in ((10**6, "M"), (10**3, "k")):
        if dof >= size:
            return f"{dof / size:.3g}{suffix}"
    return str(dof)


class Tracker:
    """One W&B run, continued under the same id when training is resumed."""

    def __init__(self, tracking: TrackingConfig, directory: Path, run_id: str, say: Say | None, **details: Any) -> None:
        """Describe the run `run_id`; without `say` nothing is tracked (not the main process).

        Args:
            tracking: mode, project and so on.
            directory: where an offline run's files go.
            run_id: W&B's own id, the same after every resume.
            say: where a failure is reported, once.
            details: passed on to `wandb.init` (config, group, name, tags).
        """
        self._say = say
        self._run: Any = None
        self.location: str | None = None  # its address, or the folder of an offline run
        self._begin: Callable[[], None] | None = None
        if tracking.mode != "disabled" and say is not None:
            self._begin = lambda: self._start(tracking, directory, run_id, details)

    def begin(self) -> None:
        """Start or continue the run, once. Takes seconds: called when training is seen to work."""
        begin, self._begin = self._begin, None
        if begin is not None:
            begin()

    def _start(self, tracking: TrackingConfig, directory: Path, run_id: str, details: dict[str, Any]) -> None:
        with self._safely("start"):
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
            import wandb  # only when it is used

            logging.getLogger("wandb").setLevel(logging.ERROR)
            directory.mkdir(parents=True, exist_ok=True)
            bounded = {"finish_timeout": FINISHING, "finish_timeout_raises": True}  # else it waits for ever
            self._run = wandb.init(
                mode=tracking.mode,  # type: ignore[arg-type]  # checked in config
                project=tracking.project,
                entity=tracking.entity,
                dir=str(directory.resolve()),  # W&B's process may have been started elsewhere
                id=run_id,
                resume="allow" if tracking.mode == "online" else None,
                settings=wandb.Settings(silent=True, init_timeout=BEGINNING, x_disable_stats=True, **bounded),
                **details,
            )
            online = tracking.mode == "online"
            self.location = str(self._run.url if online else Path(self._run.dir).parent)

    def log(self, metrics: Mapping[str, Any], epoch: int) -> None:
        """Add one epoch to the history."""
        self.begin()
        if self._run is not None:
            with self._safely("log"):
                self._run.log(dict(metrics), step=epoch)

    def finish(self, summary: Mapping[str, Any] | None = None, exit_code: int = 0) -> None:
        """Close the run; an interrupted one is closed without a summary."""
        if self._run is not None:
            with self._safely("finish"):
                self._run.summary.update(dict(summary or {}))
                self._run.finish(exit_code=exit_code)
            self._run = None

    @contextlib.contextmanager
    def _safely(self, verb: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is, it is no reason to lose a run
            self._run = None
            assert self._say is not None
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self._say(f"tracking: W&B could not {verb} ({redacted(reason)}); training goes on without it")
