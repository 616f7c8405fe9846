"""What a sweep asked for: a file that it writes when it starts, so that others know its runs without composing them.

One file for each different list of runs, below `runs_dir/multirun`: the same command writes the same file again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpg_bench.config import TrainConfig, config_directory, without_paths
from rpg_bench.files import write_aside
from rpg_bench.progress import utc
from rpg_bench.runs import RunFiles, run_hash
from rpg_bench.secrets import redacted

FORMAT = 1
FOLDER = "multirun"  # below runs_dir
UNNAMED = "unnamed"  # a sweep without a name


@dataclass(frozen=True)
class Asked:
    """One run that somebody asked for."""

    run: str  # its hash; empty where the configuration is refused
    overrides: tuple[str, ...]
    directory: Path
    record: Path
    config: Mapping[str, Any]  # without paths; empty where it is refused
    problem: str = ""  # why it is refused

    @classmethod
    def of(cls, config: TrainConfig, overrides: Sequence[str]) -> Asked:
        """The run of a configuration."""
        files = RunFiles.of(config)
        settings = without_paths(dataclasses.asdict(config))
        return cls(run_hash(config), tuple(overrides), files.directory, files.record, settings)

    @classmethod
    def refused(cls, problem: str, overrides: Sequence[str]) -> Asked:
        """A run that cannot be: its configuration is bad input."""
        return cls("", tuple(overrides), Path(), Path(), {}, redacted(problem))


@dataclass(frozen=True)
class Plan:
    """The runs of one sweep, and the command that runs them."""

    sweep: str
    recipe: str
    arguments: tuple[str, ...]  # of the command, but --multirun
    runs: tuple[Asked, ...]
    written: str = ""  # UTC
    experiment: str = ""  # digest of the experiment's file

    def write(self, folder: Path) -> Path:
        """Write it below `folder`; returns the file."""
        runs = [
            {
                "run": asked.run,
                "overrides": [redacted(text) for text in asked.overrides],
                "directory": str(asked.directory),
                "record": str(asked.record),
                "config": asked.config,
                "problem": asked.problem,
            }
            for asked in self.runs
        ]
        content = {
            "format": FORMAT,
            "sweep": self.sweep,
            "recipe": self.recipe,
            "written": utc(),
            "experiment": experiment_digest(self.sweep),
            "arguments": [redacted(text) for text in self.arguments],
            "runs": runs,
        }
        identity = json.dumps([self.recipe, *[[run["run"], *run["overrides"]] for run in runs]])
        name = f"{re.sub('[^A-Za-z0-9_.-]', '_', self.sweep)}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}.json"
        write_aside(folder / name, (json.dumps(content, indent=1) + "\n").encode())
        return folder / name


def read_plans(runs_dir: Path, sweep: str | None = None, recipe: str | None = None) -> list[Plan]:
    """The plans below a folder of runs, the oldest first; of one sweep or recipe, if they are given.

    What is no plan, or cannot be read, is passed over.
    """
    plans = [plan for path in (runs_dir / FOLDER).glob("*.json") if (plan := _read(path)) is not None]
    return sorted(
        (plan for plan in plans if sweep in (None, plan.sweep) and recipe in (None, plan.recipe)),
        key=lambda plan: (plan.written, plan.sweep),
    )


def experiment_digest(name: str) -> str:
    """Of the file `configs/experiment/NAME.yaml`; empty if there is none."""
    with contextlib.suppress(OSError):
        return hashlib.sha256((config_directory() / "experiment" / f"{name}.yaml").read_bytes()).hexdigest()[:16]
    return ""


def _read(path: Path) -> Plan | None:
    try:
        values: Any = json.loads(path.read_bytes())
        if values["format"] != FORMAT:
            return None
        runs = tuple(
            Asked(
                run["run"],
                tuple(run["overrides"]),
                Path(run["directory"]),
                Path(run["record"]),
                run["config"],
                run["problem"],
            )
            for run in values["runs"]
        )
        return Plan(
            values["sweep"],
            values["recipe"],
            tuple(values["arguments"]),
            runs,
            values["written"],
            values["experiment"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
