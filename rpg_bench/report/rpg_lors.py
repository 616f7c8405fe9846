"""Ways to spend the same degrees of freedom: rings, residuals, masks."""

from __future__ import annotations

from rpg_bench.report.cases import protocol, table_of_cases
from rpg_bench.report.experiments import read_experiment
from rpg_bench.report.records import Records

EXPERIMENT, SEARCH = "rpg_lors", "rpg_lors_search"
INTRODUCTION = """\
ResNet18 with the `half` stem on CIFAR-100. Made from the records of `configs/experiment/rpg_lors.yaml` and
`rpg_lors_search.yaml` by `python -m rpg_bench.report`, not by hand. Top-1 in percent: mean ± sample standard deviation
over seeds (number of runs); of one run, the sampling error of the images alone is 0.5 points of 10,000 and 0.6 of
5,000. Total counts what is trained outside the slots too."""
MEASURED = "Recipe `cpu-1` on all 50,000 training images; top-1 on the 10,000 test images."
SEARCHED = """\
What was tried first, on 45,000 of the training images; top-1 on the 5,000 others. The test images had no part in it."""


def make(records: Records) -> str:
    """Both tables as Markdown, the same for the same records."""
    cases, tried = read_experiment(EXPERIMENT), read_experiment(SEARCH)
    parts = ["# Spending the same degrees of freedom", INTRODUCTION]
    parts += ["## At 36,000, and what cannot go so low", MEASURED, protocol(cases[0]), table_of_cases(cases, records)]
    parts += ["## What was tried", SEARCHED, protocol(tried[0]), table_of_cases(tried, records)]
    return "\n\n".join(parts) + "\n"
