"""The state of each run, from what it left: record, lease, checkpoints, progress and failure."""

from __future__ import annotations

import calendar
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rpg_bench import slurm
from rpg_bench.config import EvaluationConfig
from rpg_bench.errors import InvalidInput
from rpg_bench.finished import lacks_evaluation, read_record
from rpg_bench.lease import NAME as LEASE
from rpg_bench.lease import Owner, holder_of, read_owner
from rpg_bench.progress import FAILURE, PROGRESS, read
from rpg_bench.report.records import Record
from rpg_bench.sweeps.past import Past
from rpg_bench.sweeps.plan import Asked

DONE = "done"  # its record is finished and holds all that is asked for
RUNNING = "running"  # a living process holds its lease
FAILED = "failed"  # it ended by an error, or its loss was not finite, or its configuration is refused
STOPPED = "stopped"  # it was left in good order with a checkpoint; the same command continues it
LOST = "lost"  # its process ended without a word (kill -9, a machine that stopped); the same command continues it
QUEUED = "queued"  # a job that is to train it is in Slurm's queue
MISSING = "missing"  # it has not begun, or nothing is left of it
STATES = (DONE, RUNNING, QUEUED, FAILED, STOPPED, LOST, MISSING)

DIVERGED = "Diverged"  # the kind of failure whose record says so

RUN_NAME = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class State:
    """What is known of one run."""

    asked: Asked
    state: str
    owner: Owner | None = None  # of the lease: who trains it, or of a lost run the one that did
    progress: Mapping[str, Any] | None = None
    failure: Mapping[str, Any] | None = None
    top1: float | None = None  # final, percent; of a run that is not done, none: the best epoch is no result
    seconds_left: float | None = None  # of training; None where no run of its kind is known, and of done and failed
    job: str | None = None  # of Slurm, that is queued for it
    bytes: int = 0  # on the disk, of its directory

    @property
    def name(self) -> str:
        """Its hash; of a run whose configuration is refused, dashes."""
        return self.asked.run or "-" * 12

    @property
    def resumable(self) -> bool:
        """Whether the same command continues it from a checkpoint. What has diverged begins again."""
        diverged = self.failure is not None and self.failure.get("kind") == DIVERGED
        return self.state not in (RUNNING, DONE) and not diverged and bool(_checkpoints(self.asked.directory))

    @property
    def why(self) -> str:
        """Why it failed, in one line."""
        if self.failure:
            return f"{self.failure['kind']}: {self.failure['message']}" if "kind" in self.failure else ""
        return self.asked.problem

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it (`command.py` documents it)."""
        progress, failure = self.progress or {}, self.failure or {}
        return {
            "run": self.asked.run or None,
            "state": self.state,
            "overrides": list(self.asked.overrides),
            "seed": self.asked.config.get("seed"),
            "top1": self.top1,
            "owner": {"host": self.owner.host, "pid": self.owner.pid, "since": progress.get("since")}
            if self.owner
            else None,
            "job": self.job,
            "progress": {key: progress.get(key) for key in _SHOWN} if progress else None,
            "seconds_left": None if self.seconds_left is None else round(self.seconds_left),
            "failure": {key: failure.get(key) for key in ("kind", "message", "at", "host", "last_lines")}
            if failure
            else {"kind": "InvalidInput", "message": self.asked.problem, "at": None, "host": None, "last_lines": []}
            if self.asked.problem
            else None,
            "resumable": self.resumable,
            "directory": str(self.asked.directory) if self.asked.run else None,
            "record": str(self.asked.record) if self.asked.run else None,
            "bytes": self.bytes,
        }


_SHOWN = ("epoch", "epochs", "step", "steps", "train_seconds", "updated", "metrics")


def state_of(asked: Asked, past: Past, found: Mapping[str, Record]) -> State:
    """Look at one run. `found`: the records by hash, for those that were brought here under another name."""
    if asked.problem:
        return State(asked, FAILED)
    directory = asked.directory
    progress, failure = read(directory, PROGRESS), read(directory, FAILURE)
    known = State(asked, MISSING, progress=progress, failure=failure, bytes=bytes_below(directory))
    left = past.seconds_left(asked.config, progress) if progress and asked.config else None
    if left is None and asked.config:
        left = past.seconds(asked.config)
    holder = holder_of(directory)
    if holder is not None:
        return replace(known, state=RUNNING, owner=holder, failure=None, seconds_left=_since(left, progress))
    record, problem = _record(asked.record)
    if problem:
        return replace(known, state=FAILED, failure=problem)
    if record is None and asked.run in found:
        record = found[asked.run].values
    if record is not None and record["status"] == "finished":
        evaluation = asked.config.get("evaluation")
        if not evaluation or not lacks_evaluation(record, EvaluationConfig(**evaluation)):
            top1 = float(record["final"]["test_top1"])
            return replace(known, state=DONE, top1=top1, failure=None)
        left = None  # it is trained; what is measured behind it takes minutes
    elif record is not None:
        message = {"kind": DIVERGED, "message": str(record.get("failure", ""))}
        return replace(known, state=FAILED, failure=failure or message)
    if failure is not None:
        return replace(known, state=FAILED)
    if (directory / LEASE).exists():
        return replace(known, state=LOST, owner=_former(directory), seconds_left=left)
    return replace(known, state=STOPPED if _checkpoints(directory) else MISSING, seconds_left=left)


def with_queued(states: Sequence[State]) -> tuple[State, ...]:
    """Those that nobody trains now, and that a Slurm job is to, are queued: failed ones too, if the job is a later one.
    Asks Slurm once, where there is one."""
    waiting = {
        number: note["job"]
        for number, one in enumerate(states)
        if (one.state in (STOPPED, LOST, MISSING) or (one.state == FAILED and _submitted_since(one.asked)))
        and (note := slurm.job_of(one.asked.directory))
    }
    queue = slurm.queued(waiting.values()) if waiting else None
    found = list(states)
    for number, job in waiting.items():
        if queue and job in queue:
            found[number] = replace(found[number], state=QUEUED, job=job, failure=None)
    return tuple(found)


def runs_below(runs_dir: Path, results: Path, asked: Mapping[str, Asked]) -> list[Asked]:
    """Every run that has a directory there; what asked for it is taken from `asked`, or from what it says itself."""
    found = []
    for path in sorted(runs_dir.iterdir()) if runs_dir.is_dir() else []:
        if RUN_NAME.fullmatch(path.name) and path.is_dir():
            found.append(asked.get(path.name) or _from_directory(path, results))
    return found


def label(config: Mapping[str, Any]) -> str:
    """What a run is, where its overrides are not known."""
    if not config:
        return ""
    dof = f" dof={config['dof']}" if config.get("dof") is not None else ""
    return (
        f"{config['sharing']['name']} {config['backbone']['name']} {config['dataset']['name']}{dof} "
        f"seed={config['seed']}"
    )


def bytes_below(directory: Path) -> int:
    """What the files of a directory take; what vanishes meanwhile takes nothing."""
    total = 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        total += bytes_below(Path(entry.path))
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
                except OSError:
                    continue
    except OSError:
        return total
    return total


def _from_directory(path: Path, results: Path) -> Asked:
    progress = read(path, PROGRESS)
    if progress is not None:
        return Asked(path.name, (), path, Path(progress["record"]), progress["config"])
    record = results / "records" / f"{path.name}.json"
    values, _ = _record(record)
    return Asked(path.name, (), path, record, (values or {}).get("config", {}))


def _record(path: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The record, and what is wrong with it."""
    try:
        return read_record(path), None
    except InvalidInput as error:
        return None, {"kind": "InvalidInput", "message": str(error)}


def _former(directory: Path) -> Owner | None:
    """Who held the lease that is left."""
    try:
        return read_owner(directory / LEASE)
    except OSError:
        return None


def _submitted_since(asked: Asked) -> bool:
    """Whether a job was submitted for the run after it had failed."""
    if not asked.run:
        return False
    try:
        return (asked.directory / slurm.NAME).stat().st_mtime_ns > (asked.directory / FAILURE).stat().st_mtime_ns
    except OSError:
        return False


def _checkpoints(directory: Path) -> Sequence[Path]:
    return sorted(directory.glob("checkpoint-*.pt"))


def _since(left: float | None, progress: Mapping[str, Any] | None) -> float | None:
    """Less what has passed since that was known."""
    if left is None or progress is None:
        return left
    try:
        updated = calendar.timegm(time.strptime(progress["updated"], "%Y-%m-%dT%H:%M:%SZ"))
    except (KeyError, ValueError):
        return left
    return max(0.0, left - max(0.0, time.time() - updated))
