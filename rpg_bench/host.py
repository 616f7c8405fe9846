"""What a process that trains asks of its machine: threads that wait briefly, and memory that it keeps."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import MutableMapping

THREADS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # what a user may have said about waiting
TURNS = 20_000  # of an empty loop: tens of microseconds

MEMORY = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")  # about memory
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's numbers of these two parameters
NEVER = 2**31 - 1  # bytes that are free before any are given back
LARGEST_KEPT = 1 << 30  # bytes of one allocation; a larger one is given back when it is freed


def prepare_host() -> None:
    """Ask for both, before torch is imported."""
    wait_briefly()
    keep_memory()


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let a thread that waits for others give its core away soon, unless the environment says otherwise.

    GNU's OpenMP lets it turn for milliseconds, which on a busy machine keeps the core from whom it waits for. Of use
    before torch is imported only.
    """
    if not any(name in environment for name in THREADS):
        environment["GOMP_SPINCOUNT"] = str(TURNS)


def keep_memory(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Keep what a training step frees for the next one, unless the environment says otherwise.

    glibc gives it back to the system, and a step of ResNet18 spends a tenth of its time on tens of thousands of pages
    that it had a moment ago. Elsewhere nothing is asked.

    Returns:
        Whether it is kept.
    """
    if any(name in environment for name in MEMORY):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    return mallopt is not None and bool(mallopt(MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(TRIM_THRESHOLD, NEVER))
