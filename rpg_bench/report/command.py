"""Make tables and figures from the records.

python -m rpg_bench.report                     # all, and results/README.md that shows them
python -m rpg_bench.report schemes_digits      # one
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from rpg_bench.errors import BAD_INPUT, FAILED, InvalidInput, unknown
from rpg_bench.files import write_aside
from rpg_bench.report import (
    accuracy_vs_dof,
    against_rivals,
    block_digits,
    claims,
    convergence,
    cpu_recipe,
    deeper_at_same_dof,
    destructive_sharing,
    generalisation,
    global_vs_local,
    imagenet,
    learning_rates,
    lors_deit,
    rpg_lors,
    schemes_digits,
    small_files,
    sweep_demo,
)
from rpg_bench.report.csv_table import csv_table
from rpg_bench.report.experiments import experiments, has_recipe, read_experiment, recorded, under
from rpg_bench.report.figure import draw
from rpg_bench.report.latex import latex
from rpg_bench.report.markdown import markdown
from rpg_bench.report.overview import overview
from rpg_bench.report.page import Page
from rpg_bench.report.readme import refreshed
from rpg_bench.report.records import Records, read_records
from rpg_bench.report.web import web_page

# In the order of results/README.md.
PAGES: Mapping[str, Callable[[Records], Page]] = {
    claims.NAME: claims.make,
    accuracy_vs_dof.EXPERIMENT: accuracy_vs_dof.make,
    against_rivals.EXPERIMENT: against_rivals.make,
    learning_rates.EXPERIMENT: learning_rates.make,
    global_vs_local.EXPERIMENT: global_vs_local.make,
    destructive_sharing.EXPERIMENT: destructive_sharing.make,
    deeper_at_same_dof.EXPERIMENT: deeper_at_same_dof.make,
    convergence.EXPERIMENT: convergence.make,
    generalisation.EXPERIMENT: generalisation.make,
    lors_deit.EXPERIMENT: lors_deit.make,
    imagenet.EXPERIMENT: imagenet.make,
    small_files.EXPERIMENT: small_files.make,
    rpg_lors.EXPERIMENT: rpg_lors.make,
    schemes_digits.EXPERIMENT: schemes_digits.make,
    block_digits.EXPERIMENT: block_digits.make,
    cpu_recipe.EXPERIMENT: cpu_recipe.make,
}
# Pages of records that are no evidence: made when they are asked for.
DEMONSTRATIONS: Mapping[str, Callable[[Records], Page]] = {sweep_demo.EXPERIMENT: sweep_demo.make}

PAPERS_RECIPES = ("rpg_cifar", "lors_cifar", "rpg_imagenet")


def make_tables(names: Sequence[str], results: Path) -> Records:
    """Write each named page, or all but the demonstrations, below `results`; the same bytes for the same records.

    A page is `tables/NAME.md`; each of its tables also `.csv` and `.tex`; each of its plots `figures/*.pdf` and
    `.png`. All pages together are `README.md`, all runs `report.html`; a README beside `results` has its marked
    tables made anew.

    Raises:
        InvalidInput: there are no records, or there is no such page.
    """
    known = {**PAGES, **DEMONSTRATIONS}
    for name in names:
        if name not in known:
            raise unknown("table", name, known)
    records = read_records(results, evidence=not names or any(name in PAGES for name in names))
    pages = [known[name](records) for name in names or PAGES]
    pages += papers_pages([name for name in names or PAGES if name in PAGES], records)
    for page in pages:
        for path in write_page(page, results):
            print(path)
    if not names:
        write_aside(results / "README.md", overview(pages, records).encode())
        write_aside(results / "report.html", web_page(records, experiments()).encode())
        print(results / "README.md", results / "report.html", sep="\n")
        readme = results.resolve().parent / "README.md"
        if readme.is_file():
            write_aside(readme, refreshed(readme.read_text(encoding="utf-8"), records).encode())
    return records


def papers_pages(names: Sequence[str], records: Records) -> list[Page]:
    """Each of these pages under its paper's recipe, if any of its runs is recorded; a table of no runs would say
    nothing, where the runs take days."""
    if not any(record.values["config"]["recipe"]["name"] in PAPERS_RECIPES for record in records.found.values()):
        return []
    pages = []
    with under("paper"):
        for name in names:
            tests = claims.EXPERIMENTS if name == claims.NAME else (name,)
            if all(has_recipe(test, "paper") for test in tests) and any(
                recorded(case, records) for test in tests for case in read_experiment(test)
            ):
                page = PAGES[name](records)
                title = f"{page.title}, under the papers' recipes"
                pages.append(dataclasses.replace(page, name=f"{page.name}-paper", title=title))
    return pages


def write_page(page: Page, results: Path) -> list[Path]:
    """Write one page with its tables and plots; returns the files."""
    folder = results / "tables"
    folder.mkdir(exist_ok=True)
    texts = {f"{page.name}.md": markdown(page, "../figures")}
    for table in page.tables:
        stem = f"{page.name}-{table.name}" if table.name else page.name
        texts |= {f"{stem}.csv": csv_table(table), f"{stem}.tex": latex(table)}
    for name, text in texts.items():
        write_aside(folder / name, text.encode())
    drawn = [path for plot in page.plots for path in draw(plot, results / "figures")]
    return [*(folder / name for name in texts), *drawn]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exit codes: 0 done, 1 a record is damaged and `--strict` was given, 2 bad input."""
    parser = _Parser(
        prog="python -m rpg_bench.report", description="Make tables and figures from the records.", allow_abbrev=False
    )
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"{', '.join(PAGES)}; all by default")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder that has records/")
    parser.add_argument("--strict", action="store_true", help="leave with 1 if a record is damaged")
    try:
        asked = parser.parse_args(arguments)
        records = make_tables(asked.tables, asked.results)
    except InvalidInput as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(BAD_INPUT) from None
    for line in (*records.left_out, *records.damaged):
        print(f"left out: {line}", file=sys.stderr)
    if records.damaged and asked.strict:
        raise SystemExit(FAILED)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise InvalidInput(f"command line: {message}")
