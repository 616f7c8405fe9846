"""States for people: plain lines that programs can cut too, a table on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rpg_bench.display import duration
from rpg_bench.sweeps.states import DONE, FAILED, LOST, MISSING, QUEUED, RUNNING, STOPPED, State, label
from rpg_bench.sweeps.survey import Survey

_STYLES = {
    DONE: "green",
    RUNNING: "bold cyan",
    QUEUED: "cyan",
    FAILED: "bold red",
    STOPPED: "yellow",
    LOST: "red",
    MISSING: "dim",
}


def show(found: Survey, console: Console) -> None:
    """Print what was found, once."""
    if console.is_terminal:
        console.print(_table(found))
        return
    for one in found.states:
        console.print(line(one), markup=False)
    console.print(found.disk(), markup=False)
    console.print(found.total(), markup=False)


def watch(look: Callable[[], Survey], seconds: float, console: Console) -> Survey:
    """Show what is found again and again, until all is done or failed, or Ctrl-C; returns what was found last.

    Where the output is no terminal, a line is printed whenever something has changed.
    """
    found = look()
    try:
        if console.is_terminal:
            with Live(_table(found), console=console, auto_refresh=False, screen=False) as live:
                while not found.settled:
                    time.sleep(seconds)
                    found = look()
                    live.update(_table(found), refresh=True)
            return found
        show(found, console)
        while not found.settled:
            time.sleep(seconds)
            before, found = {one.name: _changing(one) for one in found.states}, look()
            for one in found.states:
                if before.get(one.name) != _changing(one):
                    console.print(line(one), markup=False)
        console.print(found.total(), markup=False)
    except KeyboardInterrupt:
        pass
    return found


def line(one: State) -> str:
    """One run: hash, state, top-1, overrides, and in brackets what else is known."""
    top1 = f"{one.top1:6.2f} %" if one.top1 is not None else " " * 8
    what = " ".join(one.asked.overrides) or label(one.asked.config)
    details = [text for text in (_where(one), _progress(one), _left(one), one.why) if text]
    bracket = f"  ({'; '.join(details)})" if details else ""
    return f"{one.name}  {one.state:<7}  {top1}  {what}{bracket}"


def _table(found: Survey) -> Any:
    table = Table(box=None, pad_edge=False, expand=True)
    for name in ("run", "state", "top-1", "progress", "left", "where", "what"):
        table.add_column(name, no_wrap=name != "what", justify="right" if name in ("top-1", "left") else "left")
    for one in found.states:
        what = Text(" ".join(one.asked.overrides) or label(one.asked.config))
        if one.why:
            what.append(f"\n{one.why}", style="red")
        table.add_row(
            one.name,
            Text(one.state, style=_STYLES[one.state]),
            f"{one.top1:.2f}" if one.top1 is not None else "",
            _progress(one),
            duration(one.seconds_left) if one.state == RUNNING and one.seconds_left is not None else "",
            _where(one),
            what,
        )
    return Group(table, Text(found.disk(), style="dim"), Text(found.total(), style="bold"))


def _where(one: State) -> str:
    if one.job is not None:
        return f"Slurm job {one.job}"
    if one.owner is None:
        return ""
    since = f" since {one.progress['since'][11:16]} UTC" if one.progress and one.state == RUNNING else ""
    return f"process {one.owner.pid} on {one.owner.host}{since if one.state == RUNNING else ' is gone'}"


def _progress(one: State) -> str:
    if one.progress is None or one.state == DONE:
        return ""
    progress = one.progress
    share = 100 * progress["step"] / max(1, progress["steps"])
    return f"epoch {progress['epoch']}/{progress['epochs']}, {share:.0f} %"


def _left(one: State) -> str:
    return f"{duration(one.seconds_left)} left" if one.state == RUNNING and one.seconds_left is not None else ""


def _changing(one: State) -> tuple[Any, ...]:
    return one.state, (one.progress or {}).get("epoch"), one.why
