"""How much accuracy does one degree of freedom buy?"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rpg_bench.errors import InvalidInput

if TYPE_CHECKING:
    from rpg_bench.compact.load import load
    from rpg_bench.sharing import DofReport, dof_report, materialize, narrow, share

__version__ = "0.1.0"
__all__ = ["DofReport", "InvalidInput", "dof_report", "load", "materialize", "narrow", "share"]


def __getattr__(name: str) -> Any:
    """Import torch when a name that needs it is used first: the commands that read files alone begin at once."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rpg_bench.lazy import without_collection

    with without_collection():
        value = getattr(
            importlib.import_module("rpg_bench.compact.load" if name == "load" else "rpg_bench.sharing"), name
        )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
