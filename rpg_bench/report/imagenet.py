"""The ImageNet figures that RPG leads with."""

from __future__ import annotations

from dataclasses import dataclass

from rpg_bench.report.cases import asked, counts, in_order, network, top1
from rpg_bench.report.contrasts import case_where
from rpg_bench.report.experiments import Case, read_experiment
from rpg_bench.report.page import Cell, Page, Table
from rpg_bench.report.protocol import protocol
from rpg_bench.report.published import published, published_table
from rpg_bench.report.records import Records

EXPERIMENT = "imagenet"
INTRODUCTION = """\
ResNet18 and ResNet34 at 224x224, for eight GPUs: the measured cells stay empty until somebody runs them. Top-1 on the
50,000 validation images in percent. A fraction is of the dense network of the same table."""


@dataclass(frozen=True)
class Headline:
    """A published figure and the case that tests it."""

    published: str
    case: Case
    dense: Case


def headlines() -> list[Headline]:
    """In the order of the experiment."""
    cases = read_experiment(EXPERIMENT)
    dense = {"resnet18": case_where(cases, "sharing=none")}
    dense["resnet34"] = case_where(cases, "backbone=resnet34", "sharing=none")
    chosen = {
        "rpg-in-r18-1layer": ("resnet18", "dof=2359296"),
        "rpg-in-r18-36k": ("resnet18", "dof=36864"),
        "rpg-in-r18-18pct": ("resnet18", "dof=18%"),
        "rpg-in-r34-half": ("resnet34", "dof=50%"),
        "rpg-in-r34-400x": ("resnet34", "dof=0.25%"),  # less than 53,146
        "rpg-in-r34-0.25pct": ("resnet34", "dof=0.25%"),
    }
    found = []
    for name, (backbone, dof) in chosen.items():
        deeper = () if backbone == "resnet18" else (f"backbone={backbone}",)
        found.append(Headline(name, case_where(cases, "sharing=rpg_global", dof, *deeper), dense[backbone]))
    return found


def make(records: Records) -> Page:
    """Measured beside published, in columns of their own."""
    cases = read_experiment(EXPERIMENT)
    theirs = {headline.case.overrides: "" for headline in headlines()}
    for headline in headlines():  # two of them are of one run
        text = published()[headline.published].text
        theirs[headline.case.overrides] = "; ".join(filter(None, (theirs[headline.case.overrides], text)))
    theirs[case_where(cases, "backbone=resnet34", "sharing=none").overrides] = published()["dense-in-r34"].text
    rows: list[list[Cell]] = []
    for case in in_order(cases):
        cells = [network(case), case.label, asked(case), *counts(case, records)]
        rows.append([*cells, top1(case, records), theirs.get(case.overrides, "")])
    heads = ("network", "scheme", "asked", "DoF", "total", "top-1, %", "published, RPG")
    names = [headline.published for headline in headlines()]
    return Page(
        EXPERIMENT,
        "ImageNet",
        [
            INTRODUCTION,
            protocol(cases[0]),
            Table(heads, rows, "runs", texts=2),
            "# Published",
            published_table([*names, "dense-in-r34"]),
        ],
    )
