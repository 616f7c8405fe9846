"""What an experiment asks for: which of its runs are done, and how long the others will take."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

from rpg_bench.finished import lacks_evaluation
from rpg_bench.lease import Owner, holder_of
from rpg_bench.report.experiments import Case, read_runs
from rpg_bench.report.records import Record, Records
from rpg_bench.runs import RunFiles, run_hash

DONE, RUNNING, BEGUN, MISSING = "done", "running", "begun", "missing"


def listing(name: str, records: Records, runs: Path) -> str:
    """One line for each run, and one on all of them.

    Args:
        name: of the experiment.
        records: what is done.
        runs: the folder of run directories: with a lease there a run is being trained, with a checkpoint begun.

    Returns:
        The text. Hours are those of past runs that differ in nothing but scheme, budget and seed; a run
        without such a past is counted apart.

    Raises:
        InvalidInput: there is no such experiment.
    """
    lines, left, unknown = [], 0.0, 0
    counts = dict.fromkeys((DONE, RUNNING, BEGUN, MISSING), 0)
    past = _seconds_by_kind(records.found.values())
    for run in read_runs(name):
        state, found, holder = _state(run, records, runs)
        counts[state] += 1
        seconds = past.get(_kind(dataclasses.asdict(run.config)))
        if state != DONE:
            left, unknown = left + (seconds or 0.0), unknown + (seconds is None)
        top1 = f"{found.top1:6.2f} %" if found else " " * 8
        where = f"  (process {holder.pid} on {holder.host})" if holder else ""
        lines.append(f"{run_hash(run.config)}  {state:<7}  {top1}  {' '.join(run.overrides)}{where}")
    total = f"{name}: {sum(counts.values())} runs, " + ", ".join(f"{count} {state}" for state, count in counts.items())
    if left:
        total += f"; about {left / 3600:.1f} hours left, as such runs took"
    if unknown:
        total += f"; {unknown} of a kind that never ran here"
    return "\n".join([*lines, total])


def _state(run: Case, records: Records, runs: Path) -> tuple[str, Record | None, Owner | None]:
    found = records.found.get(run_hash(run.config))
    if found and not lacks_evaluation(found.values, run.config.evaluation):
        return DONE, found, None
    directory = runs / RunFiles.of(run.config).directory.name
    holder = holder_of(directory)
    if holder:
        return RUNNING, None, holder
    return (BEGUN if any(directory.glob("checkpoint-*.pt")) else MISSING), None, None


def _seconds_by_kind(found: Iterable[Record]) -> dict[Hashable, float]:
    seconds: dict[Hashable, list[float]] = {}
    for record in found:
        seconds.setdefault(_kind(record.values["config"]), []).append(float(record.values["train_seconds"]))
    return {kind: statistics.fmean(values) for kind, values in seconds.items()}


def _kind(config: dict[str, Any]) -> Hashable:
    """Runs of one kind take about as long: data, network, epochs."""
    data, recipe = config["dataset"], config["recipe"]
    return data["name"], data["image_size"], config["backbone"]["name"], recipe["epochs"], recipe["stem"]
