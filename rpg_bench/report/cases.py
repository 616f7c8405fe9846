"""One row for each case of an experiment."""

from __future__ import annotations

from collections.abc import Sequence

from rpg_bench.report.experiments import Case, recorded
from rpg_bench.report.markdown import table
from rpg_bench.report.records import Records
from rpg_bench.report.summary import mean_and_spread

HEADS = ("scheme", "DoF", "of D", "total", "top-1, %")


def table_of_cases(cases: Sequence[Case], records: Records) -> str:
    """Achieved DoF and top-1 of each case; a case without records says so."""
    rows = []
    for case in cases:
        found = recorded(case, records)
        counts = ["", "", ""]
        if found:
            first = found[0]
            counts = [f"{first.dof:,}", f"{first.dof / first.slot_scalars:.2%}", f"{first.total:,}"]
        rows.append([case.label, *counts, mean_and_spread([record.top1 for record in found])])
    return table(HEADS, rows)


def protocol(case: Case) -> str:
    """How the case is trained, in one sentence."""
    data, recipe, optimizer = case.config.dataset, case.config.recipe, case.config.optimizer
    return (
        f"{recipe.epochs} epochs of {data.name} at {data.image_size}x{data.image_size} pixels, batch "
        f"{recipe.batch_size}, {optimizer.name}, lr {optimizer.lr:g}, weight decay {optimizer.weight_decay:g}."
    )
