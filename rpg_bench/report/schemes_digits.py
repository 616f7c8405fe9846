"""Every scheme at the same budgets on handwritten digits."""

from __future__ import annotations

from itertools import groupby

from rpg_bench.report.cases import protocol, table_of_cases
from rpg_bench.report.experiments import Case, read_experiment
from rpg_bench.report.page import Page, Plot, Table
from rpg_bench.report.records import Records

EXPERIMENT = "schemes_digits"
INTRODUCTION = """\
What one sweep measures. Top-1 on the 360 test images in percent. One image is 0.28 %, and the task is easy:
differences of one or two percent mean nothing here. Total counts what is trained outside the slots too; `none` below D
is a narrower network, whose stem, norms and head shrink with it."""
BACKBONES = {"resnet18": "ResNet18", "deit_tiny_patch16_224": "DeiT-Tiny"}


def make(records: Records) -> Page:
    """A table for each network and budget."""
    parts: list[str | Table | Plot] = [INTRODUCTION]
    for (title, name), group in groupby(read_experiment(EXPERIMENT), key=_section):
        members = list(group)
        parts += [f"# {title}", protocol(members[0]), table_of_cases(members, records, name)]
    return Page(EXPERIMENT, "Every scheme on digits", parts)


def _section(case: Case) -> tuple[str, str]:
    """Title, and the name of the table."""
    network, dof = case.config.backbone.name, case.config.dof
    if network != "resnet18":
        return f"{BACKBONES.get(network, network)} at the default size of LORS", "deit_tiny"
    if dof is None:
        return "ResNet18, dense, and schemes whose range begins at 7,987,200", "large"
    if isinstance(dof, str):
        return f"ResNet18 at {dof} of D", "share"
    return f"ResNet18 at {dof:,}", f"{dof}"
