"""The short form of `make torture`, and that its judgement can be trusted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runner import ROOT, checkpoints, train_tiny
from test_resume import enter
from torture.command import Ended
from torture.compare import differences
from torture.damage import DAMAGES
from torture.plans import SHORT, SIGNALS, VARIANTS, plan

from rpg_bench import checkpoint


@pytest.mark.timeout(900)
@pytest.mark.parametrize("series", SHORT, ids=lambda series: series.kind)
def test_nothing_is_lost(tmp_path: Path, series: object) -> None:
    number = SHORT.index(series)  # type: ignore[arg-type]
    command = [sys.executable, "-m", "torture", "--short", "--jobs", "1", "--series", str(number)]
    done = subprocess.run(
        [*command, "--work", str(tmp_path / "work")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=840,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    if "skipped" in done.stdout:
        pytest.skip(next(line.strip() for line in done.stdout.splitlines() if "disks: " in line))
    assert "LOSSES: 0" in done.stdout
    faults = [fault for disturbed in SHORT[number].rounds for fault in disturbed.faults]
    for fault in faults:  # each has hit, where it was to
        place = fault["point"] if fault["delay"] or fault["point"] == "step" else f"{fault['when']} {fault['point']}"
        assert place in done.stdout, f"{fault} has not hit:\n{done.stdout}"
        assert fault["act"] in done.stdout
    starved = sum(not disturbed.freed for disturbed in SHORT[number].rounds)
    assert not starved or f"{starved}  started on a disk that could not be written" in done.stdout
    assert not (tmp_path / "work").exists()


def test_the_short_form_has_all_signals() -> None:
    acts = {fault["act"] for series in SHORT for disturbed in series.rounds for fault in disturbed.faults}
    assert acts >= {*SIGNALS, "ENOSPC", "fill", "read-only"}


def test_a_series_is_a_function_of_seed_and_number() -> None:
    assert plan(3, 17) == plan(3, 17) != plan(4, 17)
    planned = [plan(0, number) for number in range(60)]
    assert {series.variant for series in planned} == set(VARIANTS)
    assert {series.kind for series in planned} == {"files", "disk", "server"}
    rounds = [disturbed for series in planned for disturbed in series.rounds]
    assert {disturbed.damage for disturbed in rounds} == {None, *DAMAGES}
    sent = {name for disturbed in rounds for _, name in disturbed.signals}
    assert sent == set(SIGNALS) == {f["act"] for r in rounds for f in r.faults if f["act"].startswith("SIG")}
    assert all(hasattr(signal, name) for name in SIGNALS)


def test_a_single_bit_is_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (enter(tmp_path / name, monkeypatch) for name in ("first", "second"))
    for folder in (first, second):
        enter(folder, monkeypatch)
        train_tiny("recipe.epochs=1", "checkpoint_seconds=1" if folder is first else "checkpoint_seconds=2")
    assert differences(first, second) == []
    path = checkpoints(second)[-1]
    state = checkpoint.load(path)
    name, value = next((name, value) for name, value in state["model"].items() if value.dtype == torch.float32)
    value.view(torch.int32).view(-1)[0] ^= 1
    checkpoint.save(path.parent, state["position"]["step"], state)
    assert differences(first, second) == [f"checkpoint.model.{name}"]
    (record,) = second.glob("results/records/*.json")
    record.write_text(record.read_text().replace('"status": "finished"', '"status": "failed"'))
    assert "record.status" in differences(first, second)


def test_where_a_signal_has_hit() -> None:
    events = [(0.0, "begin"), (1.0, "+data"), (2.0, "-data"), (3.0, "+resume"), (4.0, "-resume"), (4.0, "resumed 7")]
    events += [(5.0, "+step"), (6.0, "-step"), (6.0, "step 8"), (7.0, "+evaluation")]
    ended = Ended(-9, "", "", events, [(6.5, "SIGKILL"), (9.0, "SIGTERM")], False)
    places = [ended.phase(at) for at in (0.5, 1.5, 2.5, 3.5, 5.5, 6.5, 8.0)]
    assert places == ["start-up", "data", "model", "resume", "step", "between steps", "evaluation"]
    assert ended.struck == (6.5, "SIGKILL", "between steps")
    assert (ended.resumed, ended.steps) == (7, [(6.0, 8)])
