"""The compiled kernels: built by the machine's C compiler at first use, kept in the user's cache.

Without a compiler nothing is lost but speed: the tables then work through torch (see `tables`).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import mmap
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SOURCE = Path(__file__).with_name("kernels.c")
SWITCH = "RPG_BENCH_NATIVE"  # environment: 0 works without the compiled kernels
FLAGS = ("-O3", "-march=native", "-std=c11", "-shared", "-fPIC", "-pthread")

_forked = False
LARGE_PAGE = 1 << 21  # bytes


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None where they cannot be had."""
    if os.environ.get(SWITCH) == "0":
        return None
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    try:
        if compiler is None:
            return None
        source = SOURCE.read_bytes()
        # -march=native: a home directory may be shared by machines of several kinds.
        identity = [source, repr((compiler, FLAGS, platform.machine())).encode(), _processor()]
        name = f"kernels-{hashlib.sha256(b'|'.join(identity)).hexdigest()[:16]}.so"
        for folder in _folders():
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                return ctypes.CDLL(str(_built(compiler, folder / name)))
    except OSError:
        pass
    return None


def available() -> bool:
    """Whether the compiled kernels can be used."""
    return library() is not None


def divide(count: int, name: str, *arguments: Tensor | NDArray[Any] | int) -> None:
    """Call a kernel for 0..count-1, on as many threads as torch uses.

    Args:
        count: how much work there is.
        name: of the kernel.
        arguments: what it is given; tensors and arrays go as addresses, numbers as 64 bits.

    Raises:
        MemoryError: the kernel had none.
    """
    # No Python runs on any thread until all is done: an interrupt would be lost there.
    given = (ctypes.c_int64 * len(arguments))(*map(_address, arguments))
    kernels = library()
    assert kernels is not None
    kernel = ctypes.cast(getattr(kernels, name), ctypes.c_void_p)
    sizes = ctypes.c_int64(count), ctypes.c_int64(torch.get_num_threads())
    if kernels.divide(kernel, given, *sizes, None if _forked else _team()):
        raise MemoryError("no memory to unpack the ring")


def pages(size: int) -> NDArray[np.uint8]:
    """Memory of so many bytes, in large pages where there are some: fewer to look up for what is visited at random."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.empty(size, np.uint8)
    room = mmap.mmap(-1, size + LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel that has none
        room.madvise(mmap.MADV_HUGEPAGE)
    array = np.frombuffer(room, np.uint8)
    start = -array.ctypes.data % LARGE_PAGE
    return array[start : start + size]


def _address(value: Tensor | NDArray[Any] | int) -> int:
    if isinstance(value, int):
        return value
    return value.data_ptr() if isinstance(value, Tensor) else value.ctypes.data


@functools.cache
def _team() -> ctypes.c_void_p | None:
    """OpenMP's call that runs a function on each of torch's threads, or None where there is none.

    After an operation torch's threads wait for the next one by turning. Threads of our own would have to share the
    cores with them: folding took twice as long.
    """
    team = getattr(ctypes.CDLL(None), "GOMP_parallel", None) if os.name == "posix" else None
    return None if team is None else ctypes.cast(team, ctypes.c_void_p)


def _after_fork() -> None:
    """OpenMP's threads do not survive a fork, and it would wait for them."""
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _folders() -> list[Path]:
    cache = os.environ.get("XDG_CACHE_HOME")
    home = [Path(cache) / "rpg_bench"] if cache else []
    with contextlib.suppress(RuntimeError):
        home.append(Path.home() / ".cache" / "rpg_bench")
    # Last, for a read-only home: a folder that nobody else can write to.
    return [*home, Path(tempfile.gettempdir()) / f"rpg_bench-{os.getuid() if hasattr(os, 'getuid') else 'user'}"]


def _built(compiler: str, path: Path) -> Path:
    """Return `path`, compiled if it is not there yet."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if hasattr(os, "getuid") and path.parent.stat().st_uid != os.getuid():
        raise PermissionError(f"{path.parent} belongs to somebody else")
    if not path.exists():
        # Aside and renamed: several processes may start at once.
        descriptor, aside = tempfile.mkstemp(suffix=".so", dir=path.parent)
        os.close(descriptor)
        try:
            subprocess.run([compiler, *FLAGS, "-o", aside, str(SOURCE)], check=True, capture_output=True, timeout=120)
            os.replace(aside, path)
        finally:
            Path(aside).unlink(missing_ok=True)
    return path


def _processor() -> bytes:
    """What tells kinds of processors apart."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        return "".join(line for line in lines if line.startswith(("model", "flags", "Features", "CPU part"))).encode()
    return platform.processor().encode()
