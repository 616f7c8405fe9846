"""`hashed`: each weight hashes to a bucket of its own layer (HashedNets, Chen et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from rpg_bench.budget import check_range, divide, parse_dof
from rpg_bench.sharing.ring import INDEX_BYTES, Ring, RingPlan, RingSharing
from rpg_bench.sharing.rpg_global import DEFAULT_DOF
from rpg_bench.sharing.scheme import Batches, Budget, Plan, Scheme, Sharing, register
from rpg_bench.sharing.slots import Slot, total_size


@register("hashed")
@dataclass(frozen=True)
class Hashed(Scheme):
    """Buckets drawn with replacement and a hashed sign; the budget in proportion to layer size.

    Unlike a ring the draw is not balanced: some buckets serve more weights than others.
    """

    source = "HashedNets, arXiv 1504.04788"

    def range(self, slots: Sequence[Slot]) -> tuple[int, int]:
        return len(slots), total_size(slots)

    def table_bytes(self, plan: Plan) -> int:
        return INDEX_BYTES * plan.total

    def plan(self, slots: Sequence[Slot], dof: Budget, seed: int) -> RingPlan:
        budget = parse_dof(DEFAULT_DOF if dof is None else dof, total_size(slots))
        check_range(budget, *self.range(slots), self.name)
        parts = divide(budget, [slot.size for slot in slots])
        rings = tuple(Ring(slot.name, (number,), part) for number, (slot, part) in enumerate(zip(slots, parts)))
        return RingPlan(self.name, tuple(slots), budget, seed, self.options(), (), rings, "drawn", True, True)

    def build(self, plan: Plan, model: nn.Module, batches: Batches | None = None) -> Sharing:
        assert isinstance(plan, RingPlan)
        return HashedSharing(plan)


class HashedSharing(RingSharing):
    """`ring`: the buckets of all layers, one layer after the other.

    A layer may have a handful of buckets, whose draw alone would start it at anything between a half and
    twice its deviation: they are scaled so that the layer starts at it exactly.
    """

    def __init__(self, plan: RingPlan) -> None:
        super().__init__(plan)
        start = 0
        with torch.no_grad():
            for ring, slot, weight in zip(plan.rings, plan.slots, self.produce(), strict=True):
                self.ring[start : start + ring.dof] *= slot.std / weight.square().mean().sqrt()
                start += ring.dof
