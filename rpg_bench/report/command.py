"""Make tables from the records.

python -m rpg_bench.report                     # all
python -m rpg_bench.report schemes_digits      # one
python -m rpg_bench.report --list NAME         # the runs of an experiment: done, begun, missing; hours left
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from rpg_bench.errors import InvalidInput, unknown
from rpg_bench.report import block_digits, cpu_recipe, rpg_lors, schemes_digits
from rpg_bench.report.listing import listing
from rpg_bench.report.records import Records, read_records

TABLES: Mapping[str, Callable[[Records], str]] = {
    "schemes_digits": schemes_digits.make,
    "cpu_recipe": cpu_recipe.make,
    "rpg_lors": rpg_lors.make,
    "block_digits": block_digits.make,
}
FIGURES: Mapping[str, Callable[[Records, Path], list[Path]]] = {"cpu_recipe": cpu_recipe.draw}

_BAD_INPUT, _FAILED = 2, 1


def make_tables(names: Sequence[str], results: Path) -> Records:
    """Write `results/tables/NAME.md` and its figure for each name, or for all; the same bytes for the same records.

    Raises:
        InvalidInput: there are no records, or there is no such table.
    """
    for name in names:
        if name not in TABLES:
            raise unknown("table", name, TABLES)
    records = read_records(results)
    folder = results / "tables"
    folder.mkdir(exist_ok=True)
    for name in names or TABLES:
        text = TABLES[name](records)
        (folder / f"{name}.md").write_text(text, encoding="utf-8", newline="\n")
        drawn = FIGURES[name](records, results / "figures" / name) if name in FIGURES else []
        for path in (folder / f"{name}.md", *drawn):
            print(path)
    return records


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exit codes: 0 done, 1 a record is damaged and `--strict` was given, 2 bad input."""
    parser = _Parser(prog="python -m rpg_bench.report", description="Make tables from the records.", allow_abbrev=False)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"{', '.join(TABLES)}; all by default")
    parser.add_argument("--list", metavar="EXPERIMENT", help="list its runs instead: done, begun, missing, hours left")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of run directories, for --list")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder that has records/")
    parser.add_argument("--strict", action="store_true", help="leave with 1 if a record is damaged")
    try:
        asked = parser.parse_args(arguments)
        if asked.list is not None:
            print(listing(asked.list, read_records(asked.results), asked.runs))
            return
        records = make_tables(asked.tables, asked.results)
    except InvalidInput as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(_BAD_INPUT) from None
    for line in (*records.left_out, *records.damaged):
        print(f"left out: {line}", file=sys.stderr)
    if records.damaged and asked.strict:
        raise SystemExit(_FAILED)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise InvalidInput(f"command line: {message}")
