"""Rings that move in blocks beside rings whose numbers move one by one."""

from __future__ import annotations

from rpg_bench.report.cases import protocol, table_of_cases
from rpg_bench.report.experiments import read_experiment
from rpg_bench.report.records import Records

EXPERIMENT = "block_digits"
INTRODUCTION = """\
Whether `sharing.block=16` learns as well as the paper's entry-wise allocation. ResNet18 on the digits; made from the
records of `configs/experiment/block_digits.yaml` by `python -m rpg_bench.report`, not by hand. Top-1 on the 360 test
images in percent: mean ± sample standard deviation over seeds (number of runs). One image is 0.28 %."""


def make(records: Records) -> str:
    """The table as Markdown, the same for the same records."""
    cases = read_experiment(EXPERIMENT)
    parts = ["# Rings in blocks", INTRODUCTION, protocol(cases[0]), table_of_cases(cases, records)]
    return "\n\n".join(parts) + "\n"
