"""Imports that take seconds: put off until they are needed, and made shorter."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without_wandb() -> Iterator[None]:
    """Within this block Weights & Biases cannot be imported by others, unless it is already.

    timm imports it where it is installed, for a function that is not used here.
    """
    if "wandb" in sys.modules:
        yield
        return
    sys.modules["wandb"] = None  # type: ignore[assignment]  # an import then raises ImportError
    try:
        yield
    finally:
        del sys.modules["wandb"]


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Within this block no garbage is collected.

    While torch and timm are imported, a fifth of the time goes into looking for garbage among the
    functions and classes that they define.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
