"""Memory of this process, and measurements that need a process of their own."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rpg_bench.errors import Failed
from rpg_bench.host import TURNS, keep_memory
from rpg_bench.sharing import Sharing


def resident() -> int:
    """Bytes of memory that this process has now; before Linux could say so, the most that it had."""
    return _status("VmRSS") or _most()


def reset_peak() -> None:
    """Let `peak` count from here, where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak() -> int:
    """The most bytes of memory that this process had since `reset_peak`."""
    return _status("VmHWM") or _most()


def available() -> int:
    """Bytes of memory that could be had now without swapping; half of all memory where that is not known."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def table_bytes(sharing: Sharing) -> int:
    """Bytes of all tensors and arrays that a sharing holds beside its parameters, in whatever object."""
    return sum(_held(sharing, {id(parameter) for parameter in sharing.parameters()}))


def in_a_process(module: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Run `python -m rpg_bench.benchmarks.MODULE` and return the JSON object that it prints last.

    Raises:
        Failed: it did not end well.
    """
    command = [sys.executable, "-m", f"rpg_bench.benchmarks.{module}", json.dumps(arguments)]
    alike = {**environment(), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, env=alike, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise Failed(f"{module} {arguments}: {reason[0]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


@contextlib.contextmanager
def in_a_lasting_process(module: str, arguments: Mapping[str, Any]) -> Iterator[Callable[[], None]]:
    """Start `python -m rpg_bench.benchmarks.MODULE` as a user's own script starts, without `prepare_host`.

    Yields:
        A call that lets it do its work once more, and waits.

    Raises:
        Failed: it has ended.
    """
    command = [sys.executable, "-m", f"rpg_bench.benchmarks.{module}", json.dumps(arguments)]
    alike = {**environment(), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    if alike.get("GOMP_SPINCOUNT") == str(TURNS):
        del alike["GOMP_SPINCOUNT"]
    child = subprocess.Popen(command, env=alike, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    requests, answers = child.stdin, child.stdout

    def once_more() -> None:
        with contextlib.suppress(OSError):  # it has ended, which the next line finds
            print("go", file=requests, flush=True)
        if not answers.readline():
            raise Failed(f"{module} {arguments}: exit code {child.wait()}")

    try:
        yield once_more
    finally:
        with contextlib.suppress(OSError):
            requests.close()
        child.wait()
        answers.close()


def answer(measure: Callable[..., dict[str, Any]]) -> None:
    """Be the process of `in_a_process`: measure, and print what was found."""
    keep_memory()  # as training does; how threads wait is in the environment
    print(json.dumps(measure(**json.loads(sys.argv[1]))))


def environment() -> dict[str, str]:
    """This process's environment, in which the same package is found from any directory."""
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


def _held(value: Any, seen: set[int]) -> Iterator[int]:
    """Bytes of each tensor and array below `value`, each counted once."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, (Tensor, np.ndarray)):
        yield value.nbytes
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _held(entry, seen)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _held(entry, seen)
    elif type(value).__module__.startswith("rpg_bench.") and hasattr(value, "__dict__"):
        yield from _held(vars(value), seen)


def _status(key: str) -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _most() -> int:
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
