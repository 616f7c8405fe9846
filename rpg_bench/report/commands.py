"""The command that makes one run."""

from __future__ import annotations

import json
import shlex

from rpg_bench.report.experiments import Case, grid_keys


def command_of(experiment: str, case: Case, seed: int) -> str:
    r"""The command that runs this case of an experiment with that seed, and nothing else.

    >>> from rpg_bench.report.experiments import read_experiment
    >>> command_of("rpg_lors", read_experiment("rpg_lors")[4], seed=2)
    'python -m rpg_bench.train --multirun +experiment=rpg_lors seed=2 \'hydra.sweeper.cases=[["sharing=tied"]]\''
    """
    swept = [f"{key}=" for key in grid_keys(experiment)]
    points = [text for text in case.overrides if text.startswith(tuple(swept)) and not text.startswith("seed=")]
    own = [text for text in case.overrides if text not in points and not text.startswith("seed=")]
    chosen = [f"+experiment={experiment}", *points, f"seed={seed}", f"hydra.sweeper.cases=[{json.dumps(own)}]"]
    return shlex.join(["python", "-m", "rpg_bench.train", "--multirun", *chosen])
