"""Keys and passwords in the environment: they must reach no file, no log and no configuration."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rpg_bench.errors import InvalidInput

LEAST_LENGTH = 8  # of a value; shorter ones would be found in ordinary words
HIDDEN = "***"
_NAME = re.compile(
    r"(^|_)(key|token|secret|password|passwd|passphrase|credential|auth|cookie|pat)s?(_|$)|(key|token|secret|password)$",
    re.IGNORECASE,
)
_NO_SECRET = re.compile(r"_(FILE|PATH|DIR|SOCK|URL|HOST)$", re.IGNORECASE)  # where one is, not what it is


def secrets() -> dict[str, str]:
    """The environment variables that are secrets by their names, with their values."""
    return {
        name: value
        for name, value in os.environ.items()
        if len(value) >= LEAST_LENGTH and _NAME.search(name) and not _NO_SECRET.search(name)
    }


def redacted(text: str) -> str:
    """The text with every secret's value hidden."""
    for value in sorted(secrets().values(), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return text


def refuse_secrets(values: Mapping[str, Any]) -> None:
    """See that no text of a configuration holds a secret of the environment, as `${oc.env:WANDB_API_KEY}` would.

    Raises:
        InvalidInput: one does; a record and Weights & Biases would show it.
    """
    found = secrets()
    if not found:
        return
    for field, text in _texts(values):
        for name, secret in found.items():
            if secret in text:
                raise InvalidInput(
                    f"{field}: holds the value of the environment variable {name}, which records and logs would show; "
                    "programs read it from the environment themselves"
                )


def _texts(values: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """Every text below, keys too, with its dotted name."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield f"{field} key".strip(), str(key)
            yield from _texts(value, f"{field}.{key}".lstrip("."))
    elif isinstance(values, (list, tuple)):
        for number, value in enumerate(values):
            yield from _texts(value, f"{field}[{number}]")
    elif isinstance(values, str):
        yield field, values
