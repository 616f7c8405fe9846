"""Training against test accuracy, and what is left of it on corrupted images, by degrees of freedom."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence

from rpg_bench.corruption_names import GROUPS
from rpg_bench.report.budget_lines import Measure, lines_of_schemes
from rpg_bench.report.cases import asked, counts, in_order, top1
from rpg_bench.report.effects import effect
from rpg_bench.report.experiments import Case, read_experiment, recorded
from rpg_bench.report.page import Cell, Line, Measured, Page, Plot, Table
from rpg_bench.report.protocol import protocol
from rpg_bench.report.published import published_table
from rpg_bench.report.records import Record, Records
from rpg_bench.report.summary import MISSING

EXPERIMENT, PUBLISHED = "generalisation", "rpg-ood"
INTRODUCTION = """\
ResNet18: one ring, and dense networks narrowed to as many weights. Top-1 in percent: on the training images without
augmentation, on the 10,000 test images, and the difference of both, the gap."""
CORRUPTED = """\
Means over five severities of the 15 corruptions of Hendrycks and Dietterich (ICLR 2019), at the strengths of
ImageNet-C, which on 32 pixels are harsher than the files of CIFAR-100-C: these figures compare with each other only.
Kept: the mean over all corruptions, as a share of the top-1 on the same network's clean test images."""
COMPARED = "Ring minus dense network at the same DoF, points of the mean over all corruptions."


def make(records: Records) -> Page:
    """The gap, and the corrupted images."""
    cases = read_experiment(EXPERIMENT)
    training = lines_of_schemes(cases, records, training_top1, "training", dashes="--")
    tested = lines_of_schemes(cases, records, lambda record: record.top1 if record.generalisation else None, "test")
    return Page(
        EXPERIMENT,
        "Generalisation",
        [
            INTRODUCTION,
            protocol(cases[0]),
            "# The gap",
            _plot("gap", "training and test top-1 against DoF", [*tested, *training], "top-1, %"),
            _gaps(cases, records),
            "# Corrupted images",
            CORRUPTED,
            _plot(
                "corrupted",
                "top-1 on corrupted images against DoF",
                lines_of_schemes(cases, records, corrupted_top1),
                "top-1 on corrupted images, %",
            ),
            _corruptions(cases, records),
            COMPARED,
            _differences(records),
            "# Published",
            published_table([PUBLISHED]),
        ],
    )


def training_top1(record: Record) -> float | None:
    """On the training images without augmentation, percent; None if it was not measured."""
    return record.generalisation.get("train_top1")


def corrupted_top1(record: Record, group: str = "") -> float | None:
    """Mean over the corruptions of a group, or all, and severities, percent; None if one was not measured."""
    measured = record.generalisation.get("corruptions", {})
    names = GROUPS[group] if group else [name for names in GROUPS.values() for name in names]
    if not all(name in measured for name in names):
        return None
    return statistics.fmean(value for name in names for value in measured[name])


def corrupted_values(case: Case, records: Records) -> list[float]:
    """The mean over all corruptions of each run of a case that has it."""
    return _values(case, records, corrupted_top1)


def pairs() -> list[tuple[int, Case, Case]]:
    """Budget, ring and dense network, where both have it; by budget."""
    cases = read_experiment(EXPERIMENT)
    rings, dense = (
        {case.config.dof: case for case in cases if case.config.sharing.name == name} for name in ("rpg_global", "none")
    )
    return sorted(
        ((budget, rings[budget], dense[budget]) for budget in rings if budget in dense), key=lambda pair: pair[0]
    )


def _values(case: Case, records: Records, measure: Measure) -> list[float]:
    return [value for record in recorded(case, records) if (value := measure(record)) is not None]


def _plot(name: str, alt: str, lines: Sequence[Line], ylabel: str) -> Plot:
    return Plot(f"{EXPERIMENT}-{name}", alt, lines, "degrees of freedom", ylabel, budgets=True)


def _first_cells(case: Case, records: Records) -> list[str]:
    return [case.label, asked(case), *counts(case, records)]


def _gaps(cases: Sequence[Case], records: Records) -> Table:
    def gap(record: Record) -> float | None:
        training = training_top1(record)
        return None if training is None else training - record.top1

    rows: list[list[Cell]] = []
    for case in in_order(cases):
        training, difference = (Measured(_values(case, records, measure)) for measure in (training_top1, gap))
        rows.append([*_first_cells(case, records), training, top1(case, records), difference])
    return Table(("scheme", "asked", "DoF", "total", "training top-1, %", "test top-1, %", "gap, points"), rows, "gap")


def _corruptions(cases: Sequence[Case], records: Records) -> Table:
    def kept(record: Record) -> float | None:
        left = corrupted_top1(record)
        return None if left is None else 100 * left / record.top1

    rows: list[list[Cell]] = []
    for case in in_order(cases):
        cells: list[Cell] = [
            Measured(_values(case, records, functools.partial(corrupted_top1, group=group))) for group in GROUPS
        ]
        over_all = [Measured(_values(case, records, measure)) for measure in (corrupted_top1, kept)]
        rows.append([*_first_cells(case, records), *cells, *over_all])
    return Table(("scheme", "asked", "DoF", "total", *GROUPS, "all, %", "kept, %"), rows, "corruptions")


def _differences(records: Records) -> Table:
    rows = []
    for budget, ring, dense in pairs():
        found = effect(corrupted_values(ring, records), corrupted_values(dense, records))
        measured = [str(found), f"{found.counts[0]}, {found.counts[1]}"] if found else [MISSING, ""]
        rows.append([f"{budget:,}", *measured])
    return Table(("DoF", "points [95 % interval]", "runs"), rows, "differences")
