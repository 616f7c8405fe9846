"""What happens to the files of a run between two starts."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from rpg_bench import checkpoint
from rpg_bench.lease import NAME as LEASE

HOUR = 3600.0


def whole_steps(directory: Path) -> list[int]:
    """The steps of all checkpoints that can be loaded, the newest first."""
    found = []
    for path in newest_first(directory):
        try:
            found.append(checkpoint.load(path)["position"]["step"])
        except checkpoint.Damaged:
            continue
    return sorted(found, reverse=True)


def run_directory(folder: Path) -> Path | None:
    """Of the one run below `folder`; None before there is one."""
    return next((folder / "runs").glob("[0-9a-f]" * 12), None)


def newest_first(directory: Path) -> list[Path]:
    return sorted(directory.glob("checkpoint-*.pt"), reverse=True)


def damage(kind: str, directory: Path, dice: random.Random) -> None:
    """Do one kind of damage to a run's directory, as far as there is something to be damaged."""
    DAMAGES[kind](directory, dice)


def _altered(
    change: Callable[[bytearray, random.Random], bytes], files: int = 1
) -> Callable[[Path, random.Random], None]:
    def alter(directory: Path, dice: random.Random) -> None:
        for path in newest_first(directory)[:files]:
            path.write_bytes(change(bytearray(path.read_bytes()), dice))

    return alter


def _truncated(content: bytearray, dice: random.Random) -> bytes:
    return bytes(content[: dice.randrange(1, max(2, len(content)))])


def _flipped(content: bytearray, dice: random.Random) -> bytes:
    if content:
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    return bytes(content)


def _zeroed_tail(content: bytearray, dice: random.Random) -> bytes:
    """As a file system leaves it that had the size on disk before the content."""
    keep = dice.randrange(max(1, len(content) - 1))
    return bytes(content[:keep]) + bytes(len(content) - keep)


def _part_left(directory: Path, dice: random.Random) -> None:
    """Of a process that was killed while it wrote."""
    if directory.is_dir():
        pid, step = dice.randrange(2**22), dice.randrange(100)
        (directory / f".checkpoint-{step:08d}.pt.{pid}.part").write_bytes(dice.randbytes(1000))


def _lease(content: Callable[[random.Random], bytes], age: float) -> Callable[[Path, random.Random], None]:
    """A lease that nobody alive holds, touched `age` seconds ago."""

    def leave(directory: Path, dice: random.Random) -> None:
        if directory.is_dir():
            path = directory / LEASE
            path.write_bytes(content(dice))
            os.utime(path, (time.time() - age,) * 2)

    return leave


def _other_files(directory: Path, dice: random.Random) -> None:
    """What says how far the run is, and the like."""
    for path in directory.iterdir():
        if path.is_file() and path.name != LEASE and path not in newest_first(directory) and path.name[0] != ".":
            path.write_bytes(dice.choice([b"", b"{", dice.randbytes(100)]))


def _elsewhere(dice: random.Random) -> bytes:
    owner = {"host": "node7", "place": "elsewhere", "pid": 1, "started": "1", "token": f"{dice.random()}"}
    return json.dumps(owner).encode()


def _times(age: float) -> Callable[[Path, random.Random], None]:
    """Every file has another time: of a clock that has been wrong, or is now."""

    def set_times(directory: Path, dice: random.Random) -> None:
        for path in directory.rglob("*"):
            os.utime(path, (time.time() - age * dice.random(),) * 2)

    return set_times


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "newest truncated": _altered(_truncated),
    "newest empty": _altered(lambda *_: b""),
    "newest with a bit flipped": _altered(_flipped),
    "newest with its tail zeroed": _altered(_zeroed_tail),
    "newest is garbage": _altered(lambda content, dice: dice.randbytes(len(content))),
    "all damaged": _altered(_flipped, files=100),
    "part of a file left": _part_left,
    "lease empty": _lease(lambda _: b"", HOUR),
    "lease is garbage": _lease(lambda dice: dice.randbytes(40), HOUR),
    "lease of a machine that is gone": _lease(_elsewhere, HOUR),
    "lease from the future": _lease(_elsewhere, -HOUR),
    "other files are garbage": _other_files,
    "files from the future": _times(-1000 * HOUR),
    "files of 1970": _times(400_000 * HOUR),
}
