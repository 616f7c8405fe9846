"""Files that are whole or not there, whenever the process dies."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_aside(path: Path, content: bytes, durable: bool = True) -> None:
    """Write a whole file or nothing: aside, flushed to the disk, then renamed.

    durable: false for what may be lost when the machine stops, and is written often.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        discard(aside)
    if not durable:
        return
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def discard(path: Path) -> None:
    """Remove a file that is of no use any more; if that fails it stays, as no run is to end for it."""
    with contextlib.suppress(OSError):
        path.unlink()


def remove_parts(directory: Path, name: str = "*") -> None:
    """Remove what processes left of the files `name` (a glob) that were killed within `write_aside`.

    Only for whom nobody else writes them at the moment.
    """
    for part in directory.glob(f".{name}.part"):
        discard(part)
