"""The same ring under a deeper network."""

from __future__ import annotations

from rpg_bench.report.cases import protocol, top1
from rpg_bench.report.contrasts import Contrast, case_where, table_of_contrasts
from rpg_bench.report.experiments import read_experiment, recorded
from rpg_bench.report.page import Cell, Page, Table
from rpg_bench.report.published import published_table
from rpg_bench.report.records import Records

EXPERIMENT, PUBLISHED = "deeper_at_same_dof", "rpg-r34-over-r18"
INTRODUCTION = """\
One global ring of the same size under ResNet18 and under ResNet34. Top-1 on the 10,000 test images in percent."""
BUDGETS = {"8k": 8_000, "36k": 36_000, "1.1M": 1_100_000}


def make(records: Records) -> Page:
    """Both networks at each budget, and their differences."""
    cases = read_experiment(EXPERIMENT)
    rows: list[list[Cell]] = []
    for case in sorted(cases, key=lambda case: (case.config.dof, case.config.backbone.name)):
        found = recorded(case, records)
        counts = [f"{found[0].dof:,}", f"{found[0].total:,}"] if found else ["", ""]
        rows.append([case.config.backbone.name, f"{case.config.dof:,}", *counts, top1(case, records)])
    return Page(
        EXPERIMENT,
        "Deeper at the same degrees of freedom",
        [
            INTRODUCTION,
            protocol(cases[0]),
            Table(("network", "asked", "DoF", "total", "top-1, %"), rows, "runs"),
            table_of_contrasts(contrasts(), records),
            "# Published",
            published_table([PUBLISHED]),
        ],
    )


def contrasts() -> list[Contrast]:
    """ResNet34 against ResNet18 at each budget."""
    cases = read_experiment(EXPERIMENT)
    found = []
    for name, dof in BUDGETS.items():
        deep, flat = (case_where(cases, f"backbone={network}", f"dof={name}") for network in ("resnet34", "resnet18"))
        found.append(Contrast(f"ResNet34 - ResNet18 at {dof:,}", deep, flat, PUBLISHED))
    return found
