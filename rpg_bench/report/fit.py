"""A straight line through accuracy against the logarithm of the degrees of freedom."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LogLinearFit:
    """top-1 = intercept + slope * log10(DoF), over the points from `low` to `high`."""

    slope: float  # points of top-1 for ten times the DoF
    intercept: float
    r_squared: float
    low: int
    high: int
    points: int

    def at(self, dof: float) -> float:
        """What the line says of a budget."""
        return self.intercept + self.slope * math.log10(dof)


def log_linear_fit(points: Sequence[tuple[int, float]]) -> LogLinearFit | None:
    """Least squares over points (DoF, mean top-1); None below three different budgets.

    >>> fit = log_linear_fit([(100, 10.0), (1000, 20.0), (10000, 30.0)])
    >>> fit.slope, fit.r_squared
    (10.0, 1.0)
    """
    budgets = [dof for dof, _ in points]
    if len(set(budgets)) < 3:
        return None
    x, y = [math.log10(dof) for dof in budgets], [top1 for _, top1 in points]
    line = statistics.linear_regression(x, y)
    r_squared = statistics.correlation(x, y) ** 2 if len(set(y)) > 1 else 0.0
    return LogLinearFit(line.slope, line.intercept, r_squared, min(budgets), max(budgets), len(points))
