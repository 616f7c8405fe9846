"""What became of sweeps, and what to do about it.

python -m rpg_bench.sweeps status                    # every run that has a directory
python -m rpg_bench.sweeps status accuracy_vs_dof    # the runs of an experiment; --recipe paper, --watch, --json
python -m rpg_bench.sweeps list                      # the sweeps that were started here, a line each
python -m rpg_bench.sweeps retry accuracy_vs_dof     # run again what failed, and only that; key=value is passed on
python -m rpg_bench.sweeps clean                     # remove what no finished record needs; asks first

States: done (its record is finished), running (a living process holds it), queued (a job of Slurm's is to train it),
failed (it ended by an error, which is shown), stopped (left in good order; the sweep's command continues it), lost (its
process ended without a word, as by kill -9; the sweep's command continues it), missing (not begun).

Exit codes. All: 0 in order, 2 bad input, 130 stopped by Ctrl-C. status --exit-code: 0 if every run is done, 1 if one
has failed, 3 if none has and some are not done. retry: that of the first sweep that fails again. clean: 1 if a run was
left alone as it is being trained, or something could not be removed.

JSON, format 1 (keys may be added, none will change): {"format", "at" (UTC), "sweeps": [{"title", "counts": {state:
runs}, "seconds_left" (of training, one run after another), "runs_without_estimate", "disk_bytes" (of the whole folder
of runs), "free_bytes", "runs": [{"run" (hash), "state", "overrides", "seed", "top1" (final, percent, of a run that is
done), "owner": {"host", "pid", "since"}, "job" (Slurm's), "progress": {"epoch", "epochs", "step", "steps",
"train_seconds", "updated", "metrics"}, "seconds_left", "failure": {"kind", "message", "at", "host", "last_lines"},
"resumable", "directory", "record", "bytes"}]}]}; null where there is nothing to say. `list --json` has no "runs".
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from rpg_bench.errors import BAD_INPUT, INTERRUPTED, InvalidInput, unknown
from rpg_bench.progress import utc
from rpg_bench.sweeper import RECIPES
from rpg_bench.sweeps import clean, retry, table
from rpg_bench.sweeps.disk import readable
from rpg_bench.sweeps.plan import read_plans
from rpg_bench.sweeps.states import DONE, FAILED
from rpg_bench.sweeps.survey import Places, Survey, survey

FORMAT = 1
SOME_FAILED, UNFINISHED = 1, 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit; the codes are above."""
    try:
        asked, more = _parser().parse_known_args(arguments)
        if more and asked.command != "retry":
            raise InvalidInput(f"command line: {more[0]!r} is not understood; see --help")
        asked.more = more
        places = Places(asked.runs, asked.results)
        code = {"status": _status, "list": _list, "retry": _retry, "clean": _clean}[asked.command](asked, places)
    except InvalidInput as error:
        print(f"error: {error}", file=sys.stderr)
        code = BAD_INPUT
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough
        sys.stderr.close()
        code = 0
    if code:
        raise SystemExit(code)


def _status(asked: argparse.Namespace, places: Places) -> int:
    def look() -> Survey:
        return survey(asked.experiment, asked.recipe, places)

    if asked.watch is not None and asked.watch <= 0:
        raise InvalidInput(f"--watch: {asked.watch:g} is not a positive number of seconds")
    console = _console()
    if asked.json:
        found = look()
        _print_json([found.to_dict()])
    elif asked.watch is not None:
        found = table.watch(look, asked.watch, console)
    else:
        found = look()
        table.show(found, console)
    if not asked.exit_code or found.counts[DONE] == len(found.states):
        return 0
    return SOME_FAILED if found.counts[FAILED] else UNFINISHED


def _list(asked: argparse.Namespace, places: Places) -> int:
    started = dict.fromkeys((plan.sweep, plan.recipe) for plan in read_plans(places.runs))
    found = [survey(sweep, recipe, places) for sweep, recipe in started]
    if asked.json:
        _print_json([{key: value for key, value in one.to_dict().items() if key != "runs"} for one in found])
        return 0
    console = _console()
    for one in found:
        console.print(one.total(), markup=False)
    if not found:
        console.print(f"no sweep was started below {places.runs}", markup=False)
    return 0


def _retry(asked: argparse.Namespace, places: Places) -> int:
    for text in asked.more:
        if text.startswith("-") or "=" not in text:
            raise InvalidInput(f"command line: {text!r} is neither an option of retry nor an override (key=value)")
    commands, refused = retry.commands(asked.experiment, asked.recipe, places, asked.more)
    if refused:
        print(f"{refused} runs are refused for their configuration, and are not run again; see status")
    for count, command in retry.unfinished(asked.experiment, asked.recipe, places):
        print(f"{count} runs are unfinished, not failed; what continues them: {shlex.join(command)}")
    if not commands:
        print("nothing to run again")
    code = 0
    for command in commands:
        if asked.dry_run:
            print(shlex.join(command))
        else:
            code = code or retry.run(command)
    return code


def _clean(asked: argparse.Namespace, places: Places) -> int:
    if asked.keep not in clean.KEEPS:
        raise unknown("--keep", asked.keep, clean.KEEPS)
    removal = clean.removable(places, asked.keep, asked.older_than)
    for item in removal.items:
        print(f"{readable(item.bytes):>10}  {item.path}  ({item.why})")
    for line in removal.held:
        print(f"left alone: {line}")
    left_alone = SOME_FAILED if removal.held else 0
    if not removal.items:
        print("nothing to remove")
        return left_alone
    total = f"{len(removal.items)} files and folders, {readable(removal.bytes)}"
    if asked.dry_run:
        print(f"would remove {total}")
        return left_alone
    if not asked.yes and not _confirmed(f"remove {total}? [y/N] "):
        print("nothing was removed")
        return left_alone
    problems = clean.remove(removal, places, asked.keep, asked.older_than)
    for problem in problems:
        print(f"not removed: {problem}", file=sys.stderr)
    left = sum(os.path.lexists(item.path) for item in removal.items)
    print(f"removed {total}" if not left else f"removed {len(removal.items) - left} of {total}")
    return SOME_FAILED if problems else left_alone


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise InvalidInput("clean: there is nobody to ask here; --yes removes, --dry-run only shows")
    return input(question).strip().lower() in ("y", "yes")


def _print_json(sweeps: list[dict[str, object]]) -> None:
    print(json.dumps({"format": FORMAT, "at": utc(), "sweeps": sweeps}, indent=1))


def _console() -> Console:
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = _Parser(
        prog="python -m rpg_bench.sweeps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    common = _Parser(add_help=False, allow_abbrev=False)
    common.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of run directories")
    common.add_argument("--results", type=Path, default=Path("results"), help="the folder that has records/")
    commands = parser.add_subparsers(dest="command", required=True, metavar="status|list|retry|clean")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[common], allow_abbrev=False)

    status = add("status", "the state of each run")
    status.add_argument("experiment", nargs="?", metavar="EXPERIMENT", help="all runs below --runs by default")
    status.add_argument("--recipe", choices=RECIPES, default="cpu", help="the experiment's own, or its paper's")
    status.add_argument("--json", action="store_true", help="for programs")
    status.add_argument(
        "--watch", nargs="?", type=float, const=5.0, metavar="SECONDS", help="until all is done or failed"
    )
    status.add_argument("--exit-code", action="store_true", help="0 all done, 1 some failed, 3 some not done")
    add("list", "the sweeps that were started here").add_argument("--json", action="store_true", help="for programs")
    again = add("retry", "run again what failed, and only that")
    again.add_argument("experiment", nargs="?", metavar="EXPERIMENT", help="all sweeps that were started here")
    again.add_argument("--recipe", choices=RECIPES, help="the experiment's own, or its paper's; any by default")
    again.add_argument("--dry-run", action="store_true", help="print the commands only")
    remove = add("clean", "remove what no finished record needs; asks first")
    remove.add_argument("--keep", default="best", metavar="|".join(clean.KEEPS), help="of a finished run's checkpoints")
    remove.add_argument("--older-than", type=float, default=clean.DAYS, metavar="DAYS", help="for forgotten runs")
    remove.add_argument("--yes", action="store_true", help="do not ask")
    remove.add_argument("--dry-run", action="store_true", help="show only")
    return parser


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise InvalidInput(f"command line: {message}")
