"""Weights & Biases: everything is logged, a run goes on under its id, and a failure is no failure of training."""

from __future__ import annotations

import contextlib
import json
import logging
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from runner import only_record, train_tiny, untimed
from test_resume import stopping_after
from torture.server import Server

from rpg_bench.config import TrackingConfig
from rpg_bench.engine import Trainer
from rpg_bench.errors import InvalidInput
from rpg_bench.signals import Interrupted
from rpg_bench.tracking import Tracker


def stored(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: a log in blocks of 32 KiB, as LevelDB writes it."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    name, magic, _ = struct.unpack("<4sHB", data[:7])
    assert (name, magic) == (b":W&B", 0xBEE1)
    position, pieces = 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        checksum, length, kind = struct.unpack("<IHB", data[position : position + 7])
        if kind == 0:
            position += left
            continue
        piece = data[position + 7 : position + 7 + length]
        if len(piece) < length:
            return  # still being written
        assert zlib.crc32(piece, zlib.crc32(bytes([kind]))) & 0xFFFFFFFF == checksum
        position += 7 + length
        pieces = piece if kind in (1, 2) else pieces + piece
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(pieces)
            yield record


def values(items: Iterable[Any]) -> dict[str, Any]:
    return {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in items}


def read_back(path: Path) -> dict[str, Any]:
    """What an offline run holds."""
    run: dict[str, Any] = {"history": [], "config": {}, "summary": {}, "exit_code": None}
    for record in stored(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.update(id=record.run.run_id, group=record.run.run_group, project=record.run.project)
            run.update(name=record.run.display_name, tags=list(record.run.tags))
            run["config"].update(values(record.run.config.update))
        elif kind == "config":
            run["config"].update(values(record.config.update))
        elif kind == "history":
            row = values(record.history.item)
            run["history"].append({key: value for key, value in row.items() if not key.startswith("_")})
        elif kind == "summary":
            run["summary"].update(values(record.summary.update))
        elif kind == "exit":
            run["exit_code"] = record.exit.exit_code
    return run


def offline_runs(directory: Path, count: int = 1) -> list[dict[str, Any]]:
    """The offline runs below `directory`, the oldest first. W&B's own process may still be writing them."""
    limit = time.monotonic() + 30
    while True:
        files = sorted(directory.rglob("*.wandb"), key=lambda path: path.parent.name)
        with contextlib.suppress(struct.error):  # an empty file
            runs = [read_back(path) for path in files]
            if len(runs) == count and all(run["exit_code"] is not None for run in runs):
                return runs
        assert time.monotonic() < limit, f"{count} runs expected, found {files}"
        time.sleep(0.05)


def test_an_offline_run_is_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_tiny("tracking=offline", "sweep=a sweep", "tracking.tags=[mine]", "tracking.project=somewhere")
    record = only_record(tmp_path)
    (run,) = offline_runs(tmp_path)
    assert run["history"] == record["history"]
    assert run["config"]["recipe"]["batch_size"] == 32
    assert run["config"]["hash"] == record["hash"]
    assert run["config"]["dof_report"] == record["dof"]
    assert (run["project"], run["group"]) == ("somewhere", "a sweep")
    assert {"mine", "rpg_global", "test_resnet", "digits"} <= set(run["tags"])
    assert "5k" in run["name"]
    assert "rpg_global" in run["name"]
    summary = run["summary"]
    assert (summary["status"], summary["dof"], summary["total"]) == ("finished", 5000, record["dof"]["total"])
    assert summary["top1"] == record["final"]["test_top1"]
    assert run["exit_code"] == 0
    (folder,) = tmp_path.rglob("offline-run-*")
    assert str(folder.relative_to(tmp_path)) in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results", "runs"]


def test_name_and_group_can_be_given(tmp_path: Path) -> None:
    train_tiny("tracking=offline", "tracking.name=my name", "tracking.group=my group", "sweep=x", "recipe.epochs=1")
    (run,) = offline_runs(tmp_path)
    assert (run["name"], run["group"]) == ("my name", "my group")


def test_a_stopped_run_goes_on_under_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stopping_after(monkeypatch, 11), pytest.raises(Interrupted):
        train_tiny("tracking=offline")
    train_tiny("tracking=offline")
    first, second = offline_runs(tmp_path, 2)
    assert first["id"] == second["id"]
    assert [row["epoch"] for row in first["history"]] == [1]
    assert second["history"] == only_record(tmp_path)["history"]
    assert first["exit_code"] != 0  # not shown as finished
    assert second["exit_code"] == 0


def test_a_run_that_diverges_is_shown_as_failed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        train_tiny("tracking=offline", "optimizer.lr=1e30")
    (run,) = offline_runs(tmp_path)
    assert run["exit_code"] == 1
    assert run["summary"]["status"] == "failed"


def test_a_run_that_fails_is_closed_before_the_next_of_its_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its disk is full. Both have a process, and W&B would log the second into the first."""
    step = Trainer._step

    def failing(trainer: Trainer, batches: Any) -> None:
        step(trainer, batches)
        if trainer.config.seed == 0 and trainer.position.step == 12:
            raise InvalidInput("runs_dir: no checkpoint can be written")

    monkeypatch.setattr(Trainer, "_step", failing)
    with pytest.raises(InvalidInput, match="no checkpoint"):
        train_tiny("tracking=offline", "seed=0")
    train_tiny("tracking=offline", "seed=1")
    runs = {run["config"]["seed"]: run for run in offline_runs(tmp_path, 2)}
    assert runs[0]["exit_code"] == 1
    assert [row["epoch"] for row in runs[0]["history"]] == [1]
    assert runs[1]["exit_code"] == 0
    assert runs[1]["history"] == only_record(tmp_path)["history"]


def test_tracking_changes_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for mode in ("disabled", "offline"):
        folder = tmp_path / mode
        folder.mkdir()
        monkeypatch.chdir(folder)
        train_tiny(f"tracking={mode}", "recipe.epochs=1")
        found.append(untimed(only_record(folder)))
    assert found[0] == found[1]


class Broken:
    """A W&B run of which one method raises."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.url, self.dir = None, "nowhere/files"
        self.summary = self

    def _call(self, method: str) -> None:
        if method == self.method:
            raise ConnectionError("the network\nis gone")

    def log(self, *_: Any, **__: Any) -> None:
        self._call("log")

    def update(self, *_: Any) -> None:
        self._call("update")

    def finish(self, **_: Any) -> None:
        self._call("finish")


@pytest.mark.parametrize(("way", "verb"), [("closed", "start"), ("dies", "finish"), ("silent", "finish")])
def test_a_server_that_is_away_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], way: str, verb: str
) -> None:
    """W&B's own client would wait for it for ever."""
    train_tiny("runs_dir=other/runs", "results_dir=other/results", "recipe.epochs=1")
    monkeypatch.setattr("rpg_bench.tracking.BEGINNING", 3.0 if verb == "start" else 60.0)
    monkeypatch.setattr("rpg_bench.tracking.FINISHING", 3.0)
    capsys.readouterr()
    with Server(way) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        wandb.teardown()  # it remembers the address
        train_tiny("tracking=online", "recipe.epochs=1")
    monkeypatch.undo()
    wandb.teardown()
    assert untimed(only_record(tmp_path)) == untimed(only_record(tmp_path / "other"))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tracking: ")]
    assert line.startswith(f"tracking: W&B could not {verb} (")
    assert list(tmp_path.glob("runs/*/wandb/run-*/*.wandb"))  # can be sent later


@pytest.mark.parametrize("method", ["init", "log", "update", "finish"])
def test_a_failure_of_tracking_is_said_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    def init(**_: Any) -> Broken:
        if method == "init":
            raise ConnectionError("the network\nis gone")
        return Broken(method)

    monkeypatch.setattr(wandb, "init", init)
    train_tiny("tracking=offline")
    assert only_record(tmp_path)["status"] == "finished"
    out = capsys.readouterr().out
    assert out.count("the network") == 1
    assert "tracking" in next(line for line in out.splitlines() if "the network" in line)


def test_a_message_of_w_and_b_stays_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise ConnectionError("the network\nis gone")

    monkeypatch.setattr(wandb, "init", init)
    said: list[str] = []
    Tracker(TrackingConfig(mode="offline"), Path("runs"), "abc", said.append).begin()
    assert len(said) == 1
    assert "\n" not in said[0]


def test_only_the_main_process_tracks(tmp_path: Path) -> None:
    tracker = Tracker(TrackingConfig(mode="offline"), tmp_path, "abc", None)
    tracker.log({"a": 1}, 1)
    tracker.finish()
    assert list(tmp_path.iterdir()) == []


def test_disabled_tracking_leaves_w_and_b_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb, "init", lambda **_: pytest.fail("it was started"))
    train_tiny("recipe.epochs=1")
    assert only_record(tmp_path)["status"] == "finished"
    assert not list(tmp_path.rglob("*wandb*"))


def test_w_and_b_says_nothing_of_its_own(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.WARNING):
        train_tiny("tracking=offline", "recipe.epochs=1")
    assert "wandb:" not in capfd.readouterr().err
    assert [record.name for record in caplog.records if record.name.startswith("wandb")] == []
