"""`rpg_lors`: ours. What is shared comes from a ring, and each layer adds a low-rank residual.

    K_i = c s w[a] + B_i A_i

The ring is RPG's (arXiv 2107.07110), the residual LORS's (arXiv 2403.04303).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rpg_bench.budget import check_range, parse_dof
from rpg_bench.errors import InvalidInput
from rpg_bench.sharing.ring import Ring, RingPlan, RingScheme, RingSharing
from rpg_bench.sharing.rpg_global import DEFAULT_DOF
from rpg_bench.sharing.scheme import Batches, Budget, Plan, Sharing, register
from rpg_bench.sharing.slots import Slot, total_size
from rpg_bench.sharing.stacks import find_stacks


@dataclass(frozen=True)
class RingResidualPlan(Plan):
    """A ring over the distinct shared parts, and the rank of each slot's residual."""

    shared: RingPlan  # its slots are the first of each stack, and those that are alone
    part: tuple[int, ...]  # for each slot, its shared part
    ranks: tuple[int, ...]  # for each slot

    @property
    def seeded(self) -> bool:
        return self.shared.seeded


@register("rpg_lors")
@dataclass(frozen=True)
class RpgLors(RingScheme):
    """One ring for all shared parts; `residual` is the share of the budget that goes into the residuals.

    With `tie`, the layers of a stack share one part, as in LORS; without, every slot has its own, as
    in RPG. Ranks are dealt out one at a time, in slot order, round after round, as far as they fit;
    the ring gets all that is left, so that the budget is met exactly unless the ring is full.
    """

    source = "this project, after arXiv 2107.07110 and arXiv 2403.04303"

    residual: float = 0.25
    tie: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.residual, (int, float)) or not 0 <= self.residual < 1:
            raise InvalidInput(f"sharing.residual: {self.residual!r} is outside [0, 1)")
        if not isinstance(self.tie, bool):
            raise InvalidInput(f"sharing.tie: {self.tie!r} is neither true nor false")

    def table_bytes(self, plan: Plan) -> int:
        assert isinstance(plan, RingResidualPlan)
        return super().table_bytes(plan.shared)

    def plan(self, slots: Sequence[Slot], dof: Budget, seed: int) -> RingResidualPlan:
        budget = parse_dof(DEFAULT_DOF if dof is None else dof, total_size(slots))
        check_range(budget, *self.range(slots), self.name)
        stacks = find_stacks(slots)[0] if self.tie else ()
        first = {number: stack.slots[0] for stack in stacks for number in stack.slots}
        owners = sorted({first.get(number, number) for number in range(len(slots))})
        part = tuple(owners.index(first.get(number, number)) for number in range(len(slots)))
        shared = [slots[owner] for owner in owners]
        # What the ring could not hold goes into the residuals too.
        for_residuals = max(int(self.residual * budget), budget - total_size(shared))
        ranks = deal_ranks([slot.matrix for slot in slots], for_residuals)
        spent = sum(rank * sum(slot.matrix) for rank, slot in zip(ranks, slots, strict=True))
        entries = min(budget - spent, total_size(shared))
        ring_plan = self.plan_rings(shared, [Ring("shared", tuple(range(len(shared))), entries)], seed)
        return RingResidualPlan(
            self.name, tuple(slots), entries + spent, seed, self.options(), (), ring_plan, part, tuple(ranks)
        )

    def build(self, plan: Plan, model: nn.Module, batches: Batches | None = None) -> Sharing:
        assert isinstance(plan, RingResidualPlan)
        return RingResidualSharing(plan)


class RingResidualSharing(Sharing):
    """`base.ring`: the ring; `down.i`: A (rank, columns) and `up.i`: B (out, rank) of slot i."""

    def __init__(self, plan: RingResidualPlan) -> None:
        super().__init__(plan)
        self.base = RingSharing(plan.shared)
        self.base._in_layers = self._in_layers  # of all owners, not of those that the ring's slots are named by
        generator = plan.generator("rpg_lors")
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        self._part, self._ranks = plan.part, plan.ranks
        for number, (slot, rank) in enumerate(zip(plan.slots, plan.ranks, strict=True)):
            if rank:
                rows, columns = slot.matrix
                down = torch.empty(rank, columns)
                nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
                self.down[str(number)] = nn.Parameter(down)
                self.up[str(number)] = nn.Parameter(torch.zeros(rows, rank))

    def checksum(self) -> str:
        return self.base.checksum()

    def produce(self) -> Sequence[Tensor]:
        parts = self.base.produce()
        self._full_dtype = self.base.ring.dtype
        return [self._with_residual(number, parts[part]) for number, part in enumerate(self._part)]

    def produce_slot(self, number: int) -> Tensor:
        return self._with_residual(number, self.base.produce_slot(self._part[number]))

    def _with_residual(self, number: int, shared: Tensor) -> Tensor:
        if not self._ranks[number]:
            return shared
        key = str(number)
        return torch.addmm(shared.reshape(shared.shape[0], -1), self.up[key], self.down[key]).view(shared.shape)


def deal_ranks(sides: Sequence[tuple[int, int]], budget: int) -> list[int]:
    """Ranks of matrices with these sides: one more for each in turn while it fits and is of use.

    A pair of factors of rank r costs r * (rows + columns), at most as much as the matrix has entries.
    """
    ranks = [0] * len(sides)
    dealt = True
    while dealt:
        dealt = False
        for number, (rows, columns) in enumerate(sides):
            cost = rows + columns
            if cost <= budget and (ranks[number] + 1) * cost <= rows * columns:
                ranks[number] += 1
                budget -= cost
                dealt = True
    return ranks
