"""Ways to spend the same degrees of freedom: rings, residuals, masks."""

from __future__ import annotations

from rpg_bench.report.cases import table_of_cases
from rpg_bench.report.experiments import read_experiment
from rpg_bench.report.page import Page, Table
from rpg_bench.report.protocol import protocol
from rpg_bench.report.records import Records

EXPERIMENT, SEARCH = "rpg_lors", "rpg_lors_search"
INTRODUCTION = """\
ResNet18 with the `half` stem on CIFAR-100; top-1 in percent. Of one run, the sampling error of the images alone is 0.5
points of 10,000 and 0.6 of 5,000. Total counts what is trained outside the slots too."""
MEASURED = "Recipe `cpu-1` on all 50,000 training images; top-1 on the 10,000 test images."
SEARCHED = """\
On 45,000 of the training images; top-1 on the 5,000 others. The test images had no part in it."""


def make(records: Records) -> Page:
    """What was measured, and what was tried before."""
    cases, tried = read_experiment(EXPERIMENT), read_experiment(SEARCH)
    return Page(
        EXPERIMENT,
        "Spending the same degrees of freedom",
        [
            INTRODUCTION,
            "# At 36,000, and what cannot go so low",
            MEASURED,
            protocol(cases[0]),
            table_of_cases(cases, records, "measured"),
            "# What was tried first",
            SEARCHED,
            protocol(tried[0]),
            table_of_cases(tried, records, "tried"),
        ],
    )


def at_a_glance(records: Records) -> Table:
    """What was measured under the whole recipe."""
    return table_of_cases(read_experiment(EXPERIMENT), records)
