"""The records of finished runs: what tables are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rpg_bench.errors import InvalidInput
from rpg_bench.finished import FORMAT
from rpg_bench.report import record_shape
from rpg_bench.report.compressions import Compression, read_compressions, read_deployed
from rpg_bench.runs import hash_of


@dataclass(frozen=True)
class Record:
    """One finished run from a clean commit, as its file has it."""

    values: dict[str, Any]

    @property
    def name(self) -> str:
        """The run's hash."""
        return str(self.values["hash"])

    @property
    def seed(self) -> int:
        return int(self.values["seed"])

    @property
    def finished_at(self) -> str:
        """UTC, in an order that is the time's."""
        return str(self.values.get("finished_at", ""))

    @property
    def top1(self) -> float:
        """Final top-1 on the evaluation images, percent."""
        return float(self.values["final"]["test_top1"])

    @property
    def curve(self) -> list[float]:
        """Top-1 on the evaluation images after each epoch, percent."""
        return [float(epoch["test_top1"]) for epoch in self.values["history"]]

    @property
    def generalisation(self) -> dict[str, Any]:
        """What was measured besides the test images (`rpg_bench/generalisation.py`); often nothing."""
        return dict(self.values.get("generalisation", {}))

    @property
    def dof(self) -> int:
        """Achieved degrees of freedom."""
        return int(self.values["dof"]["dof"])

    @property
    def total(self) -> int:
        """What the optimizer trained."""
        return int(self.values["dof"]["total"])

    @property
    def slot_scalars(self) -> int:
        """D of the full network."""
        return int(self.values["dof"]["slot_scalars"])


@dataclass(frozen=True)
class Records:
    """The evidence below one folder, by hash, and what is none."""

    found: dict[str, Record]
    left_out: tuple[str, ...]  # one line for each file that is not evidence
    damaged: tuple[str, ...]  # one line for each file that is no record
    compressions: tuple[Compression, ...] = ()  # files made of these runs
    deployed: Mapping[str, float] = field(default_factory=dict)  # what `benchmarks deployed` found: figures by name

    @property
    def seeds(self) -> list[int]:
        return sorted({record.seed for record in self.found.values()})


def read_records(results: Path, *, evidence: bool = True) -> Records:
    """Read `results/records/HASH.json` and `HASH-anything.json`, in the order of their names.

    Evidence is what was run from a clean commit; a demonstration may be of any code, as of one that somebody changes
    or downloaded without its history.

    Of several finished runs of one hash, as from two machines, the one that finished last counts.

    Raises:
        InvalidInput: there is no such folder.
    """
    folder = results / "records"
    if not folder.is_dir():
        raise InvalidInput(f"results: {folder} is no folder; records are written by python -m rpg_bench.train")
    found: dict[str, tuple[Path, Record]] = {}
    left_out: list[str] = []
    damaged: list[str] = []
    for path in sorted(folder.glob("*.json")):
        values, problem = _read(path)
        if problem:
            damaged.append(f"{path.name}: {problem}")
        elif values["status"] != "finished":
            left_out.append(f"{path.name}: the run {values['status']}")
        elif evidence and (values.get("git") or {"dirty": True})["dirty"]:
            left_out.append(f"{path.name}: not made from a clean commit")
        else:
            new = (path, Record(values))
            pair = sorted((found.get(values["hash"], new), new), key=lambda item: item[1].finished_at)
            found[values["hash"]] = pair[1]
            if pair[0][0] != pair[1][0]:
                left_out.append(f"{pair[0][0].name}: {pair[1][0].name} is of the same run and finished later")
    runs = {name: record for name, (_, record) in found.items()}
    compressions, not_used = read_compressions(results, runs)
    return Records(runs, (*left_out, *not_used), tuple(damaged), compressions, read_deployed(results))


def _read(path: Path) -> tuple[dict[str, Any], str]:
    try:
        values: Any = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        return {}, f"cannot be read ({' '.join(str(error).split())})"
    if not isinstance(values, dict) or "format" not in values:
        return {}, f"is not a record of format {FORMAT}"
    if values["format"] != FORMAT:
        return {}, f"is a record of format {values['format']!r}; this version reads format {FORMAT}"
    if values.get("hash") != path.stem.partition("-")[0]:
        return {}, f"says that it is {values.get('hash')}"
    return values, record_shape.problem(values) or _contradiction(values)


def _contradiction(values: dict[str, Any]) -> str:
    """What in a whole record does not fit together: it was changed after the run; empty if all does."""
    try:
        if hash_of(values["config"]) != values["hash"] or values["config"]["seed"] != values["seed"]:
            return "its configuration is not that of its hash"
        if values["status"] == "finished":
            last = values["history"][-1]
            if values["final"]["test_top1"] != last["test_top1"]:
                return f"its final top-1 is not that of its last epoch, {last['test_top1']}"
            if len(values["history"]) != values["config"]["recipe"]["epochs"]:
                return f"its history has {len(values['history'])} of {values['config']['recipe']['epochs']} epochs"
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        return f"is not as a run leaves it ({type(error).__name__}: {error})"
    return ""
