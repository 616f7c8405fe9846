"""How much accuracy does one degree of freedom buy?"""

from rpg_bench.lazy import without_collection

with without_collection():  # torch is imported here
    from rpg_bench.errors import InvalidInput
    from rpg_bench.sharing import DofReport, dof_report, materialize, narrow, share

__version__ = "0.1.0"
__all__ = ["DofReport", "InvalidInput", "dof_report", "materialize", "narrow", "share"]
