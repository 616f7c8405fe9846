"""Every scheme with the same degrees of freedom, and what was published of pruning at initialisation."""

from __future__ import annotations

from collections.abc import Sequence

from rpg_bench.report.budget_lines import lines_of_schemes
from rpg_bench.report.cases import in_order, table_of_cases, top1
from rpg_bench.report.experiments import Case, read_experiment
from rpg_bench.report.page import Cell, Page, Plot, Table
from rpg_bench.report.protocol import protocol
from rpg_bench.report.published import published
from rpg_bench.report.records import Records

EXPERIMENT = "against_rivals"
INTRODUCTION = """\
Every scheme with the same number of free numbers in the slots of a ResNet18. Top-1 on the 10,000 test images in
percent. `lowrank` begins at 35,712; `lors`, `lors_adaptive` and `tied` at 7,987,200, where they are listed. One
learning rate for all; what each scheme gains by its own: *Learning rates*."""
PUBLISHED = """\
ResNet18 on CIFAR-100 at the published numbers of surviving weights, of all convolutions and the classifier: SynFlow's
repository, three runs each, mean ± sample standard deviation. Another protocol: its long schedule against eight epochs
here."""
NEAR = 0.02  # of a budget: a published figure that is so near stands beside what was measured
METHODS = {
    "snip": "SNIP",
    "grasp": "GraSP",
    "synflow": "SynFlow",
    "random_prune": "random",
    "magnitude_at_init": "magnitude",
}
SCHEMES = {**{name: name for name in ("snip", "synflow", "random_prune")}, "magnitude_at_init": "magnitude"}


def make(records: Records) -> Page:
    """All budgets at one look, each with its counts, and the published figures by themselves."""
    cases = read_experiment(EXPERIMENT)
    budgets = sorted({case.config.dof for case in cases if case.config.dof is not None})
    lines = lines_of_schemes([case for case in cases if case.config.dof is not None], records)
    parts: list[str | Table | Plot] = [
        INTRODUCTION,
        protocol(cases[0]),
        Plot(EXPERIMENT, "every scheme", lines, "degrees of freedom", "test top-1, %", budgets=True),
        _overview(cases, budgets, records),
    ]
    for budget in budgets:
        members = [case for case in cases if case.config.dof == budget]
        parts += [f"# At {budget:,}", table_of_cases(members, records, str(budget), _beside(budget))]
    ends = [case for case in cases if case.config.dof is None]
    parts += ["# Dense, and what begins at 7,987,200", table_of_cases(ends, records, "large")]
    return Page(EXPERIMENT, "Against its rivals", [*parts, "# Published", PUBLISHED, _published()])


def _overview(cases: Sequence[Case], budgets: Sequence[int], records: Records) -> Table:
    found = {(case.config.sharing.name, case.config.dof): case for case in cases}
    schemes = dict.fromkeys(case.config.sharing.name for case in in_order(cases) if case.config.dof is not None)
    rows: list[list[Cell]] = []
    for scheme in schemes:
        cells = [
            top1(found[scheme, budget], records) if (scheme, budget) in found else "out of range" for budget in budgets
        ]
        rows.append([f"`{scheme}`", *cells])
    return Table(("top-1, % at", *(f"{budget:,}" for budget in budgets)), rows, "overview")


def _figures() -> dict[tuple[str, int], str]:
    """By method and number of surviving weights."""
    return {
        (row.method, int(row.dof)): row.text.removesuffix(" %")
        for row in published().values()
        if (row.paper, row.dataset, row.backbone) == ("SynFlow", "cifar100", "resnet18") and row.method in METHODS
    }


def _beside(budget: int) -> dict[str, str]:
    """What was published of our schemes at about this budget, and the budget that it was published at."""
    return {
        SCHEMES[method]: f"{text} at {dof:,}"
        for (method, dof), text in _figures().items()
        if method in SCHEMES and abs(dof - budget) <= NEAR * budget
    }


def _published() -> Table:
    """Methods over surviving weights."""
    cells = _figures()
    budgets = sorted({dof for _, dof in cells})
    rows = [[name, *(cells.get((method, dof), "") for dof in budgets)] for method, name in METHODS.items()]
    return Table(("published top-1, % at", *(f"{dof:,}" for dof in budgets)), rows, "published")
