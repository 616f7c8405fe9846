"""The compiled kernels: built by the machine's C compiler at first use, kept in the user's cache.

Without a compiler nothing is lost but speed: the tables then work through torch (see `tables`).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import itertools
import mmap
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SOURCE = Path(__file__).with_name("kernels.c")
SWITCH = "RPG_BENCH_NATIVE"  # environment: 0 works without the compiled kernels
FLAGS = ("-O3", "-march=native", "-std=c11", "-shared", "-fPIC")

_TEAM_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)  # what OpenMP runs on each thread
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


def call(name: str, *arguments: Tensor | NDArray[Any] | int) -> None:
    """Call a kernel as a whole; tensors and arrays go as addresses, numbers as 64 bits."""
    getattr(library(), name)(*map(_argument, arguments))


def divide(count: int, name: str, *arguments: Tensor | NDArray[Any] | int) -> None:
    """Call a kernel for 0..count-1, its last two arguments, on as many threads as torch uses.

    Raises:
        MemoryError: the kernel had none.
    """
    function = getattr(library(), name)
    fixed = [_argument(argument) for argument in arguments]
    threads = torch.get_num_threads()
    shares = min(threads, count)
    bounds = [count * share // max(1, shares) for share in range(shares + 1)]
    waiting, failed = itertools.count(), []  # each is taken from in one step, by one thread at a time

    def work(_: object = None) -> None:
        while (share := next(waiting)) < shares:
            if function(*fixed, ctypes.c_int64(bounds[share]), ctypes.c_int64(bounds[share + 1])):
                failed.append(share)

    if shares > 1:
        _together(work, threads)
    else:
        work()
    if failed:
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


def _argument(value: Tensor | NDArray[Any] | int) -> ctypes.c_void_p | ctypes.c_int64:
    if isinstance(value, int):
        return ctypes.c_int64(value)
    return ctypes.c_void_p(value.data_ptr() if isinstance(value, Tensor) else value.ctypes.data)


def _together(work: Callable[[object], None], threads: int) -> None:
    """Let so many threads `work`, and wait for them."""
    team = None if _forked else _team()
    if team is not None:
        team(_TEAM_WORK(work), None, threads, 0)
        return
    others = [threading.Thread(target=work, args=(None,)) for _ in range(threads - 1)]
    for other in others:
        other.start()
    work(None)
    for other in others:
        other.join()


@functools.cache
def _team() -> Any:
    """OpenMP's call that runs a function on each of torch's threads, or None where there is none.

    After an operation torch's threads wait for the next one by turning. Threads of our own would have to share the
    cores with them: folding took twice as long.
    """
    team = getattr(ctypes.CDLL(None), "GOMP_parallel", None) if os.name == "posix" else None
    if team is not None:
        team.argtypes, team.restype = (_TEAM_WORK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return team


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
