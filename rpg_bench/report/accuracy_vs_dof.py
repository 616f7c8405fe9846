"""Accuracy against degrees of freedom, with the log-linear fit over the ring's points (RPG, abstract)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rpg_bench.report.budget_lines import lines_of_schemes, points_of
from rpg_bench.report.cases import table_of_cases
from rpg_bench.report.experiments import Case, read_experiment, recorded
from rpg_bench.report.fit import LogLinearFit, log_linear_fit
from rpg_bench.report.page import Cell, Line, Measured, Page, Plot, Table
from rpg_bench.report.protocol import protocol
from rpg_bench.report.published import published_table
from rpg_bench.report.records import Records
from rpg_bench.report.summary import MISSING

EXPERIMENT, RING = "accuracy_vs_dof", "rpg_global"
INTRODUCTION = """\
One global ring, dense networks narrowed to as many weights, and LORS, whose range begins at 7,987,200 on these
networks. Top-1 on the 10,000 test images in percent. Total counts what is trained outside the slots too; it shrinks
with a narrower network."""
FITTED = "top-1 = intercept + slope · log10(DoF), least squares over the means of the ring's points."
PUBLISHED = ("rpg-c100-8k", "rpg-log-linear")
NETWORKS = {"resnet18": "ResNet18", "resnet34": "ResNet34"}


def make(records: Records) -> Page:
    """A figure and a table for each network, and the fits."""
    cases = read_experiment(EXPERIMENT)
    parts: list[str | Table | Plot] = [INTRODUCTION, protocol(cases[0])]
    for network, title in NETWORKS.items():
        members = [case for case in cases if case.config.backbone.name == network]
        parts += [f"# {title}", _plot(network, title, members, records), table_of_cases(members, records, network)]
    parts += ["# The fit", FITTED, _fits(cases, records), "# Published", published_table(PUBLISHED)]
    return Page(EXPERIMENT, "Accuracy against degrees of freedom", parts)


def at_a_glance(records: Records) -> Table:
    """The rings of ResNet18 that were trained, each beside the network with as many weights, where that was."""
    budgets: dict[int, dict[str, Case]] = {}
    for case in read_experiment(EXPERIMENT):
        scheme, budget = case.config.sharing.name, case.config.dof
        if case.config.backbone.name == "resnet18" and scheme in (RING, "none") and recorded(case, records):
            dense = recorded(case, records)[0].values["dof"]["slot_scalars"]
            budgets.setdefault(dense if budget is None else int(budget), {})[scheme] = case
    rows: list[list[Cell]] = []
    for budget, members in sorted(budgets.items()):
        row: list[Cell] = [f"{budget:,}"]
        for scheme in (RING, "none"):
            runs = recorded(members[scheme], records) if scheme in members else []
            row += [f"{runs[0].total:,}", Measured([run.top1 for run in runs])] if runs else ["", ""]
        rows.append(row)
    heads = ("DoF", "ring: total", "ring: top-1, %", "as many weights: total", "as many weights: top-1, %")
    return Table(heads, rows, "at-a-glance")


def ring_fit(cases: Sequence[Case], records: Records, network: str) -> LogLinearFit | None:
    """The fit over one network's rings."""
    rings = [case for case in cases if (case.config.backbone.name, case.config.sharing.name) == (network, RING)]
    return log_linear_fit([(dof, statistics.fmean(values)) for dof, values in points_of(rings, records)])


def _plot(network: str, title: str, cases: Sequence[Case], records: Records) -> Plot:
    lines = lines_of_schemes(cases, records)
    fit = ring_fit(cases, records, network)
    if fit is not None:
        ends = [float(fit.low), float(fit.high)]
        label = f"fit: {fit.slope:.1f} points\nper decade, R² {fit.r_squared:.3f}"
        lines.append(Line(label, RING, ends, [fit.at(end) for end in ends], dashes=":", marked=False))
    name = f"{EXPERIMENT}-{network}"
    return Plot(name, f"accuracy against DoF, {title}", lines, "degrees of freedom", "test top-1, %", budgets=True)


def _fits(cases: Sequence[Case], records: Records) -> Table:
    rows = []
    for network, title in NETWORKS.items():
        fit = ring_fit(cases, records, network)
        if fit is None:
            rows.append([title, MISSING, "", "", "", ""])
        else:
            span = f"{fit.low:,} to {fit.high:,}"
            numbers = [f"{value:.3f}" for value in (fit.slope, fit.intercept, fit.r_squared)]
            rows.append([title, *numbers, span, str(fit.points)])
    return Table(("network", "slope, points per decade", "intercept", "R²", "DoF", "points"), rows, "fit")
