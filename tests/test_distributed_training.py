"""Two processes train one model: same images, one record, the numbers of a single process."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from runner import (
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
from test_train import rebuilt
from torch import distributed

from rpg_bench.config import AugmentConfig
from rpg_bench.datasets import load_data
from rpg_bench.train import train

pytestmark = [
    pytest.mark.skipif(not distributed.is_gloo_available(), reason="this torch has no gloo"),
    pytest.mark.xdist_group("two processes"),  # they share a fixture (with --dist loadgroup)
]

# 8 steps of 2 x 16 images: augmentation apart, what a single process does.
PAIR = (*TINY, "recipe.augment.crop_padding=0")


def launcher() -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]


def pair(directory: Path, *arguments: str) -> Any:
    directory.mkdir(exist_ok=True)
    return start([*PAIR, *arguments], directory, *launcher())


def top1_of(state: dict[str, torch.Tensor]) -> float:
    """Accuracy of a checkpoint's weights on all test images, in one process."""
    config = configured(*PAIR)
    model = rebuilt(config, state)
    data = load_data(config.dataset, AugmentConfig(), batch_size=90, seed=0, device=torch.device("cpu"))
    with torch.no_grad():
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in data.test.epoch(0))
    return 100 * right / data.test.samples


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run of two processes."""
    directory = tmp_path_factory.mktemp("two")
    code, out, err = finish(pair(directory))
    assert code == 0, err
    assert out.count("epoch   2") == 1  # only the main process speaks
    return directory


def test_two_processes(tmp_path: Path, undisturbed: Path) -> None:
    train(composed(*PAIR))
    record, single = only_record(undisturbed), only_record(tmp_path)
    assert (record["processes"], record["data"]["evaluated"]) == (2, 360)
    assert record["steps"] == single["steps"] == 16
    assert record["hash"] == single["hash"]
    for row, same in zip(record["history"], single["history"], strict=True):
        assert row["test_top1"] * 3.6 == pytest.approx(round(row["test_top1"] * 3.6))
        assert row["train_top1"] * 2.56 == pytest.approx(round(row["train_top1"] * 2.56))
        assert row["lr"] == same["lr"]
        assert row["train_loss"] == pytest.approx(same["train_loss"], abs=0.3)
    # Every process evaluates the weights that are saved, batch norm's statistics included.
    assert record["final"]["test_top1"] == pytest.approx(top1_of(final_state(undisturbed)["model"]))
    assert not [path for path in undisturbed.rglob("*") if path.name.startswith(".")]


def test_two_processes_without_batch_norm_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformer = (
        "backbone.name=test_vit",
        "backbone.patch_size=4",
        "recipe.clip_norm=1",
        "recipe.accumulate=2",
        "optimizer.lr=0.01",
        "recipe.epochs=1",
    )
    two, one = tmp_path / "two", tmp_path / "one"
    process = pair(two, *transformer)
    one.mkdir()
    monkeypatch.chdir(one)
    train(composed(*PAIR, *transformer))
    code, _, err = finish(process)
    assert code == 0, err
    expected = final_state(one)["model"]
    for name, value in final_state(two)["model"].items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5, msg=name)
    final, single = only_record(two)["final"], only_record(one)["final"]
    assert final["train_loss"] == pytest.approx(single["train_loss"], rel=1e-4)
    assert final["test_loss"] == pytest.approx(single["test_loss"], rel=1e-3)


def test_two_processes_that_are_stopped_and_continued(tmp_path: Path, undisturbed: Path) -> None:
    """SIGTERM to the launcher, as a cluster sends it, in the middle of an epoch."""
    often = "checkpoint_seconds=1e-3"
    process = pair(tmp_path, often)
    limit = time.monotonic() + 60
    while not checkpoints(tmp_path):
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    code, out, _ = finish(process)
    assert code != 0
    assert "Run the same command again to continue." in out
    code, out, err = finish(pair(tmp_path, often))
    assert code == 0, err
    assert "continuing in epoch" in out
    assert_same_result(undisturbed, tmp_path)


def test_two_processes_refuse_bad_input(tmp_path: Path) -> None:
    code, _, err = finish(pair(tmp_path, "recipe.batch_size=33"))
    assert code != 0
    assert "error: recipe.batch_size: 33" in err
    assert os.listdir(tmp_path) == []
