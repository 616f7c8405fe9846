"""What the permutation and the sign flips are worth (RPG, destructive weight sharing)."""

from __future__ import annotations

from rpg_bench.report.cases import table_of_cases
from rpg_bench.report.contrasts import Contrast, case_where, table_of_contrasts
from rpg_bench.report.experiments import read_experiment
from rpg_bench.report.page import Page
from rpg_bench.report.protocol import protocol
from rpg_bench.report.published import published_table
from rpg_bench.report.records import Records

EXPERIMENT, PUBLISHED = "destructive_sharing", "rpg-destructive"
INTRODUCTION = """\
A ring with and without its permutation and its sign flips; `recurrent` has neither. `order sequential` walks around
the ring weight after weight and permutes within each (the papers' picture); without it the whole is permuted at once
(the official code). Top-1 on the 10,000 test images in percent."""


def make(records: Records) -> Page:
    """What was measured, and each step's worth."""
    cases = read_experiment(EXPERIMENT)
    return Page(
        EXPERIMENT,
        "Destructive sharing",
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
    """Both together, each alone, and the two orders; the first is the claim."""
    cases = read_experiment(EXPERIMENT)
    both, neither = case_where(cases, "sharing=rpg_global"), case_where(cases, "sharing=recurrent")
    permuted = case_where(cases, "sharing=rpg_global", "sharing.flip_sign=false")
    flipped = case_where(cases, "sharing=rpg_global", "sharing.permute=false")
    sequential = case_where(cases, "sharing=rpg_global", "sharing.order=sequential")
    return [
        Contrast("permutation and flips - neither", both, neither, PUBLISHED),
        Contrast("permutation alone - neither", permuted, neither),
        Contrast("flips alone - neither", flipped, neither),
        Contrast("shuffled - sequential", both, sequential),
    ]
