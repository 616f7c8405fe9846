"""Removes what no finished record needs. Never a record, a run that is held, or work that can be continued.

Of a finished run are kept: its final and best checkpoint, its progress, and its W&B files unless these were synced.
Of one that is not finished: all, if a sweep asked for it, or if it has a checkpoint that was touched in the last days.
What Slurm jobs left goes too, days after they have ended.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rpg_bench.errors import InvalidInput
from rpg_bench.lease import NAME as LEASE
from rpg_bench.lease import Held, Lease, holder_of
from rpg_bench.progress import PROGRESS, read
from rpg_bench.sweeps import job_files
from rpg_bench.sweeps.plan import FOLDER, read_plans
from rpg_bench.sweeps.states import RUN_NAME, bytes_below
from rpg_bench.sweeps.survey import Places

KEEPS = ("best", "final", "none")  # of a finished run's checkpoints: final and best, the final one, or none
DAYS = 7.0  # without a touch, after which a run that no sweep asked for is taken to be forgotten
_OLD = 3600.0  # seconds after which a part of a file is nobody's any more


@dataclass(frozen=True)
class Item:
    """A file or folder that can go."""

    path: Path
    why: str
    run: Path  # the directory of its run

    @property
    def bytes(self) -> int:
        try:
            return bytes_below(self.path) if self.path.is_dir() else self.path.lstat().st_size
        except OSError:
            return 0


@dataclass(frozen=True)
class Removal:
    """What can go, and what is left alone as somebody trains it."""

    items: tuple[Item, ...]
    held: tuple[str, ...]  # a line for each

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.items)


def removable(places: Places, keep: str = "best", days: float = DAYS) -> Removal:
    """What can go below the folder of runs. Looks only; what is no directory of a run is passed over."""
    known = {one.run for plan in read_plans(places.runs) for one in plan.runs}
    items: list[Item] = []
    held: list[str] = []
    for directory in _directories(places.runs):
        holder = holder_of(directory)
        if holder is not None:
            held.append(f"run {directory.name} is being trained by process {holder.pid} on {holder.host}")
            continue
        items += _items(directory, places, keep, days, known)
    items += [Item(path, why, path.parent) for path, why in job_files.removable(places.runs, days)]
    for path in (places.runs / FOLDER).glob(".*.part"):
        items += [Item(path, "half written", places.runs / FOLDER)] if _age(path) > _OLD else []
    return Removal(tuple(items), tuple(held))


def remove(removal: Removal, places: Places, keep: str, days: float) -> list[str]:
    """Remove it, run by run, each with its lease held, and only what can still go; returns what could not be, a line
    each."""
    problems: list[str] = []
    known = {one.run for plan in read_plans(places.runs) for one in plan.runs}
    for directory in dict.fromkeys(item.run for item in removal.items):
        wanted = {item.path for item in removal.items if item.run == directory}
        try:
            if not RUN_NAME.fullmatch(directory.name):
                _remove(wanted)
                continue
            now = {item.path for item in _items(directory, places, keep, days, known)} & wanted
            before = _content(directory)
            with Lease(directory):
                if _content(directory) != before:
                    problems.append(f"run {directory.name} has changed meanwhile")
                    continue
                whole = directory in now
                # The lease is ours now, and goes with the block.
                _remove(path for path in (directory.iterdir() if whole else now) if path.name != LEASE)
            if whole:
                directory.rmdir()  # not if anything has come into it since
        except (Held, InvalidInput) as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{error.filename}: {error.strerror}")
    return problems


def _items(directory: Path, places: Places, keep: str, days: float, known: Collection[str]) -> list[Item]:
    checkpoints = sorted(directory.glob("checkpoint-*.pt"))
    record = _record(directory, places)
    finished = record is not None and record.get("status") == "finished"
    if record is None and directory.name not in known:
        if not checkpoints:
            if _age(directory) > _OLD:
                return [Item(directory, "half begun, with no checkpoint and no record", directory)]
        elif min(_age(path) for path in checkpoints) > days * 86400:
            why = f"no record, asked for by no sweep, untouched for {days:g} days"
            return [Item(directory, why, directory)]
    items = [Item(path, "half written", directory) for path in _parts(directory) if _age(path) > _OLD]
    if (directory / LEASE).exists():
        items.append(Item(directory / LEASE, "left by a process that is gone", directory))
    if finished and record is not None:
        kept = _kept(checkpoints, record, keep)
        items += [
            Item(path, "not the final or best of a finished run", directory) for path in checkpoints if path not in kept
        ]
    return items + [Item(path, "synced to Weights & Biases", directory) for path in _synced(directory)]


def _kept(checkpoints: list[Path], record: dict[str, object], keep: str) -> set[Path]:
    if keep == "none" or not checkpoints:
        return set()
    kept = {checkpoints[-1]}
    best, steps, history = record.get("best"), record.get("steps"), record.get("history")
    if keep == "best" and isinstance(best, dict) and isinstance(steps, int) and isinstance(history, list):
        step = steps * int(best["epoch"]) // max(1, len(history))
        kept.add(checkpoints[-1].with_name(f"checkpoint-{step:08d}.pt"))
    return kept


def _record(directory: Path, places: Places) -> dict[str, object] | None:
    """The record of a run, wherever it lies; an unreadable one counts as one that is not finished."""
    progress = read(directory, PROGRESS)
    paths = [places.results / "records" / f"{directory.name}.json"]
    paths += [Path(progress["record"])] if progress else []
    for path in paths:
        try:
            values = json.loads(path.read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}
    return None


def _directories(runs: Path) -> Iterator[Path]:
    for path in sorted(runs.iterdir()) if runs.is_dir() else []:
        if RUN_NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            yield path


def _content(directory: Path) -> dict[str, int]:
    """What lies there, with the times of change, but for its lease."""
    return {path.name: path.lstat().st_mtime_ns for path in directory.iterdir() if LEASE not in path.name}


def _parts(directory: Path) -> Iterable[Path]:
    return [path for pattern in (".*.part", ".clock-*", f".{LEASE}.*") for path in directory.glob(pattern)]


def _synced(directory: Path) -> Iterator[Path]:
    """Offline runs that `wandb sync` has marked as sent."""
    for folder in directory.glob("wandb/offline-run-*"):
        if any(folder.glob("run-*.wandb.synced")) and not folder.is_symlink():
            yield folder


def _age(path: Path) -> float:
    """Seconds since it was changed; 0 where that cannot be seen."""
    try:
        return time.time() - path.lstat().st_mtime
    except OSError:
        return 0.0


def _remove(paths: Iterable[Path]) -> None:
    for path in sorted(paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
