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
}
ConfigStore.instance().store(group="hydra/sweeper", name="cases", node=CONFIG, provider="rpg_bench")


class CaseSweeper(BasicSweeper):
    """Runs each case of an experiment at each point of a grid; without cases, Hydra's basic sweeper."""

    def __init__(
        self, max_batch_size: int | None, params: dict[str, str] | None = None, cases: list[Any] | None = None
    ) -> None:
        super().__init__(max_batch_size, params)
        self.cases = list(cases or [])

    def sweep(self, arguments: list[str]) -> Any:
        """Run all and return what the launcher returned, batch by batch."""
        from rpg_bench import sweeper  # every Hydra application on this machine imports its plugins

        return sweeper.sweep(self, arguments)
