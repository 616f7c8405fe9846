"""Tables to LaTeX, in the rules of booktabs."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence

from rpg_bench.report.page import Cell, Table

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "²": r"$^2$",
    "…": r"\dots{}",
    "<": r"$<$",
    ">": r"$>$",
    "≥": r"$\geq$",
    **{character: "\\" + character for character in "&%$#_{}"},
}
_LONG = 24  # characters of a cell, beyond which it is broken
_WIDTH, _NARROW = 0.92, 0.1  # of the line: what the columns take together, and one of short cells
_MARKS = re.compile(r"`([^`]*)`|\*\*([^*]*)\*\*|\[([^]]*)\]\([^)]*\)")


def latex(table: Table) -> str:
    r"""The table as a tabular environment.

    >>> print(latex(Table(["scheme", "of D"], [["`none`", "18%"]])), end="")
    % needs \usepackage{booktabs}
    \begin{tabular}{lr}
    \toprule
    scheme & of D \\
    \midrule
    \texttt{none} & 18\% \\
    \bottomrule
    \end{tabular}
    """
    columns = _prose(table) if table.prose else "l" * table.left + "r" * (len(table.heads) - table.left)
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _line(table.heads),
        r"\midrule",
    ]
    lines += [*map(_line, table.rows), r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _prose(table: Table) -> str:
    """Columns of text: those with long cells are broken into lines, as wide as their texts are long."""
    lengths = [[len(str(cell)) for cell in column] for column in zip(table.heads, *table.rows, strict=True)]
    shares = [statistics.fmean(column) if max(column) > _LONG else 0.0 for column in lengths]
    width = _WIDTH - _NARROW * shares.count(0.0)
    return "".join(rf"p{{{width * share / sum(shares):.2f}\linewidth}}" if share else "l" for share in shares)


def _line(cells: Sequence[Cell]) -> str:
    return " & ".join(_text(str(cell)) for cell in cells) + r" \\"


def _text(text: str) -> str:
    """Marks of Markdown become commands; what LaTeX would take for a command is escaped."""
    pieces, end = [], 0
    for found in _MARKS.finditer(text):
        code, bold, link = found.groups()
        pieces.append(_escaped(text[end : found.start()]))
        if code is not None:
            pieces.append(rf"\texttt{{{_escaped(code)}}}")
        elif bold is not None:
            pieces.append(rf"\textbf{{{_escaped(bold)}}}")
        else:
            pieces.append(_text(link))
        end = found.end()
    return "".join(pieces) + _escaped(text[end:])


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in text)
