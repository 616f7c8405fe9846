"""The records of finished runs: what tables are made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpg_bench.errors import InvalidInput

FORMAT = 1


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
    def top1(self) -> float:
        """Final top-1 on the evaluation images, percent."""
        return float(self.values["final"]["test_top1"])

    @property
    def curve(self) -> list[float]:
        """Top-1 on the evaluation images after each epoch, percent."""
        return [float(epoch["test_top1"]) for epoch in self.values["history"]]

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

    @property
    def seeds(self) -> list[int]:
        return sorted({record.seed for record in self.found.values()})


def read_records(results: Path) -> Records:
    """Read `results/records/*.json`, in the order of their names.

    Raises:
        InvalidInput: there is no such folder.
    """
    folder = results / "records"
    if not folder.is_dir():
        raise InvalidInput(f"results: {folder} is no folder; records are written by python -m rpg_bench.train")
    found: dict[str, Record] = {}
    left_out: list[str] = []
    damaged: list[str] = []
    for path in sorted(folder.glob("*.json")):
        values, problem = _read(path)
        if problem:
            damaged.append(f"{path.name}: {problem}")
        elif values["status"] != "finished":
            left_out.append(f"{path.name}: the run {values['status']}")
        elif (values.get("git") or {"dirty": True})["dirty"]:
            left_out.append(f"{path.name}: not made from a clean commit")
        else:
            found[values["hash"]] = Record(values)
    return Records(found, tuple(left_out), tuple(damaged))


def _read(path: Path) -> tuple[dict[str, Any], str]:
    try:
        values: Any = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        return {}, f"cannot be read ({' '.join(str(error).split())})"
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        return {}, f"is not a record of format {FORMAT}"
    if values.get("hash") != path.stem:
        return {}, f"says that it is {values.get('hash')}"
    lacking = [key for key in ("status", "seed", "dof", "config") if key not in values]
    if values.get("status") == "finished" and "test_top1" not in values.get("final", {}):
        lacking.append("final")
    return values, f"lacks {', '.join(lacking)}" if lacking else ""
