"""What the papers and their rivals published, each figure with its source; never in a column with what was measured."""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rpg_bench.report.page import Table

FILE = Path(__file__).with_name("published.csv")


@dataclass(frozen=True)
class Published:
    """One row of `published.csv`."""

    id: str
    paper: str
    task: str
    dataset: str
    backbone: str
    method: str
    dof: str
    dof_scope: str
    metric: str
    kind: str  # absolute, difference, fraction_of_dense, ratio, claim
    value: str
    spread: str
    note: str
    source: str

    @property
    def text(self) -> str:
        """The figure with what it is a figure of."""
        forms = {"absolute": "{} %", "difference": "{} points", "fraction_of_dense": "{} of dense", "ratio": "{} times"}
        value = forms.get(self.kind, "{}")
        if self.metric == "parameters":
            return f"{int(self.value):,}"
        spread = f" ± {self.spread}" if self.spread else ""
        return value.format(f"{self.value}{spread}")


@functools.cache
def published() -> dict[str, Published]:
    """All of them by their ids, in the order of the file."""
    with FILE.open(encoding="utf-8", newline="") as lines:
        return {row["id"]: Published(**row) for row in csv.DictReader(lines)}


def published_table(ids: Sequence[str], name: str = "published") -> Table:
    """Figures with their protocol and source."""
    rows = []
    for key in ids:
        row = published()[key]
        setting = " ".join(filter(None, (row.dataset, row.backbone)))
        dof = f"{int(row.dof):,}" if row.dof.isdigit() else row.dof
        rows.append([row.method, dof, row.text, setting, row.note, f"{row.paper}; {row.source}"])
    return Table(("published", "DoF", _head(ids), "setting", "protocol", "source"), rows, name, prose=True)


def _head(ids: Sequence[str]) -> str:
    """What the figures are of."""
    metrics = {published()[key].metric for key in ids}
    return {"top1": "top-1", "error": "error"}.get(metrics.pop(), "figure") if len(metrics) == 1 else "figure"
