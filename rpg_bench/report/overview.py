"""All pages after one another: the report that the repository's page shows."""

from __future__ import annotations

from collections.abc import Sequence

from rpg_bench.report.markdown import markdown
from rpg_bench.report.page import Page
from rpg_bench.report.records import Records

INTRODUCTION = """\
Made from the records in [`records/`](records) by `make tables`, not by hand; each page is also in [`tables/`](tables),
as Markdown, CSV and LaTeX, each figure in [`figures/`](figures). A cell is mean ± sample standard deviation (number of
runs, one per seed); *missing* says that no run is recorded yet. DoF is what was achieved, never what was asked for.
Published figures stand in columns of their own: their protocols differ. All runs on one page, to sort and to choose
from, with the command of each: [`report.html`](report.html), to be opened in a browser. Steps, memory and set-up:
[`benchmarks/summary.md`](benchmarks/summary.md)."""


def overview(pages: Sequence[Page], records: Records) -> str:
    """Contents, then the pages, one heading lower."""
    contents = "\n".join(f"- [{page.title}](#{_anchor(page.title)})" for page in pages)
    counted = f"{len(records.found)} finished runs are recorded."
    text = "\n\n".join(["# Results", INTRODUCTION, counted, contents])
    return "\n\n".join([text, *(markdown(page, "figures", heading="##").rstrip("\n") for page in pages)]) + "\n"


def _anchor(title: str) -> str:
    """As GitHub makes them."""
    kept = "".join(character for character in title.lower() if character.isalnum() or character in " -_")
    return kept.replace(" ", "-")
