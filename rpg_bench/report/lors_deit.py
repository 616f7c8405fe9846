"""LORS on DeiT-Tiny: dense, tied, and residuals of growing rank."""

from __future__ import annotations

from rpg_bench.report.budget_lines import lines_of_schemes
from rpg_bench.report.cases import table_of_cases
from rpg_bench.report.contrasts import Contrast, case_where, table_of_contrasts
from rpg_bench.report.experiments import read_experiment
from rpg_bench.report.page import Page, Plot
from rpg_bench.report.protocol import protocol
from rpg_bench.report.published import published_table
from rpg_bench.report.records import Records

EXPERIMENT, PUBLISHED = "lors_deit", "lors-deit-encoder"
BIASES_AND_NORMS = 29_952  # of the encoder: the paper counts them, and they are no slots
INTRODUCTION = f"""\
DeiT-Tiny on CIFAR-100. `lors` without a rank is the paper's, base rank 32. DoF counts the slots' free numbers; the
paper counts the encoder's biases and norms too, {BIASES_AND_NORMS:,} more. Patch 8 and seven epochs, where the paper
has patch 4 and 300. Top-1 on the 10,000 test images in percent."""


def make(records: Records) -> Page:
    """Accuracy over DoF, and LORS against dense and tied."""
    cases = read_experiment(EXPERIMENT)
    return Page(
        EXPERIMENT,
        "LORS on DeiT-Tiny",
        [
            INTRODUCTION,
            protocol(cases[0]),
            Plot(
                EXPERIMENT,
                "accuracy against DoF, DeiT-Tiny",
                lines_of_schemes(cases, records),
                "degrees of freedom",
                "test top-1, %",
                budgets=True,
            ),
            table_of_cases(cases, records, "runs"),
            table_of_contrasts(contrasts(), records),
            "# Published",
            published_table([PUBLISHED, "lors-deit-dof"]),
        ],
    )


def contrasts() -> list[Contrast]:
    """The paper's rank against dense, which is the claim, and against tied layers."""
    cases = read_experiment(EXPERIMENT)
    lors, dense, tied = (case_where(cases, f"sharing={name}") for name in ("lors", "none", "tied"))
    return [Contrast("LORS - dense", lors, dense, PUBLISHED), Contrast("LORS - tied", lors, tied)]
