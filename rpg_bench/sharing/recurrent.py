"""`recurrent`: a ring that is walked around and around, without permutation or sign flips.

The ablation of RPG's destructive sharing (arXiv 2107.07110, section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass

from rpg_bench.sharing.rpg_global import RpgGlobal
from rpg_bench.sharing.scheme import register


@register("recurrent")
@dataclass(frozen=True)
class Recurrent(RpgGlobal):
    """`rpg_global` with both switched off; `permute=true` or `flip_sign=true` brings one back."""

    source = "Recurrent Parameter Generators, arXiv 2107.07110"

    order: str = "sequential"
    permute: bool = False
    flip_sign: bool = False
