"""How the threads of torch wait for one another."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # what a user may have said about it
TURNS = 20_000  # of an empty loop: tens of microseconds


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let a thread that waits for others give its core away soon, unless the environment says otherwise.

    GNU's OpenMP lets it turn for milliseconds, which on a busy machine keeps the core from whom it waits for. Of use
    before torch is imported only.
    """
    if not any(name in environment for name in CHOICES):
        environment["GOMP_SPINCOUNT"] = str(TURNS)
