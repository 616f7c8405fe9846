"""`lowrank`: each slot is a product of two factors (Denil et al. 2013; Jaderberg et al. 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rpg_bench.budget import check_range, parse_dof
from rpg_bench.sharing.rpg_global import DEFAULT_DOF
from rpg_bench.sharing.scheme import Batches, Budget, Plan, Scheme, Sharing, register
from rpg_bench.sharing.slots import Slot, total_size


@dataclass(frozen=True)
class LowRankPlan(Plan):
    """The rank of each slot; a slot that is kept has rank 0."""

    ranks: tuple[int, ...]


@register("lowrank")
@dataclass(frozen=True)
class LowRank(Scheme):
    """Slot = U V with one rank for all slots as far as it goes; what is left buys single ranks.

    A slot whose factors would hold as many scalars as it has entries stays free instead, so that no
    slot ever gets more parameters than entries.

    On white noise a layer's output starts with the dense one's variance. On inputs that have a common
    mean, as behind a ReLU, a slot of low rank passes on more or less, by how its few directions lie.
    """

    source = "Denil et al., arXiv 1306.0543"

    def range(self, slots: Sequence[Slot]) -> tuple[int, int]:
        return sum(_cost(slot, 1) for slot in slots), total_size(slots)

    def plan(self, slots: Sequence[Slot], dof: Budget, seed: int) -> LowRankPlan:
        budget = parse_dof(DEFAULT_DOF if dof is None else dof, total_size(slots))
        check_range(budget, *self.range(slots), self.name)
        low, high = 1, max(min(slot.matrix) for slot in slots)
        while low < high:
            middle = (low + high + 1) // 2
            fits = sum(_cost(slot, middle) for slot in slots) <= budget
            low, high = (middle, high) if fits else (low, middle - 1)
        ranks = [low] * len(slots)
        left = budget - sum(_cost(slot, low) for slot in slots)
        for number, slot in enumerate(slots):
            extra = _cost(slot, low + 1) - _cost(slot, low)
            if 0 < extra <= left:
                ranks[number], left = low + 1, left - extra
        kept = tuple(number for number, slot in enumerate(slots) if _cost(slot, ranks[number]) == slot.size)
        achieved = sum(_cost(slot, rank) for slot, rank in zip(slots, ranks, strict=True))
        shown = tuple(0 if number in kept else rank for number, rank in enumerate(ranks))
        return LowRankPlan(self.name, tuple(slots), achieved, seed, self.options(), kept, shown)

    def build(self, plan: Plan, model: nn.Module, batches: Batches | None = None) -> Sharing:
        assert isinstance(plan, LowRankPlan)
        return LowRankSharing(plan)


class LowRankSharing(Sharing):
    """`left.s`: U (out, rank) and `right.s`: V (rank, columns) of slot s."""

    def __init__(self, plan: LowRankPlan) -> None:
        super().__init__(plan)
        generator = plan.generator("lowrank")
        self.left, self.right = nn.ParameterDict(), nn.ParameterDict()
        for number in plan.generated:
            slot, rank = plan.slots[number], plan.ranks[number]
            rows, columns = slot.matrix
            left = torch.randn(rows, rank, generator=generator)
            right = torch.randn(rank, columns, generator=generator)
            # The sum of the squares of U V, without the product. Of few directions it would vary by chance.
            squares = ((left.T @ left) * (right @ right.T)).sum().item()
            scale = (slot.std**2 * slot.size / squares) ** 0.25
            self.left[str(number)] = nn.Parameter(left * scale)
            self.right[str(number)] = nn.Parameter(right * scale)

    def produce(self) -> Sequence[Tensor]:
        return [self.produce_slot(number) for number in self.plan.generated]

    def produce_slot(self, number: int) -> Tensor:
        product: Tensor = self.left[str(number)] @ self.right[str(number)]
        return product.view(self.plan.slots[number].shape)


def _cost(slot: Slot, rank: int) -> int:
    """Scalars of the slot at this rank: of its factors, or of itself where that is less."""
    return min(rank * sum(slot.matrix), slot.size)
