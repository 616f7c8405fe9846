"""Whether the learning rate of a table suits each of its schemes: the same small search for all."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

from rpg_bench.report import against_rivals
from rpg_bench.report.cases import asked, in_order, top1
from rpg_bench.report.commands import command_of
from rpg_bench.report.experiments import Case, read_experiment, read_runs
from rpg_bench.report.page import Cell, Page, Table
from rpg_bench.report.protocol import protocol
from rpg_bench.report.records import Records
from rpg_bench.report.summary import MISSING

EXPERIMENT = "learning_rates"
INTRODUCTION = """\
One learning rate for all schemes of a table favours those that it suits. Here each scheme of *Against its rivals* is
trained at the same few rates on 45,000 of the training images; top-1 on the 5,000 others, of which one run has a
sampling error of 0.6 points. The best rate is the one of the highest mean, once all are there; of equal ones, the
table's. The test images have no part in the choice: the last two columns are of whole runs on all training images, at
the table's rate and at the best one."""
WANTED = "Runs at best rates that are not the table's:"


def make(records: Records) -> Page:
    """The search, and what the table says at each scheme's own rate."""
    rivals = read_experiment(against_rivals.EXPERIMENT)
    searched = in_order(read_experiment(EXPERIMENT))
    tried = {(_scheme(case), case.config.optimizer.lr): case for case in read_runs(EXPERIMENT)}
    rates = sorted({rate for _, rate in tried})
    rows: list[list[Cell]] = []
    commands = []
    for case in searched:
        (rival,) = [other for other in rivals if _scheme(other) == _scheme(case)]
        found = {rate: top1(tried[_scheme(case), rate], records).values for rate in rates}
        best = best_rate(found, rival.config.optimizer.lr)
        cells: list[Cell] = [top1(tried[_scheme(case), rate], records) for rate in rates]
        own: Cell = MISSING
        if best is not None:
            again = at_rate(rival, best)
            own = top1(again, records)
            if own.values == []:
                commands.append(command_of(against_rivals.EXPERIMENT, again, seed=0))
        chosen = MISSING if best is None else f"{best:g}"
        rows.append([case.label, asked(case), *cells, chosen, top1(rival, records), own])
    table_rate = rivals[0].config.optimizer.lr
    heads = (
        "scheme",
        "asked",
        *(f"validation top-1 at {rate:g}, %" for rate in rates),
        "best rate",
        f"test top-1 at {table_rate:g}, %",
        "test top-1 at best rate, %",
    )
    wanted = [WANTED, "\n".join(["```bash", *commands, "```"])] if commands else []
    return Page(
        EXPERIMENT,
        "Learning rates",
        [
            INTRODUCTION,
            f"The search: {protocol(searched[0], rate=False)}",
            Table(heads, rows, texts=2),
            *wanted,
        ],
    )


def best_rate(found: dict[float, Sequence[float]], preferred: float) -> float | None:
    """The rate of the highest mean; of equal ones the preferred one, then the smallest; None before all were tried.

    >>> best_rate({0.1: [20.0], 0.3: [19.0, 22.0]}, 0.1), best_rate({0.1: [20.0], 0.3: [20.0]}, 0.1)
    (0.3, 0.1)
    """
    if not all(found.values()):
        return None
    return max(found, key=lambda rate: (statistics.fmean(found[rate]), rate == preferred, -rate))


def at_rate(case: Case, rate: float) -> Case:
    """The same run at another learning rate."""
    optimizer = dataclasses.replace(case.config.optimizer, lr=rate)
    if optimizer == case.config.optimizer:
        return case
    return Case((*case.overrides, f"optimizer.lr={rate:g}"), dataclasses.replace(case.config, optimizer=optimizer))


def _scheme(case: Case) -> tuple[object, ...]:
    sharing = case.config.sharing
    return sharing.name, case.config.dof, tuple(sorted((key, repr(value)) for key, value in sharing.options.items()))
