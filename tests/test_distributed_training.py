"""Two processes train one model: same images, one record, the numbers of a single process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from runner import (
    ROOT,
    TINY,
    assert_same_result,
    checkpoints,
    composed,
    configured,
    final_state,
    finish,
    only_record,
    start,
)
from test_resume import kill_when_saved, stopping_after
from test_train import rebuilt
from torch import distributed

from rpg_bench import InvalidInput
from rpg_bench.config import AugmentConfig
from rpg_bench.datasets import load_data
from rpg_bench.signals import Interrupted
from rpg_bench.train import train

pytestmark = pytest.mark.skipif(not distributed.is_gloo_available(), reason="this torch has no gloo")

# 8 steps of 2 x 16 images: augmentation apart, what a single process does.
RESNET = (*TINY, "recipe.augment.crop_padding=0")
TRANSFORMER = (
    *RESNET,
    "backbone.name=test_vit",
    "backbone.patch_size=4",
    "recipe.clip_norm=1",
    "recipe.accumulate=2",
    "optimizer.lr=0.01",
    "recipe.epochs=1",
)


def in_both_processes(directory: Path) -> None:
    """What each of the two processes does. Starting them takes longer than all of this."""
    main = os.environ["RANK"] == "0"

    def enter(name: str) -> None:
        (directory / name).mkdir(exist_ok=True)
        os.chdir(directory / name)

    enter("refused")
    with pytest.raises(InvalidInput, match=r"recipe\.batch_size: 33"):
        train(composed(*RESNET, "recipe.batch_size=33"))
    enter("resnet")
    # The default device has to join the others too; on a GPU the numbers would be others.
    train(composed(*RESNET, "device=cpu" if torch.cuda.is_available() else "device=auto"))
    enter("transformer")
    train(composed(*TRANSFORMER))
    enter("stopped")
    for step in (3, 12):  # only one process receives the signal; both stop at the same step
        with (
            pytest.MonkeyPatch.context() as patched,
            stopping_after(patched, -1 if main else step),
            pytest.raises(Interrupted, match=f"after step {step}$"),
        ):
            train(composed(*RESNET, "checkpoint_seconds=1e-3"))
    train(composed(*RESNET))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with all that two processes have done."""
    directory = tmp_path_factory.mktemp("two")
    launcher = ["torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}", "--tee=3"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, str(Path(__file__).resolve()), str(directory)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (directory / "stdout").write_text(done.stdout)
    return directory


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a single process trains; fixtures of larger scope have changed the directory meanwhile."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def top1_of(state: dict[str, torch.Tensor]) -> float:
    """Accuracy of a checkpoint's weights on all test images, in one process."""
    config = configured(*RESNET)
    model = rebuilt(config, state)
    data = load_data(config.dataset, AugmentConfig(), batch_size=90, seed=0, device=torch.device("cpu"))
    with torch.no_grad():
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in data.test.epoch(0))
    return 100 * right / data.test.samples


def test_two_processes(two: Path, one: Path) -> None:
    train(composed(*RESNET))
    record, single = only_record(two / "resnet"), only_record(one)
    assert (record["processes"], record["data"]["evaluated"]) == (2, 360)
    assert record["steps"] == single["steps"] == 16
    assert record["hash"] == single["hash"]
    for row, same in zip(record["history"], single["history"], strict=True):
        assert row["test_top1"] * 3.6 == pytest.approx(round(row["test_top1"] * 3.6))  # of 360 images
        assert row["train_top1"] * 2.56 == pytest.approx(round(row["train_top1"] * 2.56))  # of 256
        assert row["lr"] == same["lr"]
        assert row["train_loss"] == pytest.approx(same["train_loss"], abs=0.3)
    # Every process evaluates the weights that are saved, batch norm's statistics included.
    assert record["final"]["test_top1"] == pytest.approx(top1_of(final_state(two / "resnet")["model"]))
    assert not [path for path in (two / "resnet").rglob("*") if path.name.startswith(".")]


def test_two_processes_without_batch_norm_equal_one(two: Path, one: Path) -> None:
    train(composed(*TRANSFORMER))
    expected = final_state(one)["model"]
    for name, value in final_state(two / "transformer")["model"].items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5, msg=name)
    final, single = only_record(two / "transformer")["final"], only_record(one)["final"]
    assert final["train_loss"] == pytest.approx(single["train_loss"], rel=1e-4)
    assert final["test_loss"] == pytest.approx(single["test_loss"], rel=1e-3)


def test_two_processes_that_are_stopped_and_continued(two: Path) -> None:
    assert_same_result(two / "resnet", two / "stopped")
    starts: list[dict[str, Any]] = only_record(two / "stopped")["starts"]
    assert [start["step"] for start in starts] == [0, 3, 12]


def test_only_the_main_process_speaks(two: Path) -> None:
    lines = [line for line in (two / "stdout").read_text().splitlines() if "epoch   1  train" in line]
    assert len(lines) == 3  # resnet, transformer, stopped


def test_a_process_that_dies_ends_the_run(tmp_path: Path) -> None:
    """Killed like by a kernel that is short of memory: a message, soon, and the same command goes on."""
    arguments = (*RESNET, "recipe.epochs=1000", "checkpoint_seconds=1e-3")
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}")
    run = start(arguments, tmp_path, *launcher)
    kill_when_saved(run, tmp_path, 0, 1)  # signal 0: only wait
    os.kill(process_of_rank(1, run.pid), signal.SIGKILL)
    died = time.monotonic()
    code, _, err = finish(run)
    assert code == 1
    assert time.monotonic() - died < 60
    assert "another process of this run has ended" in err
    assert "the same command goes on from the last checkpoint" in err
    saved = int(checkpoints(tmp_path)[-1].stem.rpartition("-")[2])
    again = start(arguments, tmp_path, *launcher)
    kill_when_saved(again, tmp_path, signal.SIGTERM, saved + 1)
    _, out, _ = finish(again)
    assert f"after step {saved} of" in out


def process_of_rank(rank: int, launcher: int) -> int:
    """The process that torchrun started with this rank."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == launcher and f"RANK={rank}".encode() in environment:
                return int(entry.name)
    raise AssertionError(f"no process of rank {rank}")


def test_two_processes_write_nothing_for_bad_input(two: Path) -> None:
    assert list((two / "refused").iterdir()) == []


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    in_both_processes(Path(sys.argv[1]))
    if distributed.is_initialized():
        distributed.destroy_process_group()
