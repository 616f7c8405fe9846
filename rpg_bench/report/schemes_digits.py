"""Every scheme at the same budgets on handwritten digits."""

from __future__ import annotations

from itertools import groupby

from rpg_bench.report.cases import protocol, table_of_cases
from rpg_bench.report.experiments import Case, read_experiment
from rpg_bench.report.records import Records

EXPERIMENT = "schemes_digits"
INTRODUCTION = """\
What one sweep measured (`configs/experiment/schemes_digits.yaml`); made from the records by
`python -m rpg_bench.report`, not by hand. Top-1 on the 360 test images: mean ± sample standard deviation over
seeds (number of runs). One image is 0.28 %, and the task is easy: differences of one or two percent mean nothing
here. Total counts what is trained outside the slots too; `none` below D is a narrower network, whose stem, norms
and head shrink with it."""
BACKBONES = {"resnet18": "ResNet18", "deit_tiny_patch16_224": "DeiT-Tiny"}


def make(records: Records) -> str:
    """The table as Markdown, the same for the same records."""
    cases = read_experiment(EXPERIMENT)
    parts = ["# Every scheme on digits", INTRODUCTION]
    for title, group in groupby(cases, key=_section):
        members = list(group)
        parts += [f"## {title}", protocol(members[0]), table_of_cases(members, records)]
    return "\n\n".join(parts) + "\n"


def _section(case: Case) -> str:
    network, dof = case.config.backbone.name, case.config.dof
    if network != "resnet18":
        return f"{BACKBONES.get(network, network)} at the default size of LORS"
    if dof is None:
        return "ResNet18, dense, and schemes whose range begins at 7,987,200"
    return f"ResNet18 at {dof if isinstance(dof, str) else format(dof, ',')}{' of D' if isinstance(dof, str) else ''}"
