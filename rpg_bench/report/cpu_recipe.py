"""How recipe `cpu-2` was chosen, and the learning curves of a dense network and a ring under it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import groupby

from rpg_bench.report.cases import counts, top1
from rpg_bench.report.experiments import Case, read_experiment, recorded
from rpg_bench.report.page import Cell, Line, Page, Plot, Table
from rpg_bench.report.records import Record, Records
from rpg_bench.report.style import short, title
from rpg_bench.report.summary import MISSING

EXPERIMENT, SEARCH = "cpu_recipe", "cpu_recipe_search"
INTRODUCTION = "CIFAR-100, ResNet18 with the `half` stem; top-1 in percent."
SEARCHED = """\
Three epochs unless the candidate says otherwise, schedule included, on 45,000 of the training images; top-1 on the
5,000 others. The test images had no part in it. Pixels: of all training images, of the first candidate's, `cpu-1`.
`cpu-2` is `cpu-1` with images that grow and an epoch more, which at equal cost gave both networks most."""
MEASURED = "The recipe on all 50,000 training images; top-1 on the 10,000 test images."


def make(records: Records) -> Page:
    """Learning curves, and how the recipe was chosen."""
    cases = read_experiment(EXPERIMENT)
    curves = [(case, _history(recorded(case, records))) for case in cases]
    lines = [
        Line(_label(case), case.config.sharing.name, [float(epoch + 1) for epoch in range(len(curve))], curve)
        for case, curve in curves
        if curve
    ]
    return Page(
        EXPERIMENT,
        "The recipe of the CPU runs",
        [
            INTRODUCTION,
            "# Learning curves",
            MEASURED,
            _curves(cases, records),
            Plot(EXPERIMENT, "learning curves", lines, xlabel="epoch", ylabel="test top-1, %"),
            "# The search",
            SEARCHED,
            _search(read_experiment(SEARCH), records),
        ],
    )


def _curves(cases: Sequence[Case], records: Records) -> Table:
    epochs = cases[0].config.recipe.epochs
    heads = ["scheme", "DoF", "total", *(f"epoch {epoch}" for epoch in range(1, epochs)), "top-1, %", "minutes"]
    rows: list[list[Cell]] = []
    for case in cases:
        found = recorded(case, records)
        history = [f"{value:.1f}" for value in _history(found)[:-1]] or [""] * (epochs - 1)
        rows.append([f"`{_name(case)}`", *counts(case, records), *history, top1(case, records), _minutes(found)])
    return Table(heads, rows, "curves")


def _search(cases: Sequence[Case], records: Records) -> Table:
    """A row for each candidate, a column for each scheme."""
    names = list(dict.fromkeys(_name(case) for case in cases))
    rows: list[list[Cell]] = []
    first = _pixels(cases[0])
    for label, group in groupby(sorted(cases, key=lambda case: _order(case, cases)), key=_candidate):
        members = {_name(case): case for case in group}
        cells: list[Cell] = [top1(members[name], records) for name in names]
        rows.append([label, *cells, f"{_pixels(next(iter(members.values()))) / first:.2f}"])
    return Table(["candidate", *(f"`{name}`" for name in names), "pixels"], rows, "search")


def _order(case: Case, cases: Sequence[Case]) -> int:
    return [_candidate(other) for other in cases].index(_candidate(case))


def _name(case: Case) -> str:
    budget = f" {case.config.dof:,}" if isinstance(case.config.dof, int) else ""
    return f"{case.config.sharing.name}{budget}"


def _label(case: Case) -> str:
    """In the figure."""
    budget = f" {short(case.config.dof)}" if isinstance(case.config.dof, int) else ""
    return f"{title(case.config.sharing.name)}{budget}"


def _candidate(case: Case) -> str:
    return ", ".join(text for text in case.overrides if not text.startswith(("sharing", "dof", "seed"))) or "as it is"


def _pixels(case: Case) -> float:
    """Epochs times the mean number of pixels of a training image: what the run costs."""
    sizes = case.config.recipe.train_sizes or [case.config.dataset.image_size]
    return case.config.recipe.epochs * statistics.fmean(size**2 for size in sizes)


def _history(found: Sequence[Record]) -> list[float]:
    """Top-1 after each epoch, mean over the runs; empty without runs."""
    curves = [record.curve for record in found]
    return [statistics.fmean(values) for values in zip(*curves, strict=True)]


def _minutes(found: Sequence[Record]) -> str:
    if not found:
        return MISSING
    threads = sorted({str(record.values.get("hardware", {}).get("threads", "?")) for record in found})
    minutes = statistics.fmean(record.values["train_seconds"] for record in found) / 60
    return f"{minutes:.0f} on {' or '.join(threads)} thread{'' if threads == ['1'] else 's'}"
