"""One row for each case of an experiment: schemes in one order everywhere, each by its budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rpg_bench.report.experiments import Case, recorded
from rpg_bench.report.page import Cell, Measured, Table
from rpg_bench.report.records import Records
from rpg_bench.report.style import STYLES

HEADS = ("scheme", "asked", "DoF", "of D", "total", "top-1, %")
PUBLISHED = "published, other protocol"
NETWORKS = {"resnet18": "ResNet18", "resnet34": "ResNet34", "deit_tiny_patch16_224": "DeiT-Tiny"}
# The base rank of a scheme that is given neither rank nor budget; a test holds them to the schemes, whose import takes
# seconds.
DEFAULT_RANKS = {"lors": 32, "lors_adaptive": 8}


def top1(case: Case, records: Records) -> Measured:
    """Final top-1 of a case's runs."""
    return Measured([record.top1 for record in recorded(case, records)])


def in_order(cases: Sequence[Case]) -> list[Case]:
    """By network, by scheme as in every legend, and by what is asked for; else as they were."""
    networks = list(dict.fromkeys(case.config.backbone.name for case in cases))
    schemes = list(STYLES)

    def key(case: Case) -> tuple[int, int, float]:
        return networks.index(case.config.backbone.name), schemes.index(case.config.sharing.name), _amount(case)

    return sorted(cases, key=key)


def asked(case: Case) -> str:
    """The budget that the case asks for, or what stands for one.

    A number of DoF, a share of D, the base rank of LORS; *all* of a dense network, *fixed* where the network decides,
    *default* where the scheme does.
    """
    dof, scheme, rank = case.config.dof, case.config.sharing.name, _rank(case)
    if dof is not None:
        return f"{dof:,}" if isinstance(dof, int) else f"{dof} of D"
    if rank is not None:
        return f"rank {rank}"
    return {"none": "all", "tied": "fixed"}.get(scheme, "default")


def counts(case: Case, records: Records) -> list[str]:
    """Achieved DoF and total of a case's runs; nothing of a case without any."""
    found = recorded(case, records)
    return [f"{found[0].dof:,}", f"{found[0].total:,}"] if found else ["", ""]


def network(case: Case) -> str:
    """As it is called."""
    name = case.config.backbone.name
    return NETWORKS.get(name, name)


def table_of_cases(
    cases: Sequence[Case], records: Records, name: str = "", theirs: Mapping[str, str] | None = None
) -> Table:
    """What each case asks for, achieved DoF and top-1; a case without records says so.

    The network has a column where there are several; so has what was published of the schemes, where it is given.
    """
    several = len({case.config.backbone.name for case in cases}) > 1
    rows: list[list[Cell]] = []
    for case in in_order(cases):
        found = recorded(case, records)
        dof, total = counts(case, records)
        share = f"{found[0].dof / found[0].slot_scalars:.2%}" if found else ""
        first: list[Cell] = [network(case)] if several else []
        last = [theirs.get(case.config.sharing.name, "")] if theirs else []
        rows.append([*first, case.label, asked(case), dof, share, total, top1(case, records), *last])
    heads = [*(["network"] if several else []), *HEADS, *([PUBLISHED] if theirs else [])]
    return Table(heads, rows, name, texts=2 if several else 1)


def _rank(case: Case) -> int | None:
    """The base rank, where no budget decides it."""
    scheme = case.config.sharing
    if case.config.dof is not None or scheme.name not in DEFAULT_RANKS:
        return None
    rank = scheme.options.get("rank")
    return DEFAULT_RANKS[scheme.name] if rank is None else int(rank)


def _amount(case: Case) -> float:
    """What is asked for as a number that orders the cases of one scheme; without one, the network as it is."""
    dof, rank = case.config.dof, _rank(case)
    if dof is not None:
        return float(dof) if isinstance(dof, int) else float(str(dof).rstrip("%")) / 100
    return math.inf if rank is None else float(rank)
