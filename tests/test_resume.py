"""A run that was stopped anywhere ends with exactly the weights and metrics of an undisturbed one."""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from runner import (
    TINY,
    assert_same,
    assert_same_result,
    checkpoints,
    composed,
    finish,
    only_record,
    start,
    train_tiny,
)

from rpg_bench import checkpoint
from rpg_bench.command_line import run_command
from rpg_bench.display import Display
from rpg_bench.engine import Trainer
from rpg_bench.signals import Interrupted, StopRequest
from rpg_bench.train import train

# Each with something that a checkpoint could forget.
VARIANTS: dict[str, list[str]] = {
    "sgd, accumulation, average, mixup and cutmix": [
        "recipe.accumulate=2",
        "recipe.ema_decay=0.9",
        "recipe.augment.mixup=0.8",
        "recipe.augment.cutmix=1.0",
        "recipe.augment.crop_padding=1",
        "recipe.label_smoothing=0.1",
        "+backbone.options.drop_path_rate=0.3",
        "+backbone.options.drop_rate=0.3",
    ],
    "adamw, dropout in a transformer, two rings": [
        "backbone.name=test_vit",
        "backbone.patch_size=4",
        "sharing=rpg_local",
        "sharing.rings={a: 'blocks.[012]*', b: 'blocks.[345]*'}",
        "optimizer=adamw",
        "optimizer.lr=1e-3",
        "recipe.clip_norm=1.0",
        "recipe.schedule={name: cosine, warmup_epochs: 0.5}",
        "recipe.no_decay=[norm,bias,token,position]",
        "+backbone.options.drop_path_rate=0.3",
        "+backbone.options.proj_drop_rate=0.3",
    ],
    "dense, bf16, channels_last": [
        "sharing=none",
        "dof=null",
        "recipe.precision=bf16",
        "recipe.channels_last=true",
    ],
    "fp16 with its scaler": ["recipe.precision=fp16", "recipe.ema_decay=0.5", "dataset.subset=0.1"],
}


@contextmanager
def stopping_after(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGTERM) -> Iterator[None]:
    """Send this process a signal when training has taken `step` steps."""
    show = Display.step

    def shown(display: Display, at: int, *rest: Any) -> None:
        show(display, at, *rest)
        if at == step:
            signal.raise_signal(number)

    with monkeypatch.context() as patched, ignoring_stray_signals():
        patched.setattr(Display, "step", shown)
        yield


@contextmanager
def ignoring_stray_signals() -> Iterator[None]:
    """A signal outside of training is a failure of the test, not the end of the test process."""

    def stray(number: int, _: Any) -> None:
        raise AssertionError(f"signal {number} outside of training")

    previous = {number: signal.signal(number, stray) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_stopped_at_random_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: list[str]) -> None:
    whole = enter(tmp_path / "whole", monkeypatch)
    train_tiny(*variant)
    last = only_record(whole)["steps"]
    # Anywhere, at the end of an epoch, and behind the last step.
    points = sorted({*random.Random(str(variant)).sample(range(1, last), 2), last // 2, last})
    stopped = enter(tmp_path / "stopped", monkeypatch)
    for point in points:
        with stopping_after(monkeypatch, point), pytest.raises(Interrupted, match=f"after step {point}$"):
            train_tiny(*variant)
    train_tiny(*variant)
    assert_same_result(whole, stopped)
    assert [start["step"] for start in only_record(stopped)["starts"]] == [0, *points]


def test_how_often_it_is_saved_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = VARIANTS["sgd, accumulation, average, mixup and cutmix"]
    rarely = enter(tmp_path / "rarely", monkeypatch)
    train_tiny(*variant)
    often = enter(tmp_path / "often", monkeypatch)
    train_tiny(*variant, "checkpoint_seconds=1e-9")
    assert_same_result(rarely, often)


@pytest.mark.parametrize(
    ("damaged", "continues_at"),
    [(["truncated"], [0, 4]), (["flipped"], [0, 4]), (["flipped", "truncated"], [0])],
    ids=["newest truncated", "newest altered", "both damaged"],
)
def test_damaged_checkpoints(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damaged: list[str],
    continues_at: list[int],
) -> None:
    whole = enter(tmp_path / "whole", monkeypatch)
    train_tiny()
    stopped = enter(tmp_path / "stopped", monkeypatch)
    with stopping_after(monkeypatch, 5), pytest.raises(Interrupted):
        train_tiny("checkpoint_seconds=1e-9")
    files = checkpoints(stopped)
    assert [path.name for path in files] == ["checkpoint-00000004.pt", "checkpoint-00000005.pt"]
    for how, path in zip(damaged, reversed(files)):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content[:-100] if how == "truncated" else content)
    capsys.readouterr()
    train_tiny()
    out = capsys.readouterr().out
    for path in list(reversed(files))[: len(damaged)]:
        assert f"{path.relative_to(stopped)} is truncated or altered" in out
    if len(damaged) == 2:
        assert re.search(r"again|from the beginning|from scratch|from the start", out)
    assert_same_result(whole, stopped)
    assert [start["step"] for start in only_record(stopped)["starts"]] == continues_at


def test_a_finished_run_is_not_run_again_unless_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    top1 = train_tiny("recipe.epochs=1")
    (path,) = tmp_path.glob("results/records/*.json")
    before = path.read_bytes()
    capsys.readouterr()
    assert train_tiny("recipe.epochs=1") == top1
    assert "force=true" in capsys.readouterr().out
    assert path.read_bytes() == before
    with monkeypatch.context() as patched:
        patched.setattr(Display, "step", lambda *_: pytest.fail("it trains again"))
        train_tiny("recipe.epochs=1", "tracking.project=other", "runs_dir=elsewhere")
    assert train_tiny("recipe.epochs=1", "force=true") == top1
    assert path.read_bytes() != before
    assert only_record(tmp_path)["starts"][0]["step"] == 0


def test_a_forced_run_that_was_stopped_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_tiny()
    with stopping_after(monkeypatch, 5), pytest.raises(Interrupted):
        train_tiny("force=true")
    train_tiny("force=true")
    assert [start["step"] for start in only_record(tmp_path)["starts"]] == [0, 5]


def test_a_lost_record_is_written_again_without_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_tiny()
    before = only_record(tmp_path)
    next(tmp_path.glob("results/records/*.json")).unlink()
    monkeypatch.setattr(Display, "step", lambda *_: pytest.fail("it trains again"))
    train_tiny()
    assert only_record(tmp_path)["history"] == before["history"]


def test_what_killed_processes_left_behind_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a run that is preempted often fills the disk."""
    with stopping_after(monkeypatch, 5), pytest.raises(Interrupted):
        train_tiny()
    (newest,) = checkpoints(tmp_path)
    name = newest.parent.name
    parts = [newest.with_name(f".{newest.name}.7.part"), tmp_path / "results" / "records" / f".{name}.json.7.part"]
    other = parts[1].with_name(".0123456789ab.json.7.part")  # of a run that another process trains
    for path in (*parts, other):
        path.write_bytes(b"half")
    train_tiny()
    assert [path.exists() for path in (*parts, other)] == [False, False, True]


def test_the_handlers_of_signals_are_put_back() -> None:
    before = [signal.getsignal(number) for number in StopRequest.SIGNALS]
    with StopRequest() as stop:
        assert not stop.requested
        signal.raise_signal(signal.SIGTERM)
        assert (stop.requested, stop.signal) == (True, signal.SIGTERM)
    assert [signal.getsignal(number) for number in StopRequest.SIGNALS] == before


def test_a_second_ctrl_c_ends_at_once() -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


# 48 steps, each of them saved.
LONG = (*TINY, "recipe.epochs=6", "checkpoint_seconds=1e-3")


def kill_when_saved(process: Any, directory: Path, number: int, least: int) -> None:
    """Send the signal as soon as `least` steps have been saved."""
    limit = time.monotonic() + 60
    while not any(int(path.stem.rpartition("-")[2]) >= least for path in checkpoints(directory)):
        assert process.poll() is None, "it ended before it was stopped"
        assert time.monotonic() < limit
        time.sleep(0.01)
    os.kill(process.pid, number)


def test_the_command_stopped_and_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run that is stopped by SIGTERM, killed while it goes on, and then left alone."""
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    dice = random.Random(0)
    reached = 0
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = start(LONG, stopped)
        kill_when_saved(process, stopped, number, reached + dice.randrange(2, 16))
        code, out, err = finish(process)
        reached = int(checkpoints(stopped)[-1].stem.rpartition("-")[2])
        if number == signal.SIGKILL:
            assert code == -number
        else:
            assert (code, err) == (128 + number, "")
            assert out.splitlines()[-1].endswith("Run the same command again to continue.")
    enter(stopped, monkeypatch)
    train(composed(*LONG, "checkpoint_seconds=60"))
    whole = enter(tmp_path / "whole", monkeypatch)
    train(composed(*LONG, "checkpoint_seconds=60"))
    assert_same_result(whole, stopped)
    assert len(only_record(stopped)["starts"]) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_says_how_to_continue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["rpg_bench.train", *TINY])
    with stopping_after(monkeypatch, 3, number), pytest.raises(SystemExit) as left:
        run_command(train)
    assert left.value.code == 128 + number
    said = capsys.readouterr()
    assert said.err == ""
    assert "after step 3" in said.out.splitlines()[-1]
    assert said.out.splitlines()[-1].endswith("Run the same command again to continue.")


@pytest.mark.parametrize(
    ("top1", "best", "every_step"), [([50.0, 60.0, 60.0, 10.0], 2, True), ([1.0, 2.0, 3.0, 4.0], 4, False)]
)
def test_the_best_checkpoint_is_that_of_an_undisturbed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, top1: list[float], best: int, every_step: bool
) -> None:
    """Besides the last two while it is trained, with the final one in the end; whenever the run was stopped."""
    most = 0

    def evaluate(self: Trainer) -> dict[str, float]:
        nonlocal most
        most = max(most, len(checkpoints(Path())))
        return {"test_loss": 1.0, "test_top1": top1[self.position.epoch]}

    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    options = ("recipe.epochs=4", f"checkpoint_seconds={1e-9 if every_step else 60}")
    whole = enter(tmp_path / "whole", monkeypatch)
    train_tiny(*options)
    names = sorted({f"checkpoint-{8 * epoch:08d}.pt" for epoch in (best, 4)})
    assert [path.name for path in checkpoints(whole)] == names
    assert only_record(whole)["best"]["epoch"] == best
    stopped = enter(tmp_path / "stopped", monkeypatch)
    for point in (3, 8, 17, 24, 32):
        with stopping_after(monkeypatch, point), pytest.raises(Interrupted):
            train_tiny(*options)
    train_tiny(*options)
    assert [path.name for path in checkpoints(stopped)] == names
    assert_same_result(whole, stopped)
    for one, other in zip(checkpoints(whole), checkpoints(stopped)):
        for part in ("model", "optimizer", "random", "sums"):
            assert_same(checkpoint.load(one)[part], checkpoint.load(other)[part], part)
    assert most <= 3


def test_the_best_is_what_is_left_where_the_last_two_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "evaluate", lambda self: {"test_loss": 1.0, "test_top1": 50.0 - self.position.epoch})
    whole = enter(tmp_path / "whole", monkeypatch)
    train_tiny("recipe.epochs=3")
    stopped = enter(tmp_path / "stopped", monkeypatch)
    with stopping_after(monkeypatch, 20), pytest.raises(Interrupted):
        train_tiny("recipe.epochs=3", "checkpoint_seconds=1e-9")
    assert [path.stem[-2:] for path in checkpoints(stopped)] == ["08", "19", "20"]
    for path in checkpoints(stopped)[1:]:
        path.write_bytes(b"damaged")
    train_tiny("recipe.epochs=3")
    assert_same_result(whole, stopped)
    assert [start["step"] for start in only_record(stopped)["starts"]] == [0, 8]
