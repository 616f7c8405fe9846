"""The sweeper of rpg_bench, where Hydra looks for plugins. What it does is in `rpg_bench.sweeper`."""

from __future__ import annotations

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore

# A plain mapping: Hydra loads this file in a way that dataclasses do not survive.
CONFIG: dict[str, Any] = {
    "_target_": "hydra_plugins.rpg_bench_cases.CaseSweeper",
    "max_batch_size": None,
    "params": None,  # a grid: {seed: "0,1,2"}
    "cases": [],  # overrides that belong together: a text or a list each
    "paper": [],  # overrides of all cases that make the paper's recipe of the experiment's own
    "recipe": "cpu",  # cpu: the experiment as it stands; paper: with these overrides
    "only": [],  # hashes of the runs to run; all, if empty
}
ConfigStore.instance().store(group="hydra/sweeper", name="cases", node=CONFIG, provider="rpg_bench")


class CaseSweeper(BasicSweeper):
    """Runs each case of an experiment at each point of a grid; without cases, Hydra's basic sweeper."""

    def __init__(
        self,
        max_batch_size: int | None,
        params: dict[str, str] | None = None,
        cases: list[Any] | None = None,
        paper: list[str] | None = None,
        recipe: str = "cpu",
        only: list[str] | None = None,
    ) -> None:
        super().__init__(max_batch_size, params)
        self.cases, self.paper, self.recipe = list(cases or []), list(paper or []), recipe
        self.only = [str(name) for name in only or []]

    def sweep(self, arguments: list[str]) -> Any:
        """Run all and return what the launcher returned, batch by batch."""
        from rpg_bench import sweeper  # every Hydra application on this machine imports its plugins

        return sweeper.sweep(self, arguments)
