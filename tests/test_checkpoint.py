"""Checkpoint files: whole or not at all, safe to load, small, and never fewer than one that is good."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runner import checkpoints, final_state, only_record, train_tiny

from rpg_bench import checkpoint
from rpg_bench.files import remove_parts


def said() -> tuple[list[str], Any]:
    lines: list[str] = []
    return lines, lines.append


def steps(directory: Path) -> list[int]:
    """The steps whose checkpoints are whole, the oldest first."""
    found = []
    for path in sorted(directory.glob("*.pt")):
        try:
            found.append(checkpoint.load(path)["step"])
        except checkpoint.Damaged:
            continue
    return found


def everything(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    state = {"tensor": torch.randn(3), "none": None, "list": [1, 2.5, "text"], "nested": {"a": torch.tensor(7)}}
    path = checkpoint.save(tmp_path, 12, state)
    loaded = checkpoint.load(path)
    assert torch.equal(loaded["tensor"], state["tensor"])
    assert loaded["list"] == state["list"]
    assert loaded["none"] is None
    assert loaded["nested"]["a"] == 7


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 9, 10, 11, 100):
        checkpoint.save(tmp_path, step, {"step": step})
    assert steps(tmp_path) == [11, 100]


def test_the_best_is_kept_besides_and_damaged_later_ones_go(tmp_path: Path) -> None:
    for step in (1, 9, 10, 11, 100):
        checkpoint.save(tmp_path, step, {"step": step}, best=9 if step >= 9 else None)
    assert steps(tmp_path) == [9, 11, 100]
    checkpoint.save(tmp_path, 101, {"step": 101}, best=101)
    assert steps(tmp_path) == [100, 101]
    checkpoint.keep_only(tmp_path, {101, 7})
    assert steps(tmp_path) == [101]


@pytest.mark.parametrize("broken", ["fsync", "replace", "open"])
def test_a_write_that_fails_leaves_the_old_files_and_no_part_of_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"step": step})
    before = everything(tmp_path)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    if broken == "open":
        monkeypatch.setattr("builtins.open", fail)
    else:
        monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, 3, {"step": 3})
    monkeypatch.undo()
    assert everything(tmp_path) == before


def test_what_cannot_be_removed_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / ".checkpoint-00000001.pt.1.part").touch()
    monkeypatch.setattr(Path, "unlink", refused)
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, {"step": step})
    checkpoint.keep_only(tmp_path, {3})
    remove_parts(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    assert checkpoint.load_newest(tmp_path, print) == {"step": 3}
    with pytest.raises(PermissionError):  # a run that starts again would go on from it
        checkpoint.remove_all(tmp_path)


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)

        def noted(*arguments: Any, original: Any = original, name: str = name) -> Any:
            done.append(name)
            return original(*arguments)

        monkeypatch.setattr(os, name, noted)
    checkpoint.save(tmp_path, 1, {"step": 1})
    assert done[:2] == ["fsync", "replace"]


@pytest.mark.parametrize("damage", ["truncated", "flipped first byte", "flipped last byte", "flipped middle", "empty"])
def test_a_damaged_newest_is_named_and_the_one_before_is_used(tmp_path: Path, damage: str) -> None:
    checkpoint.save(tmp_path, 1, {"step": 1})
    newest = checkpoint.save(tmp_path, 2, {"step": 2})
    content = bytearray(newest.read_bytes())
    if damage == "truncated":
        content = content[:-1]
    elif damage == "empty":
        content = bytearray()
    else:
        place = {"first": 0, "last": -1, "middle": len(content) // 2}
        content[next(value for key, value in place.items() if key in damage)] ^= 1
    newest.write_bytes(content)
    lines, say = said()
    loaded = checkpoint.load_newest(tmp_path, say)
    assert loaded == {"step": 1}
    (line,) = lines
    assert str(newest) in line


def test_nothing_whole_is_nothing(tmp_path: Path) -> None:
    lines, say = said()
    assert checkpoint.load_newest(tmp_path / "not there", say) is None
    assert lines == []
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"step": step}).write_bytes(b"x")
    assert checkpoint.load_newest(tmp_path, say) is None
    assert len(lines) == 2


def test_damaged_checkpoints_do_not_push_out_newer_work(tmp_path: Path) -> None:
    """After starting again behind damaged checkpoints, what is written then must be found."""
    for step in (50, 60):
        checkpoint.save(tmp_path, step, {"step": step}).write_bytes(b"damaged")
    assert checkpoint.load_newest(tmp_path, lambda _: None) is None
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, {"step": step})
        loaded = checkpoint.load_newest(tmp_path, lambda _: None)
        assert loaded == {"step": step}
    assert steps(tmp_path) == [2, 3]


def test_the_one_before_stays_until_there_are_two_good_ones(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 50, {"step": 50})
    checkpoint.save(tmp_path, 60, {"step": 60}).write_bytes(b"damaged")
    assert checkpoint.load_newest(tmp_path, lambda _: None) == {"step": 50}
    checkpoint.save(tmp_path, 55, {"step": 55})
    assert steps(tmp_path) == [50, 55]


class Malicious:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_not_executed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "checkpoint-00000001.pt"
    if kind == "torch":
        torch.save({"model": Malicious()}, path)
    else:
        path.write_bytes(pickle.dumps({"model": Malicious()}, protocol=2))
    content = path.read_bytes()
    path.write_bytes(content + hashlib.sha256(content).digest())
    lines, say = said()
    assert checkpoint.load_newest(tmp_path, say) is None
    assert str(path) in lines[0]
    assert not Path("executed").exists()


def test_the_random_generators_go_on_where_they_were() -> None:
    def draw() -> tuple[float, float, float, float]:
        return random.random(), random.gauss(0, 1), float(np.random.standard_normal()), float(torch.randn(()))

    random.gauss(0, 1)  # both keep a second normal number for the next call
    np.random.standard_normal()
    state = checkpoint.random_state()
    expected = [draw() for _ in range(3)]
    [draw() for _ in range(5)]
    checkpoint.restore_random_state(state)
    assert [draw() for _ in range(3)] == expected


def test_the_checkpoint_of_a_shared_network_has_nothing_of_the_size_of_its_slots(tmp_path: Path) -> None:
    train_tiny("backbone.name=resnet18", "dof=36k", "recipe.epochs=1", "dataset.subset=0.03", "recipe.ema_decay=0.9")
    report = only_record(tmp_path)["dof"]
    assert (report["slot_scalars"], report["dof"]) == (11_157_504, 36_000)
    state = final_state(tmp_path)
    largest = max(tensor.numel() for tensor in state["model"].values())
    assert largest == 36_000
    assert set(state["model"]) >= {"sharing.ring", "sharing._extra_state", "conv1.weight", "fc.weight"}
    # Weights, momentum and average; the random generators and names are the rest.
    (path,) = checkpoints(tmp_path)
    assert path.stat().st_size < 3 * 4 * (report["total"] + 15_000) + 200_000
    assert only_record(tmp_path)["artefact_bytes"] < 4 * (report["total"] + 15_000) + 50_000
