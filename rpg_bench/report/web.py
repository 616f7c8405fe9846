"""All runs on one page that needs nothing else: no server, no network."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rpg_bench.report.commands import command_of
from rpg_bench.report.experiments import read_runs
from rpg_bench.report.records import Record, Records
from rpg_bench.report.style import STYLES, TICKS
from rpg_bench.runs import run_hash

TEMPLATE = Path(__file__).with_name("report_page.html")
_PLACE = "/*DATA*/"


def web_page(records: Records, experiments: Iterable[str]) -> str:
    """The page; the same text for the same records.

    Args:
        records: what it shows.
        experiments: whose commands are known; a run of none of them is shown without.
    """
    commands: dict[str, str] = {}
    for name in experiments:
        for case in read_runs(name):
            for seed in records.seeds:
                run = run_hash(dataclasses.replace(case.config, seed=seed))
                if run in records.found and run not in commands:
                    commands[run] = command_of(name, case, seed)
    runs = [_run(record, commands) for _, record in sorted(records.found.items())]
    data = json.dumps({"runs": runs, "styles": STYLES, "ticks": TICKS}, separators=(",", ":"))
    # A text in a record must not end the element that holds the data.
    return TEMPLATE.read_text(encoding="utf-8").replace(_PLACE, data.replace("<", "\\u003c"))


def _run(record: Record, commands: dict[str, str]) -> dict[str, Any]:
    values, config = record.values, record.values["config"]
    versions, hardware = values.get("versions", {}), values.get("hardware", {})
    options = config["sharing"].get("options", {})
    return {
        "hash": record.name,
        "scheme": config["sharing"]["name"],
        "options": ", ".join(f"{key} {value}" for key, value in options.items() if value is not None),
        "backbone": config["backbone"]["name"],
        "dataset": config["dataset"]["name"],
        "evaluated": f"{values.get('data', {}).get('evaluated_on', 'test')} images",
        "recipe": config["recipe"]["name"],
        "epochs": config["recipe"]["epochs"],
        "seed": record.seed,
        "dof": record.dof,
        "slots": record.slot_scalars,
        "share": record.dof / record.slot_scalars,
        "total": record.total,
        "top1": record.top1,
        "minutes": values["train_seconds"] / 60,
        "hardware": f"{hardware.get('cpu', 'unknown')}, {_threads(hardware)}",
        "torch": versions.get("torch", "unknown"),
        "commit": values["git"]["commit"][:12],
        "command": commands.get(record.name, ""),
    }


def _threads(hardware: dict[str, Any]) -> str:
    count = hardware.get("threads", "?")
    return "1 thread" if count == 1 else f"{count} threads"
