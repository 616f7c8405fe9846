"""Rows to Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers, to the right.

    >>> print(table(["scheme", "DoF"], [["`none`", "36,000"]]))
    | scheme | DoF |
    |---|---:|
    | `none` | 36,000 |
    """
    rule = "|---|" + "---:|" * (len(heads) - 1)
    return "\n".join([_line(heads), rule, *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
