"""A page of the report: text, tables and figures, before they are written in any format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rpg_bench.report.summary import mean_and_spread


@dataclass(frozen=True)
class Measured:
    """What the runs of one cell measured; nothing is a missing cell."""

    values: Sequence[float]
    digits: int = 2

    def __str__(self) -> str:
        return mean_and_spread(self.values, self.digits)


Cell = str | Measured


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first column is text, or the first `texts`, the others are numbers, or text too.

    Text between backticks is code. `name` tells the tables of a page apart, in the names of their files.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    name: str = ""
    prose: bool = False  # all columns are text
    texts: int = 1

    @property
    def left(self) -> int:
        """Columns that stand to the left, of text."""
        return len(self.heads) if self.prose else self.texts


@dataclass(frozen=True)
class Line:
    """Points (x, y) that belong together, with the standard deviation of each y, 0 where it is not known.

    A scheme's colour and marker are its own in every figure; lines of one scheme differ in their dashes, and in
    whether their markers are filled.
    """

    label: str
    scheme: str  # decides colour and marker
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] = ()
    dashes: str = "-"  # -, --, -. or :
    marked: bool = True  # a marker at each point


@dataclass(frozen=True)
class Plot:
    """Lines over one axis."""

    name: str  # of its files
    alt: str
    lines: Sequence[Line]
    xlabel: str
    ylabel: str
    budgets: bool = False  # x is a number of free numbers, on a log axis


@dataclass(frozen=True)
class Page:
    """Parts in their order; a text is Markdown."""

    name: str  # of its files
    title: str
    parts: Sequence[str | Table | Plot]

    @property
    def tables(self) -> list[Table]:
        return [part for part in self.parts if isinstance(part, Table)]

    @property
    def plots(self) -> list[Plot]:
        return [part for part in self.parts if isinstance(part, Plot) and part.lines]
