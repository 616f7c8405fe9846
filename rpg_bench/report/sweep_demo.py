"""What `make sweep-demo` shows."""

from __future__ import annotations

from rpg_bench.report.budget_lines import lines_of_schemes
from rpg_bench.report.cases import table_of_cases
from rpg_bench.report.experiments import read_experiment
from rpg_bench.report.page import Page, Plot
from rpg_bench.report.protocol import protocol
from rpg_bench.report.records import Records

EXPERIMENT = "sweep_demo"
INTRODUCTION = "A demonstration on handwritten digits: one seed, three epochs. Top-1 on the 360 test images in percent."


def make(records: Records) -> Page:
    """Accuracy against DoF."""
    cases = read_experiment(EXPERIMENT)
    lines = lines_of_schemes(cases, records)
    return Page(
        EXPERIMENT,
        "A sweep on digits",
        [
            INTRODUCTION,
            protocol(cases[0]),
            Plot(EXPERIMENT, "accuracy against DoF", lines, "degrees of freedom", "test top-1, %", budgets=True),
            table_of_cases(cases, records),
        ],
    )
