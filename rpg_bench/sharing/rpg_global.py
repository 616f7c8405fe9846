"""`rpg_global`: one ring for the whole network (RPG, arXiv 2107.07110, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rpg_bench.budget import check_range, parse_dof
from rpg_bench.sharing.ring import Ring, RingPlan, RingScheme
from rpg_bench.sharing.scheme import Budget, register
from rpg_bench.sharing.slots import Slot, total_size

DEFAULT_DOF = "18%"  # 96 % of the dense accuracy in the paper's abstract


@register("rpg_global")
@dataclass(frozen=True)
class RpgGlobal(RingScheme):
    """One ring of N entries generates every slot."""

    source = "Recurrent Parameter Generators, arXiv 2107.07110"

    def plan(self, slots: Sequence[Slot], dof: Budget, seed: int) -> RingPlan:
        budget = parse_dof(DEFAULT_DOF if dof is None else dof, total_size(slots))
        check_range(budget, *self.range(slots), self.name)
        ring = Ring("global", tuple(range(len(slots))), budget)
        return self.plan_rings(slots, [ring], seed)
