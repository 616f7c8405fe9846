"""Mean, spread and number of runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

MISSING = "missing"


def mean_and_spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± sample standard deviation (number of runs); of one run no spread is known.

    >>> mean_and_spread([96.0, 97.0, 98.0]), mean_and_spread([96.5]), mean_and_spread([])
    ('97.00 ± 1.00 (3)', '96.50 (1)', 'missing')
    """
    if not values:
        return MISSING
    mean = f"{statistics.fmean(values):.{digits}f}"
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean}{spread} ({len(values)})"
