"""The difference between two cases, with its confidence interval over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Effect:
    """Difference of two means, and what is known of it."""

    difference: float
    low: float  # of the confidence interval; infinite where one of both has a single run
    high: float
    counts: tuple[int, int]

    def __str__(self) -> str:
        text = f"{self.difference:+.2f}"
        return text if math.isinf(self.low) else f"{text} [{self.low:+.2f}, {self.high:+.2f}]"


def effect(first: Sequence[float], second: Sequence[float]) -> Effect | None:
    """How much larger `first` is than `second`, by Welch's t; None where one of both has no runs.

    >>> print(effect([52.0, 53.0, 54.0], [50.0, 50.5, 51.0]))
    +2.50 [+0.42, +4.58]
    """
    if not first or not second:
        return None
    difference = statistics.fmean(first) - statistics.fmean(second)
    counts = len(first), len(second)
    if min(counts) < 2:
        return Effect(difference, -math.inf, math.inf, counts)
    parts = [statistics.variance(values) / len(values) for values in (first, second)]
    error = math.sqrt(sum(parts))
    if error == 0:
        return Effect(difference, difference, difference, counts)
    degrees = sum(parts) ** 2 / sum(part**2 / (count - 1) for part, count in zip(parts, counts, strict=True))
    half = _quantile(degrees) * error
    return Effect(difference, difference - half, difference + half, counts)


def effect_over(values: Sequence[float], constant: float) -> Effect | None:
    """How much larger the values are than a number without spread, by Student's t; None without values.

    >>> print(effect_over([52.0, 53.0, 54.0], 50.0))
    +3.00 [+0.52, +5.48]
    """
    if not values:
        return None
    difference = statistics.fmean(values) - constant
    if len(values) < 2:
        return Effect(difference, -math.inf, math.inf, (len(values), 0))
    half = _quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Effect(difference, difference - half, difference + half, (len(values), 0))


def _quantile(degrees: float) -> float:
    """Of Student's t, at the end of the interval."""
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))
