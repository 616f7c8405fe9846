"""The tables behind a ring, and the operation that reads them."""

from __future__ import annotations

from rpg_bench.sharing.unpacking.fused import FusedTable
from rpg_bench.sharing.unpacking.layout import Layout
from rpg_bench.sharing.unpacking.native import available
from rpg_bench.sharing.unpacking.operations import number_of, unpack
from rpg_bench.sharing.unpacking.support import supported
from rpg_bench.sharing.unpacking.tables import (
    BLOCK,
    LARGEST_LOOK_UP,
    BlockTable,
    LookUpTable,
    SortedTable,
    Table,
    TorchTable,
    TwoPassTable,
    signed_words,
)

__all__ = [
    "BLOCK",
    "LARGEST_LOOK_UP",
    "BlockTable",
    "FusedTable",
    "Layout",
    "LookUpTable",
    "SortedTable",
    "Table",
    "TorchTable",
    "TwoPassTable",
    "available",
    "number_of",
    "signed_words",
    "supported",
    "unpack",
]
