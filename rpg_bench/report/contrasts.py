"""Differences between two cases, beside the published ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rpg_bench.report.cases import top1
from rpg_bench.report.effects import Effect, effect
from rpg_bench.report.experiments import Case
from rpg_bench.report.page import Table
from rpg_bench.report.published import published
from rpg_bench.report.records import Records
from rpg_bench.report.summary import MISSING

HEADS = ("difference in top-1", "points [95 % interval]", "runs", "published, other protocol")


@dataclass(frozen=True)
class Contrast:
    """One case against another."""

    label: str
    first: Case
    second: Case
    published: str = ""  # the id of the published figure

    def effect(self, records: Records) -> Effect | None:
        """How much better the first is, where both have runs."""
        return effect(top1(self.first, records).values, top1(self.second, records).values)


def table_of_contrasts(contrasts: Sequence[Contrast], records: Records, name: str = "differences") -> Table:
    """A row for each contrast."""
    rows = []
    for contrast in contrasts:
        found = contrast.effect(records)
        measured = [str(found), f"{found.counts[0]}, {found.counts[1]}"] if found else [MISSING, ""]
        rows.append([contrast.label, *measured, published()[contrast.published].text if contrast.published else ""])
    return Table(HEADS, rows, name)


def case_where(cases: Sequence[Case], *overrides: str) -> Case:
    """The case that sets exactly these options, in any order.

    Raises:
        ValueError: there is none, or more than one.
    """
    (found,) = [case for case in cases if set(case.overrides) == set(overrides)]
    return found
