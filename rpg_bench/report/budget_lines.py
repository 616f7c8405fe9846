"""Lines of accuracy against degrees of freedom, one for each scheme."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from rpg_bench.report.cases import in_order
from rpg_bench.report.experiments import Case, recorded
from rpg_bench.report.page import Line
from rpg_bench.report.records import Record, Records
from rpg_bench.report.style import title

Measure = Callable[[Record], float | None]


def final_top1(record: Record) -> float:
    """On the evaluation images, percent."""
    return record.top1


def points_of(cases: Sequence[Case], records: Records, measure: Measure = final_top1) -> list[tuple[int, list[float]]]:
    """Achieved DoF and what was measured of all runs of each case that has it, by DoF."""
    points = []
    for case in cases:
        runs = recorded(case, records)
        values = [value for run in runs if (value := measure(run)) is not None]
        if values:
            points.append((runs[0].dof, values))
    return sorted(points)


def lines_of_schemes(
    cases: Sequence[Case], records: Records, measure: Measure = final_top1, label: str = "", dashes: str = "-"
) -> list[Line]:
    """One line for each scheme that has runs, in the order of every legend, named by the scheme and the label."""
    lines = []
    for scheme in dict.fromkeys(case.config.sharing.name for case in in_order(cases)):
        points = points_of([case for case in cases if case.config.sharing.name == scheme], records, measure)
        if points:
            budgets = [float(dof) for dof, _ in points]
            means = [statistics.fmean(values) for _, values in points]
            spreads = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in points]
            lines.append(Line(f"{title(scheme)} {label}".strip(), scheme, budgets, means, spreads, dashes))
    return lines
