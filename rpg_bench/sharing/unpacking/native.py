"""The compiled kernels: built by the machine's C compiler at first use, kept in the user's cache.

Without a compiler nothing is lost but speed: the tables then work through torch (see `tables`).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

SOURCE = Path(__file__).with_name("kernels.c")
SWITCH = "RPG_BENCH_NATIVE"  # environment: 0 works without the compiled kernels
FLAGS = ("-O3", "-march=native", "-std=c11", "-shared", "-fPIC")

_pool: ThreadPoolExecutor | None = None
_pool_size = 0


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

    def part(first: int, last: int) -> int:
        failed: int = function(*fixed, ctypes.c_int64(first), ctypes.c_int64(last))
        return failed

    threads = min(torch.get_num_threads(), count)
    bounds = [count * thread // max(1, threads) for thread in range(threads + 1)]
    others = [_threads(threads - 1).submit(part, bounds[i], bounds[i + 1]) for i in range(1, threads)]
    failed = part(bounds[0], bounds[1]) if count else 0
    if any([failed, *(other.result() for other in others)]):
        raise MemoryError("no memory to unpack the ring")


def _argument(value: Tensor | NDArray[Any] | int) -> ctypes.c_void_p | ctypes.c_int64:
    if isinstance(value, int):
        return ctypes.c_int64(value)
    return ctypes.c_void_p(value.data_ptr() if isinstance(value, Tensor) else value.ctypes.data)


def _threads(count: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    if _pool is None or _pool_size < count:
        _pool, _pool_size = ThreadPoolExecutor(count, thread_name_prefix="rpg_bench"), count
    return _pool


def _forget_threads() -> None:
    """Threads do not survive a fork."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


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
