"""The command line: sections by name, options as key=value, one line for what is wrong."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rpg_bench.arguments import boolean
from rpg_bench.benchmarks import check, result, summary
from rpg_bench.benchmarks.result import Result, Settings
from rpg_bench.errors import BAD_INPUT, FAILED, Failed, InvalidInput, unknown

SECTIONS = (
    "step",
    "schemes",
    "unpack",
    "data",
    "inference",
    "memory",
    "setup",
    "growth",
    "small_maps",
    "attention",
    "deployed",
)
SHORT = ("step", "schemes", "unpack", "data", "inference", "memory", "setup")  # what CI compares
OPTIONS = ("short", "device", "output")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Command:
    """What was asked for."""

    sections: tuple[str, ...]
    settings: Settings
    output: Path  # of the short form: its folder `short`
    compare: bool  # `check`: measure the short form and compare it with what is recorded


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exit codes: 0 done, 1 a figure has become worse, 2 bad input."""
    try:
        execute(parse(sys.argv[1:] if arguments is None else arguments))
    except (InvalidInput, Failed) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(BAD_INPUT if isinstance(error, InvalidInput) else FAILED) from None


def parse(arguments: Sequence[str]) -> Command:
    """Read the command line.

    Raises:
        InvalidInput: an unknown section, option or value, or a device that is not there.
    """
    options = {"short": "false", "device": "auto", "output": "results/benchmarks"}
    names: list[str] = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            names.append(argument)
        elif key not in OPTIONS:
            raise unknown("command line", key, OPTIONS)
        else:
            options[key] = value
    compare = "check" in names
    names = [name for name in names if name != "check"]
    short = boolean("short", options["short"]) or compare
    allowed = SHORT if short else SECTIONS
    for name in names:
        if name not in allowed:
            raise unknown("section", name, (*allowed, "check"))
    settings = Settings(short, _device(options["device"]))
    output = Path(options["output"]) / "short" if short else Path(options["output"])
    return Command(tuple(names) or allowed, settings, output, compare)


def execute(command: Command) -> None:
    """Measure, and write or compare.

    Raises:
        Failed: a figure has become worse than what is recorded allows.
    """
    if command.settings.short:
        torch.set_num_threads(1)  # two would wait for one another on a busy machine
    print(f"benchmark on {result.device_name(command.settings.device)}, {torch.get_num_threads()} threads", flush=True)
    if command.compare:
        device = command.settings.device
        check.compare(command.output, command.sections, device, lambda name: _measure(name, command.settings)[0])
        return
    for name in command.sections:
        found, seconds = _measure(name, command.settings)
        result.write(command.output, name, _module(name).TITLE, found, command.settings, seconds)
        if hasattr(_module(name), "draw"):
            drawn = _module(name).draw(found, command.output)
            print("\n".join(f"figure      {path}" for path in drawn) or "no figure: matplotlib is not installed")
    path = summary.write(command.output, SECTIONS)
    print(f"summary     {path}")


def _measure(name: str, settings: Settings) -> tuple[Result, float]:
    print(f"{name}: {_module(name).TITLE}", flush=True)
    started = time.monotonic()
    found: Result = _module(name).run(settings)
    seconds = time.monotonic() - started
    for figure in found.figures:
        print(f"  {summary.line(figure)}")
    print(f"  {seconds:.0f} s", flush=True)
    return found, seconds


def _module(name: str) -> Any:
    return importlib.import_module(f"rpg_bench.benchmarks.{name}")


def _device(name: str) -> torch.device:
    if name not in DEVICES:
        raise unknown("device", name, DEVICES)
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("device: 'cuda' is not available here; allowed: auto, cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
