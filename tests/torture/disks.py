"""A small disk, to be filled and made read-only. Takes root, whom permissions would not stop from writing."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from torture.faults import BALLAST

SIZE = "40m"  # twice what a run of the largest of the tiny networks asks for


def mount(folder: Path) -> None:
    """Put a file system in memory at `folder`.

    Raises:
        OSError: not possible here; says why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={SIZE}", "torture", str(folder))


def unmount(folder: Path) -> None:
    """Take it away."""
    _run("umount", "--lazy", str(folder))


def free(folder: Path) -> None:
    """Make it writable, with all its room."""
    _run("mount", "-o", "remount,rw", str(folder))
    (folder / BALLAST).unlink(missing_ok=True)


def unavailable() -> str | None:
    """Why no file system can be mounted here, or None."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            mount(Path(folder))
            unmount(Path(folder))
        except OSError as error:
            return str(error)
    return None


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise OSError(" ".join((done.stderr or f"{command[0]} failed").split()))
