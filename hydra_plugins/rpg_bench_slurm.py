"""The Slurm launcher of rpg_bench, where Hydra looks for plugins. What it does is in `rpg_bench.slurm_array`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.plugins.launcher import Launcher

try:
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as SubmititLauncher
except ImportError:

    class SlurmLauncher(Launcher):
        """Stands in where hydra-submitit-launcher is not installed."""

        def __init__(self, **preset: Any) -> None:
            pass

        def setup(self, **given: Any) -> None:
            pass

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
            """Say what to install."""
            from rpg_bench.errors import InvalidInput

            raise InvalidInput(
                "hydra/launcher: 'slurm' needs hydra-submitit-launcher; pip install 'rpg-bench[cluster]' brings it"
            )

else:

    class SlurmLauncher(SubmititLauncher):  # type: ignore[misc,no-redef]
        """Submits the runs of a sweep as one array, and waits for them whatever happens to a job."""

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
            """Return each run's answer, in order."""
            from rpg_bench import slurm_array  # every Hydra application on this machine imports its plugins

            return slurm_array.launch(self, job_overrides, initial_job_idx)
