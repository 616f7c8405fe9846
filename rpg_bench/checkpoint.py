"""Checkpoints that survive being killed at any moment, and load without executing code."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rpg_bench.errors import InvalidInput
from rpg_bench.files import discard, remove_parts, write_aside

KEPT = 2  # the newest, and the one before in case that one is damaged; the best besides
_DIGEST = hashlib.sha256().digest_size


class Damaged(Exception):
    """A checkpoint file that is not as it was written."""


def save(directory: Path, step: int, state: dict[str, Any], best: int | None = None) -> Path:
    """Write `state` as the checkpoint of `step` and remove all but the newest `KEPT` and that of step `best`.

    The file is what `torch.save` writes, and a SHA-256 of it at the end.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path = path_of(directory, step)
    write_aside(path, content + hashlib.sha256(content).digest())
    files = _newest_first(directory)
    # What claims a later step is damaged, or training would have gone on from there.
    later = [old for old in files if old.name > path.name]
    for old in [*later, *files[len(later) + KEPT :]]:
        if best is None or old != path_of(directory, best):
            discard(old)
    return path


def path_of(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return directory / f"checkpoint-{step:08d}.pt"


def keep_only(directory: Path, steps: Collection[int]) -> None:
    """Remove every other checkpoint, of a run that is finished."""
    kept = {path_of(directory, step) for step in steps}
    for path in _newest_first(directory):
        if path not in kept:
            discard(path)


def load(path: Path) -> dict[str, Any]:
    """Read one checkpoint onto the CPU.

    Raises:
        Damaged: truncated, altered, or not a checkpoint.
    """
    content = path.read_bytes()
    content, digest = content[:-_DIGEST], content[-_DIGEST:]
    if hashlib.sha256(content).digest() != digest:
        raise Damaged(f"{path} is truncated or altered")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the content is as it was written, but not by `save`
        raise Damaged(f"{path} is no checkpoint of tensors and plain values ({type(error).__name__})") from None
    assert isinstance(state, dict)
    return state


def load_newest(directory: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Read the newest checkpoint that is whole; None if there is none.

    A damaged one is named through `say`, and the one before it is tried.
    """
    files = _newest_first(directory)
    for path in files:
        try:
            return load(path)
        except Damaged as damage:
            way = "the run starts again" if path == files[-1] else "falling back to the one before it"
            say(f"checkpoint: {damage}; {way}")
        except OSError as error:
            raise InvalidInput(f"runs_dir: {path} cannot be read: {error.strerror}") from None
    return None


def remove_all(directory: Path) -> None:
    """Remove every checkpoint, for a run that starts again.

    Raises:
        OSError: one cannot be removed; the run would go on from it.
    """
    for path in _newest_first(directory):
        path.unlink(missing_ok=True)
    remove_parts(directory, "checkpoint-*")


def random_state() -> dict[str, Any]:
    """The state of every global random generator."""
    version, words, position = random.getstate()[:3]
    kind, keys, *rest = np.random.get_state()
    return {
        "python": [version, list(words), position],
        "numpy": [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put every global random generator where `random_state` found it."""
    version, words, position = state["python"]
    random.setstate((version, tuple(words), position))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def _newest_first(directory: Path) -> list[Path]:
    return sorted(directory.glob("checkpoint-*.pt"), reverse=True)
