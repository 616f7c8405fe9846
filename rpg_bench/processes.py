"""The processes that train one run together, as torchrun or Slurm counts them. Needs no torch."""

from __future__ import annotations

import os
import re
import sys
import traceback
from typing import NoReturn

from rpg_bench.errors import FAILED

# What torch.distributed's backends say when a process at the other end is gone.
_LOST_PEER = re.compile(r"gloo|nccl|connection (was )?(closed|reset|refused)|broken pipe|tcpstore", re.IGNORECASE)


def count() -> int:
    """How many there are; 1 without torchrun or Slurm."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """The number of this one; 0 is the main process, which speaks and writes."""
    return int(os.environ.get("RANK", 0))


def abandon(error: Exception) -> NoReturn:
    """End this process at once, with a message.

    The others may wait for it: torchrun and the Slurm preset end them when they see the exit code. An orderly exit
    could wait for them in turn.
    """
    where = f"process {rank()} of {count()}"
    if isinstance(error, (RuntimeError, OSError)) and _LOST_PEER.search(str(error)):
        reason = " ".join(str(error).split())[:200]
        print(
            f"error: {where}: another process of this run has ended ({reason}); the same command goes on from the "
            "last checkpoint",
            file=sys.stderr,
        )
    else:
        traceback.print_exception(error)
        print(f"error: {where} failed, which ends the run: {type(error).__name__}: {error}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(FAILED)
