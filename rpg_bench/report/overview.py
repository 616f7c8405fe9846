"""All pages after one another: the report that the repository's page shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rpg_bench.report.experiments import experiments, read_runs, recorded, under
from rpg_bench.report.markdown import markdown, markdown_table
from rpg_bench.report.page import Page, Table
from rpg_bench.report.records import Records
from rpg_bench.runs import run_hash

LONGEST = 30  # rows of a table that are read at once
INTRODUCTION = """\
How much accuracy does one degree of freedom (DoF) buy? Made from the records in [`records/`](records) by
`make tables`, not by hand; each page is also in [`tables/`](tables), as Markdown, CSV and LaTeX, each figure in
[`figures/`](figures). All runs on one page, to sort and to choose from, with the command of each:
[`report.html`](report.html), to be opened in a browser. Steps, memory and set-up:
[`benchmarks/summary.md`](benchmarks/summary.md). What the schemes are: [README](../README.md#schemes).

How to read the tables:

- A cell is mean ± sample standard deviation (number of runs, one per seed); *missing* says that no run is recorded yet.
- *asked* is the budget of the command: a number, a share of D (the weights that a scheme generates), or LORS's base
  rank; *all* is the dense network, *fixed* a size that the network decides. *DoF* is what was achieved; *total* adds
  what is trained besides (stem, norms, classifier).
- `none` is the dense network, or with a budget a narrower one with as many weights.
- Published figures stand in columns of their own: their protocols differ.
- Top-1 is of the last epoch, never of the best one, on images that had no part in any choice, unless a page says so."""


def overview(pages: Sequence[Page], records: Records) -> str:
    """How far each page is, then the pages, one heading lower."""
    rows = [[f"[{page.title}](#{_anchor(page.title)})", _state(page, records)] for page in pages]
    contents = markdown_table(Table(("page", "configurations that have a run"), rows))
    counted = f"{len(records.found)} finished runs are recorded."
    parts = [markdown(page, "figures", heading="##", longest=LONGEST).rstrip("\n") for page in pages]
    return "\n\n".join(["# Results", INTRODUCTION, counted, contents, *parts]) + "\n"


def _state(page: Page, records: Records) -> str:
    """How many cases of its experiment are recorded, at each point of its grid; nothing of a page of no experiment."""
    name = page.name.removesuffix("-paper")
    if name not in experiments():
        return ""
    with under("paper" if page.name != name else "cpu"):
        cases = {run_hash(dataclasses.replace(case.config, seed=0)): case for case in read_runs(name)}
    return f"{sum(bool(recorded(case, records)) for case in cases.values())} of {len(cases)}"


def _anchor(title: str) -> str:
    """As GitHub makes them."""
    kept = "".join(character for character in title.lower() if character.isalnum() or character in " -_")
    return kept.replace(" ", "-")
