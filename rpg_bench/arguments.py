"""Command lines of `key=value`, for commands that compose no configuration."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from rpg_bench.errors import BAD_INPUT, FAILED, INTERRUPTED, Failed, InvalidInput, unknown
from rpg_bench.signals import Interrupted


def run(task: Callable[[Sequence[str]], None], help_text: str | None, arguments: Sequence[str] | None = None) -> None:
    """Run `task` on the command line. Exit codes: 0 done, 1 failed, 2 bad input, 130 Ctrl-C, 143 SIGTERM."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(given):
        print((help_text or "").strip())
        return
    try:
        task(given)
    except (InvalidInput, Failed) as error:
        # The one field of a configuration that these commands take too, under a shorter name.
        print(f"error: {error}".replace("dataset.root", "root"), file=sys.stderr, flush=True)
        raise SystemExit(BAD_INPUT if isinstance(error, InvalidInput) else FAILED) from None
    except Interrupted as stop:
        print(f"error: {stop}", file=sys.stderr, flush=True)
        raise SystemExit(stop.exit_code) from None
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr, flush=True)
        raise SystemExit(INTERRUPTED) from None


def options(arguments: Sequence[str], defaults: Mapping[str, str]) -> dict[str, str]:
    """The value of each option, given as key=value; an empty one is its default.

    Raises:
        InvalidInput: an option that is unknown, or given twice, or no key=value.
    """
    given: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise InvalidInput(f"command line: {argument!r} is no key=value; allowed keys: {', '.join(defaults)}")
        if key not in defaults:
            raise unknown("command line", key, defaults)
        if key in given:
            raise InvalidInput(f"{key}: given twice")
        given[key] = value
    return {key: given.get(key) or default for key, default in defaults.items()}


def one_of(key: str, value: str, allowed: Sequence[str]) -> str:
    """The value, if it is allowed."""
    if value not in allowed:
        raise unknown(key, value, allowed)
    return value


def whole(key: str, value: str, least: int = 0, most: int = 10**9) -> int:
    """The value as a whole number in least..most."""
    try:
        number = int(value)
    except ValueError:
        raise InvalidInput(f"{key}: {value!r} is no whole number") from None
    if not least <= number <= most:
        raise InvalidInput(f"{key}: {number} is outside {least}..{most}")
    return number


def boolean(key: str, value: str) -> bool:
    """The value as true or false."""
    if value.lower() not in ("true", "false"):
        raise InvalidInput(f"{key}: {value!r} is neither true nor false")
    return value.lower() == "true"


def share(key: str, value: str, most: float = 0.999) -> float:
    """The value as a number in 0..most; 50% is 0.5."""
    try:
        number = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
    except ValueError:
        raise InvalidInput(f"{key}: {value!r} is no share, such as 50% or 0.5") from None
    if not 0 <= number <= most:
        raise InvalidInput(f"{key}: {value} is outside 0..{most:.1%}")
    return number
