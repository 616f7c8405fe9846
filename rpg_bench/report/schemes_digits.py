"""Every scheme at the same budgets on handwritten digits."""

from __future__ import annotations

from itertools import groupby

from rpg_bench.report.cases import network, table_of_cases, top1
from rpg_bench.report.experiments import Case, read_experiment
from rpg_bench.report.page import Cell, Page, Plot, Table
from rpg_bench.report.protocol import protocol
from rpg_bench.report.records import Records

EXPERIMENT = "schemes_digits"
INTRODUCTION = """\
What one sweep measures. Top-1 on the 360 test images in percent. One image is 0.28 %, and the task is easy:
differences of one or two percent mean nothing here. Total counts what is trained outside the slots too; `none` below D
is a narrower network, whose stem, norms and head shrink with it."""


def make(records: Records) -> Page:
    """A table for each network and budget."""
    parts: list[str | Table | Plot] = [INTRODUCTION]
    for (title, name), group in groupby(read_experiment(EXPERIMENT), key=_section):
        members = list(group)
        parts += [f"# {title}", protocol(members[0]), table_of_cases(members, records, name)]
    return Page(EXPERIMENT, "Every scheme on digits", parts)


def resnet_at_a_glance(records: Records) -> Table:
    """ResNet18: schemes over budgets; those whose range begins higher stand at its beginning."""
    cases = [case for case in read_experiment(EXPERIMENT) if case.config.backbone.name == "resnet18"]
    found = {(case.config.sharing.name, case.config.dof): top1(case, records) for case in cases}
    rows: list[list[Cell]] = []
    for scheme in dict.fromkeys(name for name, _ in found):
        cells = [found.get((scheme, budget), "") for budget in (36_000, "10%", None)]
        rows.append([f"`{scheme}`", *cells])
    return Table(("top-1 on digits, %", "36,000", "10 % of D", "least or dense"), rows)


def deit_at_a_glance(records: Records) -> Table:
    """DeiT-Tiny at the default size of LORS."""
    cases = [case for case in read_experiment(EXPERIMENT) if case.config.backbone.name != "resnet18"]
    found = table_of_cases(cases, records)
    return Table(("DeiT-Tiny on digits", *found.heads[1:]), found.rows)


def _section(case: Case) -> tuple[str, str]:
    """Title, and the name of the table."""
    dof = case.config.dof
    if case.config.backbone.name != "resnet18":
        return f"{network(case)} at the default size of LORS", "deit_tiny"
    if dof is None:
        return "ResNet18, dense, and schemes whose range begins at 7,987,200", "large"
    if isinstance(dof, str):
        return f"ResNet18 at {dof} of D", "share"
    return f"ResNet18 at {dof:,}", f"{dof}"
