"""Sweeps: cases of overrides that belong together, crossed with a grid.

An experiment file, `configs/experiment/NAME.yaml`, lists them:

    # @package _global_
    sweep: NAME
    hydra:
      mode: MULTIRUN
      sweeper:
        cases:
          - sharing=none
          - sharing=lors dof=2.4M
          - [sharing=rpg_local, "sharing.rings={early: 'layer[12].*', late: 'layer[34].*'}"]
        params: {seed: "0,1,2"}
        paper: [recipe=rpg_cifar]   # for all cases, with hydra.sweeper.recipe=paper

The grid is Hydra's own: `params`, and what the command line adds or replaces (`seed=0`). Its first point
is run with all cases before the second begins. What the command line sets, it sets for all cases. Any
launcher of Hydra can run them: it is given lists of overrides, as by Hydra's basic sweeper. Several sweeps
may share their runs: one that another trains at the moment is left for the end, and waited for.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from rpg_bench.config import TrainConfig, from_hydra
from rpg_bench.errors import InvalidInput, unknown
from rpg_bench.files import write_aside
from rpg_bench.lease import holder_of
from rpg_bench.secrets import redacted
from rpg_bench.sweeps.disk import forecast
from rpg_bench.sweeps.plan import FOLDER, UNNAMED, Asked, Plan
from rpg_bench.sweeps.survey import Places, free_bytes, recorded

if TYPE_CHECKING:
    from hydra_plugins.rpg_bench_cases import CaseSweeper

Run = list[str]  # the overrides of one run

RECIPES = ("cpu", "paper")
POLLED = 5.0  # seconds between two looks at what others hold


@dataclass(frozen=True)
class Failure:
    """What a run that failed returns instead of a result, so that a sweep goes on."""

    code: int  # exit code
    message: str


@dataclass(frozen=True)
class Deferred:
    """What a run returns that another process trains: the sweep comes back to it."""

    lease: Path


class SweepFailed(Exception):
    """Runs of a sweep failed; all others were done, and the failures have been reported."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


def expand(cases: Sequence[Any], grid: Sequence[str], parser: OverridesParser, common: Sequence[str] = ()) -> list[Run]:
    """The runs of an experiment: each case at each point of the grid, the points one after another.

    Args:
        cases: a text of overrides between spaces, or a list of overrides, each. None at all: the grid alone.
        grid: overrides, of which some may be sweeps (`seed=0,1,2`); of two for one key the last counts, and
            either counts more than a case's.
        parser: Hydra's.
        common: overrides of every case.

    Raises:
        InvalidInput: a case that is no list of overrides, or sweeps itself; a sweep over nothing.
    """
    given = parser.parse_overrides(list(grid))
    for override in given:
        if override.is_hydra_override():
            raise InvalidInput(f"hydra.sweeper.params: {override.input_line!r} is for Hydra; the grid is of runs")
        if override.is_sweep_override() and not list(override.sweep_string_iterator()):
            raise InvalidInput(f"{override.key_or_group}: {override.input_line!r} sweeps over nothing")
    points = BasicSweeper.split_arguments(given, None)[0]
    taken = {override.key_or_group for override in given}
    parsed = [_parsed(case, f"hydra.sweeper.cases[{n}]", taken, parser) for n, case in enumerate(cases)]
    shared = _parsed(list(common), "hydra.sweeper.paper", taken, parser)
    runs = [[*point, *case, *shared] for point in points for case in parsed or [[]]]
    return [list(run) for run in dict.fromkeys(map(tuple, runs))]


def common_overrides(recipe: str, paper: Sequence[str]) -> Sequence[str]:
    """What the recipe sets in every case of an experiment.

    Raises:
        InvalidInput: no such recipe, or the experiment has none of a paper.
    """
    if recipe not in RECIPES:
        raise unknown("hydra.sweeper.recipe", recipe, RECIPES)
    if recipe == "paper" and not paper:
        raise InvalidInput("hydra.sweeper.recipe: 'paper' is not allowed: this experiment is in no paper; cpu is")
    return paper if recipe == "paper" else ()


def configuration(context: HydraContext, config: DictConfig, run: Sequence[str]) -> TrainConfig:
    """The configuration of one run of a sweep.

    Raises:
        InvalidInput: a value that is not allowed.
    """
    return from_hydra(_composed(context, config, run))


def sweep(sweeper: CaseSweeper, arguments: Sequence[str]) -> list[Sequence[Any]]:
    """Run an experiment through the sweeper's launcher, say what came of it, and return the launcher's answers.

    Raises:
        SweepFailed: at the end, if runs failed.
    """
    assert sweeper.config is not None
    assert sweeper.launcher is not None
    assert sweeper.hydra_context is not None
    parser = OverridesParser.create(config_loader=sweeper.hydra_context.config_loader)
    params = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    runs = expand(sweeper.cases, [*params, *arguments], parser, common_overrides(sweeper.recipe, sweeper.paper))
    directory = Path(sweeper.config.hydra.sweep.dir)
    asked = [_asked(sweeper, run) for run in runs]  # all of them, before the first is started
    name = sweeper.config.get("sweep")
    try:
        write_aside(directory / "multirun.yaml", redacted(OmegaConf.to_yaml(sweeper.config)).encode())
        plan = Plan(name or UNNAMED, sweeper.recipe, command_arguments(sys.argv[1:]), tuple(asked))
        plan.write(Path(sweeper.config.runs_dir) / FOLDER)
    except OSError as error:
        raise InvalidInput(f"runs_dir: cannot write to {directory}: {error.strerror}") from None
    runs = _chosen(runs, asked, sweeper.only)

    title = f"sweep {name or 'without a name'}"
    print(f"{title}: {len(runs)} runs", flush=True)
    places = Places(Path(sweeper.config.runs_dir), Path(sweeper.config.results_dir))
    print(forecast([one.config for one in asked], recorded(places).values(), free_bytes(places.runs)), flush=True)
    returned: list[Sequence[Any]] = []
    launched = 0
    failures: list[tuple[Run, Failure]] = []
    waiting = runs
    while waiting:
        deferred: list[tuple[Run, Deferred]] = []
        for batch in BasicSweeper.split_overrides_to_chunks(waiting, sweeper.max_batch_size):
            batch = list(batch)
            results = sweeper.launcher.launch(batch, initial_job_idx=launched)
            answers = list(zip(batch, map(_answer, results), strict=True))
            failures += [(run, answer) for run, answer in answers if isinstance(answer, Failure)]
            deferred += [(run, answer) for run, answer in answers if isinstance(answer, Deferred)]
            returned.append(results)
            launched += len(batch)
        waiting = [run for run, _ in deferred]
        if waiting:
            print(f"{title}: others train the last {len(waiting)} runs; waiting for them", flush=True)
            _wait([answer.lease for _, answer in deferred])
    print(f"{title}: {len(runs) - len(failures)} of {len(runs)} runs are finished", flush=True)
    for run, failure in failures:
        print(redacted(f"failed: {' '.join(run)}: {failure.message}"), flush=True)
    if failures:
        raise SweepFailed(failures[0][1].code)
    return returned


def command_arguments(arguments: Sequence[str]) -> tuple[str, ...]:
    """Those that say what a sweep runs: without the one that makes it a sweep, and without a choice of its runs."""
    return tuple(
        text for text in arguments if text not in ("-m", "--multirun") and not text.startswith("hydra.sweeper.only=")
    )


def _asked(sweeper: CaseSweeper, run: Run) -> Asked:
    """Compose a run. An override that cannot be made ends the sweep here; a value that is refused, its run alone."""
    assert sweeper.hydra_context is not None
    assert sweeper.config is not None
    composed = _composed(sweeper.hydra_context, sweeper.config, run)
    try:
        return Asked.of(from_hydra(composed), run)
    except InvalidInput as problem:
        return Asked.refused(str(problem), run)


def _composed(context: HydraContext, config: DictConfig, run: Sequence[str]) -> DictConfig:
    composed = context.config_loader.load_sweep_config(config, list(run))
    with open_dict(composed):
        del composed["hydra"]
    return composed


def _chosen(runs: Sequence[Run], asked: Sequence[Asked], only: Sequence[str]) -> list[Run]:
    """The runs of these hashes; all, where none is named.

    Raises:
        InvalidInput: the sweep has no such run.
    """
    names = [one.run for one in asked]
    for name in only:
        if name not in names:
            raise unknown("hydra.sweeper.only", name, [known for known in names if known])
    return [run for run, name in zip(runs, names, strict=True) if not only or name in only]


def _wait(leases: Sequence[Path]) -> None:
    """Until nobody holds one of them: its run is finished, or was left by one that died."""
    while all(holder_of(lease.parent) for lease in leases):
        time.sleep(POLLED)


def _answer(result: Any) -> Any:
    """What a run returned; what it raised in a process of its own is a failure too."""
    try:
        return result.return_value
    except Exception as error:
        return Failure(1, " ".join(f"{type(error).__name__}: {error}".split()))


def _parsed(case: Any, field: str, taken: set[str], parser: OverridesParser) -> Run:
    texts = case.split() if isinstance(case, str) else case
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise InvalidInput(f"{field}: {case!r} is neither a text (sharing=lors dof=2.4M) nor a list of overrides")
    overrides: list[Override] = parser.parse_overrides(list(texts))
    for override in overrides:
        if override.is_hydra_override():
            raise InvalidInput(f"{field}: {override.input_line!r} is for Hydra; a case describes a run")
        if override.is_sweep_override():
            raise InvalidInput(f"{field}: {override.input_line!r} is a sweep; it belongs into hydra.sweeper.params")
    return [text for text, override in zip(texts, overrides, strict=True) if override.key_or_group not in taken]
