"""How recipe `cpu-1` was chosen, and the learning curves of a dense network and a ring under it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rpg_bench.report.experiments import Case, read_experiment, recorded
from rpg_bench.report.figure import save
from rpg_bench.report.markdown import table
from rpg_bench.report.records import Record, Records
from rpg_bench.report.summary import MISSING, mean_and_spread

EXPERIMENT, SEARCH = "cpu_recipe", "cpu_recipe_search"
INTRODUCTION = """\
CIFAR-100, ResNet18 with the `half` stem. Made from the records of `configs/experiment/cpu_recipe.yaml` and
`cpu_recipe_search.yaml` by `python -m rpg_bench.report`, not by hand. Top-1 in percent: mean ± sample standard
deviation over seeds (number of runs)."""
SEARCHED = """\
Three epochs, schedule included, on 45,000 of the training images; top-1 on the 5,000 others. The test images had no
part in it. Pixels: of an epoch's training images, of the first candidate's."""
MEASURED = "The recipe on all 50,000 training images; top-1 on the 10,000 test images."


def make(records: Records) -> str:
    """Both tables as Markdown, the same for the same records."""
    cases = read_experiment(EXPERIMENT)
    parts = ["# The recipe of the CPU runs", INTRODUCTION, "## Learning curves", MEASURED, _curves(cases, records)]
    if any(len(_history(recorded(case, records))) > 1 for case in cases):
        parts.append("![learning curves](../figures/cpu_recipe.svg)")
    parts += ["## The search", SEARCHED, _search(read_experiment(SEARCH), records)]
    return "\n\n".join(parts) + "\n"


def draw(records: Records, path: Path) -> list[Path]:
    """Draw top-1 over epochs, a line for each scheme, as SVG and PDF; returns the files, none without records."""
    curves = {_name(case): _history(recorded(case, records)) for case in read_experiment(EXPERIMENT)}
    if not any(len(curve) > 1 for curve in curves.values()):
        return []
    return save(path, _lines(curves), xlabel="epoch", ylabel="test top-1, %")


def _lines(curves: dict[str, list[float]]) -> dict[str, tuple[list[float], list[float]]]:
    return {name: ([float(epoch + 1) for epoch in range(len(curve))], curve) for name, curve in curves.items()}


def _curves(cases: Sequence[Case], records: Records) -> str:
    epochs = cases[0].config.recipe.epochs
    heads = ["scheme", "DoF", "total", *(f"epoch {epoch}" for epoch in range(1, epochs)), "top-1, %", "minutes"]
    rows = []
    for case in cases:
        found = recorded(case, records)
        counts = [f"{found[0].dof:,}", f"{found[0].total:,}"] if found else ["", ""]
        history = [f"{top1:.1f}" for top1 in _history(found)[:-1]] or [""] * (epochs - 1)
        rows.append([f"`{_name(case)}`", *counts, *history, mean_and_spread([r.top1 for r in found]), _minutes(found)])
    return table(heads, rows)


def _search(cases: Sequence[Case], records: Records) -> str:
    """A row for each candidate, a column for each scheme."""
    names = list(dict.fromkeys(_name(case) for case in cases))
    rows = []
    first = _pixels(cases[0])
    for label, group in groupby(sorted(cases, key=lambda case: _order(case, cases)), key=_candidate):
        members = {_name(case): case for case in group}
        cells = [mean_and_spread([record.top1 for record in recorded(members[name], records)]) for name in names]
        rows.append([label, *cells, f"{_pixels(next(iter(members.values()))) / first:.2f}"])
    return table(["candidate", *(f"`{name}`" for name in names), "pixels"], rows)


def _order(case: Case, cases: Sequence[Case]) -> int:
    return [_candidate(other) for other in cases].index(_candidate(case))


def _name(case: Case) -> str:
    budget = f" {case.config.dof:,}" if isinstance(case.config.dof, int) else ""
    return f"{case.config.sharing.name}{budget}"


def _candidate(case: Case) -> str:
    return ", ".join(text for text in case.overrides if not text.startswith(("sharing", "dof", "seed"))) or "as it is"


def _pixels(case: Case) -> float:
    """The mean number of pixels of a training image."""
    sizes = case.config.recipe.train_sizes or [case.config.dataset.image_size]
    return statistics.fmean(size**2 for size in sizes)


def _history(found: Sequence[Record]) -> list[float]:
    """Top-1 after each epoch, mean over the runs; empty without runs."""
    curves = [record.curve for record in found]
    return [statistics.fmean(values) for values in zip(*curves, strict=True)]


def _minutes(found: Sequence[Record]) -> str:
    if not found:
        return MISSING
    threads = sorted({str(record.values["hardware"]["threads"]) for record in found})
    minutes = statistics.fmean(record.values["train_seconds"] for record in found) / 60
    return f"{minutes:.0f} on {' or '.join(threads)} thread{'' if threads == ['1'] else 's'}"
