"""Pages to Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rpg_bench.report.page import Cell, Page, Plot, Table


def markdown(page: Page, figures: str, heading: str = "#", longest: int | None = None) -> str:
    """The page as text.

    Args:
        page: what is written.
        figures: the folder of the figures, relative to where the text will lie.
        heading: the level of its title.
        longest: tables of more rows are folded away, to be opened by a click.
    """
    parts = [f"{heading} {page.title}"]
    for part in page.parts:
        if isinstance(part, Table):
            shown = markdown_table(part)
            if longest is not None and len(part.rows) > longest:
                shown = f"<details><summary>{len(part.rows)} rows</summary>\n\n{shown}\n\n</details>"
            parts.append(shown)
        elif isinstance(part, Plot):
            if part.lines:
                parts.append(f"![{part.alt}]({figures}/{part.name}.png)")
        elif part.startswith("#"):
            parts.append(f"{heading}{part}")
        else:
            parts.append(part)
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """Numbers stand to the right.

    >>> print(markdown_table(Table(["scheme", "DoF"], [["`none`", "36,000"]])))
    | scheme | DoF |
    |---|---:|
    | `none` | 36,000 |
    """
    rule = "|" + "---|" * table.left + "---:|" * (len(table.heads) - table.left)
    return "\n".join([_line(table.heads), rule, *map(_line, table.rows)])


def _line(cells: Sequence[Cell]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
