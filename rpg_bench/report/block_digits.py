"""Rings that move in blocks beside rings whose numbers move one by one."""

from __future__ import annotations

from rpg_bench.report.cases import table_of_cases
from rpg_bench.report.experiments import read_experiment
from rpg_bench.report.page import Page
from rpg_bench.report.protocol import protocol
from rpg_bench.report.records import Records

EXPERIMENT = "block_digits"
INTRODUCTION = """\
Whether `sharing.block=16` learns as well as the paper's entry-wise allocation. ResNet18 on the digits; top-1 on the
360 test images in percent. One image is 0.28 %."""


def make(records: Records) -> Page:
    """The table."""
    cases = read_experiment(EXPERIMENT)
    return Page(EXPERIMENT, "Rings in blocks", [INTRODUCTION, protocol(cases[0]), table_of_cases(cases, records)])
