"""How soon a ring and a dense network of the same size learn."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rpg_bench.report.cases import asked, counts, in_order
from rpg_bench.report.experiments import Case, read_experiment, recorded
from rpg_bench.report.page import Line, Measured, Page, Plot, Table
from rpg_bench.report.protocol import protocol
from rpg_bench.report.published import published_table
from rpg_bench.report.records import Records
from rpg_bench.report.style import short, title

EXPERIMENT, PUBLISHED = "convergence", "rpg-convergence"
INTRODUCTION = """\
A global ring and a dense network narrowed to as many weights, on ResNet18. Test top-1 after each epoch, and the first
epoch after which a given top-1 is reached: mean ± sample standard deviation over the runs that reach it (their number;
none: no run did). Under a one-cycle schedule every curve ends with the schedule: compare how soon they rise."""
LEVELS = (10, 20, 30, 40, 50)  # percent


def make(records: Records) -> Page:
    """Curves, and epochs until given accuracies."""
    cases = read_experiment(EXPERIMENT)
    lines = [line for case in in_order(cases) if (line := _line(case, records)) is not None]
    return Page(
        EXPERIMENT,
        "Convergence",
        [
            INTRODUCTION,
            protocol(cases[0]),
            Plot(EXPERIMENT, "top-1 over epochs", lines, xlabel="epoch", ylabel="test top-1, %"),
            _table(cases, records),
            "# Published",
            published_table([PUBLISHED]),
        ],
    )


def epochs_until(curve: Sequence[float], level: float) -> int | None:
    """The first epoch, from 1, after which the curve is at the level or above; None if it never is.

    >>> epochs_until([12.0, 19.5, 30.0], 20), epochs_until([12.0], 20)
    (3, None)
    """
    return next((epoch for epoch, top1 in enumerate(curve, 1) if top1 >= level), None)


def _line(case: Case, records: Records) -> Line | None:
    curves = [record.curve for record in recorded(case, records)]
    if not curves:
        return None
    means = [statistics.fmean(values) for values in zip(*curves, strict=True)]
    spreads = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in zip(*curves, strict=True)]
    small = case.config.dof == min(other.config.dof for other in read_experiment(EXPERIMENT))
    scheme, dashes = case.config.sharing.name, "--" if small else "-"
    epochs = [float(epoch) for epoch in range(1, len(means) + 1)]
    return Line(f"{title(scheme)} {short(case.config.dof)}", scheme, epochs, means, spreads, dashes)


def _table(cases: Sequence[Case], records: Records) -> Table:
    rows = []
    for case in in_order(cases):
        found = recorded(case, records)
        cells = []
        for level in LEVELS:
            reached = [epoch for record in found if (epoch := epochs_until(record.curve, level)) is not None]
            cells.append(Measured(reached, digits=1) if reached or not found else "none")
        rows.append([case.label, asked(case), *counts(case, records), *cells])
    return Table(("scheme", "asked", "DoF", "total", *(f"epochs to {level} %" for level in LEVELS)), rows)
