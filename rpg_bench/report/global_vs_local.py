"""One global ring, local rings and a dense network with the same number of weights."""

from __future__ import annotations

from rpg_bench.report.cases import table_of_cases
from rpg_bench.report.contrasts import Contrast, case_where, table_of_contrasts
from rpg_bench.report.experiments import read_experiment
from rpg_bench.report.page import Page
from rpg_bench.report.protocol import protocol
from rpg_bench.report.published import published_table
from rpg_bench.report.records import Records

EXPERIMENT = "global_vs_local"
INTRODUCTION = """\
The source compares at the same parameter count and does not say which network the rings unpack to. Both readings:
networks that unpack to ResNet18, at 18 % of its weights; and a ResNet34 whose rings hold as many numbers as ResNet18
has weights. Top-1 on the 10,000 test images in percent."""
PUBLISHED = ("rpg-local-vs-dense", "rpg-global-vs-dense", "rpg-global-vs-local")


def make(records: Records) -> Page:
    """What was measured, and the three differences in both readings."""
    cases = read_experiment(EXPERIMENT)
    return Page(
        EXPERIMENT,
        "Global and local rings",
        [
            INTRODUCTION,
            protocol(cases[0]),
            table_of_cases(cases, records, "runs"),
            table_of_contrasts(contrasts(), records),
            "# Published",
            published_table(PUBLISHED),
        ],
    )


def contrasts() -> list[Contrast]:
    """Local and global against dense, and against one another; first reading, then second."""
    cases = read_experiment(EXPERIMENT)
    deeper = ("backbone=resnet34", "dof=11157504")
    readings = {
        "unpacks to ResNet18": (
            case_where(cases, "sharing=none", "dof=18%"),
            case_where(cases, "sharing=rpg_local", "dof=18%"),
            case_where(cases, "sharing=rpg_global", "dof=18%"),
        ),
        "ResNet34 at the size of ResNet18": (
            case_where(cases, "sharing=none"),
            case_where(cases, "sharing=rpg_local", *deeper),
            case_where(cases, "sharing=rpg_global", *deeper),
        ),
    }
    found = []
    for reading, (dense, local, whole) in readings.items():
        found += [
            Contrast(f"local - dense, {reading}", local, dense, PUBLISHED[0]),
            Contrast(f"global - dense, {reading}", whole, dense, PUBLISHED[1]),
            Contrast(f"global - local, {reading}", whole, local, PUBLISHED[2]),
        ]
    return found
