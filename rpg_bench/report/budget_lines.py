"""Lines of accuracy against degrees of freedom, one for each scheme."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rpg_bench.report.experiments import Case, recorded
from rpg_bench.report.page import Line
from rpg_bench.report.records import Records


def points_of(cases: Sequence[Case], records: Records) -> list[tuple[int, list[float]]]:
    """Achieved DoF and top-1 of all runs of each case that has some, by DoF."""
    found = [recorded(case, records) for case in cases]
    return sorted((runs[0].dof, [run.top1 for run in runs]) for runs in found if runs)


def lines_of_schemes(cases: Sequence[Case], records: Records) -> list[Line]:
    """One line for each scheme that has runs, in the order of the cases."""
    lines = []
    for scheme in dict.fromkeys(case.config.sharing.name for case in cases):
        points = points_of([case for case in cases if case.config.sharing.name == scheme], records)
        if points:
            budgets = [float(dof) for dof, _ in points]
            means = [statistics.fmean(values) for _, values in points]
            spreads = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in points]
            lines.append(Line(scheme, scheme, budgets, means, spreads))
    return lines
