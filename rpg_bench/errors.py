"""The exceptions that a user sees as one line: bad input, and a run that failed."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130  # exit codes of all commands


class InvalidInput(ValueError):
    """Input that a user can correct. The command line prints its message and exits with 2."""


class Failed(RuntimeError):
    """A run that cannot go on. The command line prints its message and exits with 1."""


def unknown(field: str, value: object, allowed: Iterable[str]) -> InvalidInput:
    """Return the error for a name that is not among `allowed`, with the nearest valid one.

    >>> str(unknown("sharing", "rpg_globl", ["none", "rpg_global"]))
    "sharing: unknown 'rpg_globl'; did you mean 'rpg_global'? Allowed: none, rpg_global"
    """
    names = sorted(allowed)
    nearest = get_close_matches(str(value), names, n=1, cutoff=0.4)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    shown = ", ".join(names) if len(names) <= 40 else f"{len(names)} names"
    return InvalidInput(f"{field}: unknown {str(value)!r}{hint} Allowed: {shown}")
