"""The file that a run leaves: complete, strict JSON, and honest about failure."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from runner import ROOT, TINY, checkpoints, configured, only_record, train_tiny

from rpg_bench import InvalidInput, records
from rpg_bench.command_line import run_command
from rpg_bench.engine import Diverged
from rpg_bench.finished import read_record
from rpg_bench.records import write_record
from rpg_bench.runs import RunFiles, run_hash
from rpg_bench.train import train

# Design, section 6.
REQUIRED = {
    "config",
    "hash",
    "seed",
    "sweep",
    "status",
    "git",
    "versions",
    "hardware",
    "dof",
    "history",
    "final",
    "best",
    "train_seconds",
    "images_per_second",
    "peak_memory_bytes",
    "artefact_bytes",
}


def strict(text: str) -> Any:
    """Parse JSON without the NaN and Infinity that Python's parser accepts."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        train_tiny("seed=3", "sweep=a sweep", f"dataset.root={folder}")
    (path,) = (folder / "results" / "records").glob("*.json")
    record: dict[str, Any] = strict(path.read_text())
    record["where"] = str(folder)
    record["file"] = path.name
    return record


def test_a_record_has_every_field_of_the_design(finished: dict[str, Any]) -> None:
    assert finished.keys() >= REQUIRED
    assert finished["status"] == "finished"
    assert (finished["seed"], finished["sweep"]) == (3, "a sweep")


def test_a_record_states_its_configuration_and_hash(finished: dict[str, Any]) -> None:
    config = configured(*TINY, "seed=3")
    assert finished["hash"] == run_hash(config)
    assert finished["file"] == f"{run_hash(config)}.json"
    assert finished["config"]["dof"] == 5000
    assert finished["config"]["recipe"]["batch_size"] == 32
    assert finished["config"]["backbone"]["name"] == "test_resnet"


def test_a_record_has_no_path_of_the_machine(finished: dict[str, Any]) -> None:
    where = finished["where"]
    text = json.dumps({key: value for key, value in finished.items() if key != "where"})
    assert where not in text
    assert str(Path.home()) + "/" not in text


def test_a_record_counts_the_degrees_of_freedom(finished: dict[str, Any]) -> None:
    report = finished["dof"]
    assert (report["scheme"], report["dof"], report["slot_scalars"]) == ("rpg_global", 5000, 363_264)
    assert report["total"] == report["dof"] + report["private"]
    assert report["dense"] == report["slot_scalars"] + report["private"]


def test_a_record_has_the_history_of_every_epoch(finished: dict[str, Any]) -> None:
    history = finished["history"]
    assert [row["epoch"] for row in history] == [1, 2]
    for row in history:
        assert row.keys() >= {"train_loss", "train_top1", "test_loss", "test_top1", "test_top5", "lr", "seconds"}
        assert all(math.isfinite(value) for value in row.values())
        assert row["test_top1"] * 3.6 == pytest.approx(round(row["test_top1"] * 3.6))  # of 360 images
        assert row["test_top1"] <= row["test_top5"] <= 100
    assert finished["final"]["test_top1"] == history[-1]["test_top1"]
    best = max(history, key=lambda row: row["test_top1"])
    assert finished["best"]["test_top1"] == best["test_top1"]
    assert finished["steps"] == 16


def test_a_record_says_what_it_ran_on(finished: dict[str, Any]) -> None:
    assert finished["versions"].keys() >= {"python", "torch", "timm", "numpy"}
    assert finished["hardware"]["threads"] >= 1
    assert finished["device"] == "cpu"
    assert finished["peak_memory_bytes"] > 50_000_000
    assert finished["images_per_second"] > 0
    assert 4 * finished["dof"]["total"] < finished["artefact_bytes"] < 8 * finished["dof"]["total"] + 50_000


def test_a_record_of_a_checkout_names_its_commit(finished: dict[str, Any]) -> None:
    git = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    if git.returncode:
        pytest.skip("this is no git checkout")
    assert finished["git"]["commit"] == git.stdout.strip()
    assert isinstance(finished["git"]["dirty"], bool)


def test_an_installed_copy_has_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither outside of any repository nor inside one that it is no part of."""
    installed = tmp_path / "site-packages" / "rpg_bench" / "records.py"
    installed.parent.mkdir(parents=True)
    installed.touch()
    (installed.parent / "__init__.py").touch()
    monkeypatch.setattr(records, "__file__", str(installed))
    assert records.provenance()["git"] is None
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert records.provenance()["git"] is None


def test_a_machine_without_git_has_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert records.provenance()["git"] is None


def test_a_record_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "record.json"
    write_record(path, {"status": "finished"})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_record(path, {"status": "finished", "loss": math.nan})
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["record.json"]


@pytest.mark.parametrize("content", ["", "{", "null", "[]", "3", '{"status": "finished"}', "\xff"])
def test_what_is_no_record_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InvalidInput, match=re.escape(str(path))):
        read_record(path)


def test_no_record_is_none(tmp_path: Path) -> None:
    assert read_record(tmp_path / "nothing.json") is None


DIVERGING = ("optimizer.lr=1e30",)


def test_a_run_that_diverges_says_where_and_is_marked_as_failed(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"step \d+.*learning rate .*e\+.*optimizer\.lr"):
        train_tiny(*DIVERGING)
    record = strict(next(tmp_path.glob("results/records/*.json")).read_text())
    assert record["status"] == "failed"
    assert re.search(r"step \d+", record["failure"])
    assert record["history"] == []


def test_a_run_that_diverges_leaves_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["rpg_bench.train", *TINY, *DIVERGING])
    with pytest.raises(SystemExit) as left:
        run_command(train)
    assert left.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "step" in line


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_that_diverges_in_the_last_step_of_an_epoch_has_failed(tmp_path: Path, epochs: int) -> None:
    """The training loss of that step is still finite; the weights behind it are not."""
    with pytest.raises(Diverged, match="loss"):
        train_tiny(*DIVERGING, "dataset.subset=0.03", f"recipe.epochs={epochs}", "recipe.schedule.name=constant")
    assert strict(next(tmp_path.glob("results/records/*.json")).read_text())["status"] == "failed"


def test_a_run_that_diverges_in_one_part_of_a_batch_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The infinite loss is not in the last part, and the weights stay finite (fp16 skips such a step)."""
    from torch import nn

    calls = 0
    compute = nn.CrossEntropyLoss.forward

    def forward(self: nn.CrossEntropyLoss, logits: Any, labels: Any) -> Any:
        nonlocal calls
        calls += 1
        loss = compute(self, logits, labels)
        return loss + math.inf if calls == 3 else loss

    monkeypatch.setattr(nn.CrossEntropyLoss, "forward", forward)
    with pytest.raises(Diverged, match="step 1 "):
        train_tiny("recipe.accumulate=2", "recipe.epochs=1")


def test_a_failed_run_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rpg_bench.engine import Trainer

    step = Trainer._step
    taken = 0

    def failing(trainer: Trainer, batches: Any) -> None:
        nonlocal taken
        taken += 1
        if taken == 10:
            raise Diverged("the loss is nan at step 9")
        step(trainer, batches)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_step", failing)
        with pytest.raises(Diverged):
            train_tiny("checkpoint_seconds=1e-9")
    assert only_record(tmp_path)["status"] == "failed"
    assert len(only_record(tmp_path)["history"]) == 1
    assert checkpoints(tmp_path)
    train_tiny()
    record = only_record(tmp_path)
    assert record["status"] == "finished"
    assert [start["step"] for start in record["starts"]] == [0]
    assert "failure" not in record


def test_no_room_for_the_record_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is saved; the same command writes the record when there is room."""
    from rpg_bench.errors import Failed

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(records, "write_aside", fail)
        with pytest.raises((InvalidInput, Failed), match=r"results_dir: .*No space left"):
            train_tiny("recipe.epochs=1")
    train_tiny("recipe.epochs=1")
    path = RunFiles.of(configured(*TINY, "recipe.epochs=1")).record
    record = read_record(path)
    assert record is not None
    assert record["status"] == "finished"
