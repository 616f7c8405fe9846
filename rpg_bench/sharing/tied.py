"""`tied`: stacked layers share one weight, no residual (ALBERT, arXiv 1909.11942; LORS with rank 0)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from rpg_bench.budget import check_range, parse_dof
from rpg_bench.sharing.lors import LorsSharing, StackPlan, smallest_stacked_dof, stacked_dof, stacks_of
from rpg_bench.sharing.scheme import Batches, Budget, Plan, Scheme, Sharing, register
from rpg_bench.sharing.slots import Slot, total_size


@register("tied")
@dataclass(frozen=True)
class Tied(Scheme):
    """One weight per stack. Its size is fixed by the network; any budget that holds it will do."""

    source = "ALBERT, arXiv 1909.11942"

    def range(self, slots: Sequence[Slot]) -> tuple[int, int]:
        return smallest_stacked_dof(slots, self.name), total_size(slots)

    def plan(self, slots: Sequence[Slot], dof: Budget, seed: int) -> StackPlan:
        stacks, alone = stacks_of(slots, self.name)
        ranks = tuple((0,) * len(stack.slots) for stack in stacks)
        fixed = stacked_dof(slots, stacks, ranks, alone)
        if dof is not None:
            check_range(parse_dof(dof, total_size(slots)), *self.range(slots), self.name)
        return StackPlan(self.name, tuple(slots), fixed, seed, self.options(), alone, stacks, ranks)

    def build(self, plan: Plan, model: nn.Module, batches: Batches | None = None) -> Sharing:
        assert isinstance(plan, StackPlan)
        return LorsSharing(plan)
