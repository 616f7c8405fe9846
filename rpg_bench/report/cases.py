"""One row for each case of an experiment."""

from __future__ import annotations

from collections.abc import Sequence

from rpg_bench.report.experiments import Case, recorded
from rpg_bench.report.page import Cell, Measured, Table
from rpg_bench.report.records import Records

HEADS = ("scheme", "DoF", "of D", "total", "top-1, %")


def top1(case: Case, records: Records) -> Measured:
    """Final top-1 of a case's runs."""
    return Measured([record.top1 for record in recorded(case, records)])


def table_of_cases(cases: Sequence[Case], records: Records, name: str = "") -> Table:
    """Achieved DoF and top-1 of each case; a case without records says so."""
    rows: list[list[Cell]] = []
    for case in cases:
        found = recorded(case, records)
        counts = ["", "", ""]
        if found:
            first = found[0]
            counts = [f"{first.dof:,}", f"{first.dof / first.slot_scalars:.2%}", f"{first.total:,}"]
        rows.append([case.label, *counts, top1(case, records)])
    return Table(HEADS, rows, name)


def protocol(case: Case) -> str:
    """How the case is trained, in one sentence."""
    data, recipe, optimizer = case.config.dataset, case.config.recipe, case.config.optimizer
    stem = f", `{recipe.stem}` stem" if recipe.stem and case.config.backbone.name.startswith("resnet") else ""
    patch = f", patch {case.config.backbone.patch_size}" if case.config.backbone.patch_size else ""
    pixels = f"{data.image_size}x{data.image_size} pixels"
    if recipe.train_sizes:
        pixels += f" (training images grow: {', '.join(map(str, recipe.train_sizes))})"
    smoothing = f", label smoothing {recipe.label_smoothing:g}" if recipe.label_smoothing else ""
    return (
        f"{recipe.epochs} epochs of {data.name} at {pixels}{stem}{patch}, batch {recipe.batch_size}, {optimizer.name}, "
        f"lr {optimizer.lr:g}, weight decay {optimizer.weight_decay:g}{smoothing}."
    )
