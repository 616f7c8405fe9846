"""Runs again what failed, through the command of the sweep that asked for it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence

from rpg_bench.errors import InvalidInput
from rpg_bench.secrets import HIDDEN
from rpg_bench.sweeps.past import Past
from rpg_bench.sweeps.plan import Plan, read_plans
from rpg_bench.sweeps.states import FAILED, LOST, STOPPED, state_of, with_queued
from rpg_bench.sweeps.survey import Places

Command = list[str]
_SWEEP = (sys.executable, "-m", "rpg_bench.train", "--multirun")


def commands(sweep: str | None, recipe: str | None, places: Places, more: Sequence[str]) -> tuple[list[Command], int]:
    """What to run: one command for each sweep that has failures. Each failed run is in one of them.

    Args:
        sweep: its name; all sweeps that were started here, if None.
        recipe: of the sweep; any, if None.
        places: where runs and records lie.
        more: arguments that are added, as `hydra/launcher=slurm`; they replace those of the same key.

    Returns:
        The commands, and the number of failed runs that are not in them, as their configuration is refused: that
        fails again until it is changed.

    Raises:
        InvalidInput: no such sweep was started here.
    """
    plans = read_plans(places.runs, sweep, recipe)
    if sweep is not None and not plans:
        raise InvalidInput(f"experiment: no sweep {sweep!r} was started below {places.runs}; retry needs its command")
    taken: set[str] = set()
    refused: set[tuple[str, ...]] = set()
    found: list[Command] = []
    for plan in reversed(plans):  # the last command that asked for a run counts
        failed = []
        for one in plan.runs:
            if one.problem:
                refused.add(one.overrides)
            elif one.run not in taken and state_of(one, Past(()), {}).state == FAILED:
                failed.append(one.run)
                taken.add(one.run)
        if failed:
            found.append(_command(plan, failed, more))
    return found, len(refused)


def unfinished(sweep: str | None, recipe: str | None, places: Places) -> list[tuple[int, Command]]:
    """How many runs of each sweep were stopped or lost, and are in no queue, with the sweep's own command, which
    continues them."""
    taken: set[str] = set()
    found: list[tuple[int, Command]] = []
    for plan in reversed(read_plans(places.runs, sweep, recipe)):
        asked = [one for one in plan.runs if one.run and one.run not in taken]
        taken |= {one.run for one in asked}
        states = with_queued([state_of(one, Past(()), {}) for one in asked])
        count = sum(one.state in (STOPPED, LOST) for one in states)
        if count:
            found.append((count, [*_SWEEP, *plan.arguments]))
    return found


def run(command: Command) -> int:
    """Run one; its exit code."""
    print(f"$ {shlex.join(command)}", flush=True)
    return subprocess.run(command, check=False).returncode


def _command(plan: Plan, runs: Sequence[str], more: Sequence[str]) -> Command:
    keys = {_key(text) for text in more}
    kept = [text for text in plan.arguments if "=" not in text or _key(text) not in keys]
    if any(HIDDEN in text for text in kept):
        raise InvalidInput("retry: the sweep's command held a secret, which was not kept; give the argument again")
    only = f"hydra.sweeper.only=[{','.join(runs)}]"
    return [*_SWEEP, *kept, *more, only]


def _key(text: str) -> str:
    return text.partition("=")[0].lstrip("+~")
