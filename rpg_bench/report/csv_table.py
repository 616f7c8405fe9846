"""Tables to CSV, for programs: plain numbers, and mean, standard deviation and number of runs apart."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Sequence

from rpg_bench.report.page import Cell, Measured, Table

_GROUPED = re.compile(r"\d{1,3}(,\d{3})+")


def csv_table(table: Table) -> str:
    """The table as CSV with a head.

    >>> print(csv_table(Table(["scheme", "DoF", "top-1, %"], [["`none`", "36,000", Measured([50.0, 52.0])]])), end="")
    scheme,DoF,"top-1, %: mean",std,n
    none,36000,51.00,1.41,2
    """
    measured = [any(isinstance(row[column], Measured) for row in table.rows) for column in range(len(table.heads))]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    heads: list[str] = []
    for head, split in zip(table.heads, measured, strict=True):
        heads += [f"{_plain(head)}: mean", "std", "n"] if split else [_plain(head)]
    writer.writerow(heads)
    for row in table.rows:
        cells: list[str] = []
        for cell, split in zip(row, measured, strict=True):
            cells += _numbers(cell) if split else [_plain(str(cell))]
        writer.writerow(cells)
    return text.getvalue()


def _numbers(cell: Cell) -> Sequence[str]:
    if not isinstance(cell, Measured):
        return [_plain(cell), "", ""]
    if not cell.values:
        return ["", "", "0"]
    spread = f"{statistics.stdev(cell.values):.{cell.digits}f}" if len(cell.values) > 1 else ""
    return [f"{statistics.fmean(cell.values):.{cell.digits}f}", spread, str(len(cell.values))]


def _plain(text: str) -> str:
    text = text.replace("`", "").replace("**", "")
    return text.replace(",", "") if _GROUPED.fullmatch(text) else text
