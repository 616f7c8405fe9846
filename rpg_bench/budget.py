"""Reading a budget and dividing it: the one place where text becomes a number of DoF."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import ROUND_FLOOR, Decimal

from rpg_bench.errors import InvalidInput

SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
ALLOWED = "a whole number (36864), a suffix (36k, 2.4M), a share of D (18%), or nothing"

_BUDGET = re.compile(r"\+?(\d[\d_]*(?:\.\d+)?|\.\d+)(?:e\+?(\d{1,2}))?\s*([kmgb%]?)", re.IGNORECASE)


def parse_dof(text: str | int | float, slots_total: int, field: str = "dof") -> int:
    """Return the budget that `text` states for slots of `slots_total` scalars.

    A share is rounded down. Whether a scheme can use the budget is the scheme's own check.

    >>> parse_dof("36k", 11_157_504), parse_dof("18%", 11_157_504)
    (36000, 2008350)

    Raises:
        InvalidInput: not a budget, below 1, above 100 %, or no whole number of scalars.
    """
    shown = f"{field}: {str(text)!r}"
    match = _BUDGET.fullmatch(str(text).strip())
    if match is None or isinstance(text, bool):
        raise InvalidInput(f"{shown} is not a budget; allowed: {ALLOWED}")
    digits, exponent, suffix = match.groups()
    number = Decimal(digits.replace("_", "")).scaleb(int(exponent or 0))
    if suffix == "%":
        if not 0 < number <= 100:
            raise InvalidInput(f"{shown} is outside (0%, 100%]")
        budget = (number * slots_total / 100).to_integral_value(ROUND_FLOOR)
    else:
        budget = number * SUFFIXES[suffix.lower()]
        if budget != budget.to_integral_value():
            raise InvalidInput(f"{shown} is no whole number of scalars; allowed: {ALLOWED}")
    if budget < 1:
        raise InvalidInput(f"{shown} is {int(budget)} scalars; the least is 1")
    return int(budget)


def canonical_dof(text: str | int | float) -> int | str:
    """Return one spelling for each budget, so that 36k and 36000 name the same run.

    >>> canonical_dof("36k"), canonical_dof("18.0 %")
    (36000, '18%')
    """
    if str(text).strip().endswith("%"):
        parse_dof(text, 100_000_000)
        return f"{Decimal(str(text).strip()[:-1].replace('_', '')).normalize():f}%"
    return parse_dof(text, 0)


def check_range(dof: int, least: int, most: int, scheme: str, field: str = "dof") -> None:
    """Raise InvalidInput, naming the range and its nearest end, if `dof` is outside it."""
    if not least <= dof <= most:
        nearest = min(max(dof, least), most)
        raise InvalidInput(f"{field}: {dof} is outside the range of {scheme}, {least}..{most}; nearest: {nearest}")


def divide(budget: int, sizes: Sequence[int]) -> list[int]:
    """Divide `budget` in proportion to `sizes`, exactly: each part at least 1 and at most its size.

    Largest remainders decide the last scalars, earlier parts first.

    Raises:
        InvalidInput: fewer scalars than parts, or more than the sizes hold.
    """
    total = sum(sizes)
    if not len(sizes) <= budget <= total:
        raise InvalidInput(f"dof: {budget} cannot be divided over {len(sizes)} rings of {total} scalars in all")
    parts = [budget * size // total for size in sizes]
    remainders = [budget * size % total for size in sizes]
    order = sorted(range(len(sizes)), key=lambda i: (-remainders[i], i))
    for i in order[: budget - sum(parts)]:
        parts[i] += 1
    for i, part in enumerate(parts):
        if part == 0:  # too small for one scalar: taken from the largest part, which has two at least
            parts[parts.index(max(parts))] -= 1
            parts[i] = 1
    return parts
