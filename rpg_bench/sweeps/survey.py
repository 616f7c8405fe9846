"""The runs that a command is about: those of one experiment, or all below a folder."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpg_bench.config import config_directory
from rpg_bench.errors import unknown
from rpg_bench.report.records import Record, read_records
from rpg_bench.sweeps.disk import readable
from rpg_bench.sweeps.past import Past
from rpg_bench.sweeps.plan import Asked, Plan, experiment_digest, read_plans
from rpg_bench.sweeps.states import DONE, FAILED, RUNNING, STATES, State, bytes_below, runs_below, state_of, with_queued


@dataclass(frozen=True)
class Places:
    """Where runs and records lie."""

    runs: Path
    results: Path


@dataclass(frozen=True)
class Survey:
    """What is known of some runs together."""

    title: str
    states: tuple[State, ...]
    disk_bytes: int  # of the folder of runs, all in it
    free_bytes: int  # of its disk

    @property
    def counts(self) -> dict[str, int]:
        """Runs by state, of every state."""
        return {state: sum(one.state == state for one in self.states) for state in STATES}

    @property
    def seconds_left(self) -> float:
        """Of training, one run after another, of the runs that are neither done nor failed."""
        return sum(one.seconds_left or 0.0 for one in self._open)

    @property
    def unknown(self) -> int:
        """Runs of a kind that never ran here, so that their time is not in `seconds_left`."""
        return sum(one.seconds_left is None for one in self._open)

    @property
    def settled(self) -> bool:
        """Whether no run is left to wait for; before the first has begun, there is."""
        return bool(self.states) and not self._open

    @property
    def _open(self) -> list[State]:
        return [one for one in self.states if one.state not in (DONE, FAILED)]

    def total(self) -> str:
        """One line on all runs."""
        shown = [f"{count} {name}" for name, count in self.counts.items() if count or name in (DONE, RUNNING)]
        line = f"{self.title}: {len(self.states)} runs, {', '.join(shown)}"
        if self.seconds_left:
            hours = self.seconds_left / 3600
            left = f"{hours:.1f} hours" if hours >= 1 else f"{max(1, round(60 * hours))} minutes"
            line += f"; about {left} left, as such runs took"
        if self.unknown:
            line += f"; {self.unknown} of a kind that never ran here"
        return line

    def disk(self) -> str:
        """One line on the disk."""
        here = sum(one.bytes for one in self.states)
        return f"disk: {readable(here)} in these runs, {readable(self.free_bytes)} free"

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it (`command.py` documents it)."""
        return {
            "title": self.title,
            "counts": self.counts,
            "seconds_left": round(self.seconds_left),
            "runs_without_estimate": self.unknown,
            "disk_bytes": self.disk_bytes,
            "free_bytes": self.free_bytes,
            "runs": [one.to_dict() for one in self.states],
        }


def survey(experiment: str | None, recipe: str, places: Places) -> Survey:
    """Look at the runs of an experiment, or at all that have a directory.

    Raises:
        InvalidInput: no such experiment, or it has no such recipe.
    """
    found = recorded(places)
    past = Past(found.values())
    if experiment is None:
        asked: Sequence[Asked] = runs_below(places.runs, places.results, planned(read_plans(places.runs)))
    else:
        asked = asked_for(experiment, recipe, places)
    states = with_queued([state_of(one, past, found) for one in asked])
    return Survey(experiment or str(places.runs), states, bytes_below(places.runs), free_bytes(places.runs))


def asked_for(experiment: str, recipe: str, places: Places) -> list[Asked]:
    """The runs that sweeps of this name asked for here; before the first, and when its file has changed since, those
    of the experiment's file.

    Raises:
        InvalidInput: there is neither, or the experiment has no such recipe.
    """
    plans = read_plans(places.runs, experiment, recipe)
    asked: dict[str, Asked] = {}
    known = [path.stem for path in (config_directory() / "experiment").glob("*.yaml")]
    if experiment in known and (not plans or any(plan.experiment != experiment_digest(experiment) for plan in plans)):
        asked = _of_file(experiment, recipe, places)
    elif not plans:
        raise unknown("experiment", experiment, {*known, *(plan.sweep for plan in read_plans(places.runs))})
    return list({**asked, **planned(plans)}.values())


def planned(plans: Sequence[Plan]) -> dict[str, Asked]:
    """The runs of plans by hash, each as the last asked for it; of those that are refused, by their overrides."""
    return {one.run or " ".join(one.overrides): one for plan in plans for one in plan.runs}


def recorded(places: Places) -> Mapping[str, Record]:
    """The records below the results; none, where there is no folder of them yet."""
    return read_records(places.results).found if (places.results / "records").is_dir() else {}


def free_bytes(folder: Path) -> int:
    """Free on the disk where a folder is, or will be."""
    there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    return shutil.disk_usage(there).free


def _of_file(experiment: str, recipe: str, places: Places) -> dict[str, Asked]:
    from rpg_bench.report.experiments import read_runs, under  # Hydra, half a second

    with under(recipe):
        cases = read_runs(experiment)
    asked = {}
    for case in cases:
        one = Asked.of(case.config, case.overrides)
        if case.config.runs_dir == "runs":  # unless the experiment has a place of its own
            one = dataclasses.replace(one, directory=places.runs / one.run)
        if case.config.results_dir == "results":
            one = dataclasses.replace(one, record=places.results / "records" / f"{one.run}.json")
        asked[one.run] = one
    return asked
