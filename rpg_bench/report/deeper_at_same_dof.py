"""The same ring under a deeper network."""

from __future__ import annotations

from rpg_bench.report.cases import table_of_cases
from rpg_bench.report.contrasts import Contrast, case_where, table_of_contrasts
from rpg_bench.report.experiments import read_experiment
from rpg_bench.report.page import Page
from rpg_bench.report.protocol import protocol
from rpg_bench.report.published import published_table
from rpg_bench.report.records import Records

EXPERIMENT, PUBLISHED = "deeper_at_same_dof", "rpg-r34-over-r18"
INTRODUCTION = """\
One global ring of the same size under ResNet18 and under ResNet34. Top-1 on the 10,000 test images in percent."""
BUDGETS = {"8k": 8_000, "36k": 36_000, "1.1M": 1_100_000}


def make(records: Records) -> Page:
    """Both networks at each budget, and their differences."""
    cases = read_experiment(EXPERIMENT)
    return Page(
        EXPERIMENT,
        "Deeper at the same degrees of freedom",
        [
            INTRODUCTION,
            protocol(cases[0]),
            table_of_cases(cases, records, "runs"),
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
