"""`none`: every slot is free, the dense network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from rpg_bench.errors import InvalidInput
from rpg_bench.sharing.budget import parse_dof
from rpg_bench.sharing.scheme import Batches, Budget, Plan, Scheme, Sharing, register
from rpg_bench.sharing.slots import Slot, total_size


@register("none")
@dataclass(frozen=True)
class Dense(Scheme):
    """The slots stay the ordinary parameters that they were: DoF = D."""

    source = "the baseline"

    def plan(self, slots: Sequence[Slot], dof: Budget, seed: int) -> Plan:
        total = total_size(slots)
        if dof is not None and parse_dof(dof, total) != total:
            raise InvalidInput(f"dof: {dof} is outside the range of none, {total}..{total}; nearest: {total}")
        return Plan(self.name, tuple(slots), total, seed=0, options=self.options(), kept=tuple(range(len(slots))))

    def build(self, plan: Plan, model: nn.Module, batches: Batches | None = None) -> Sharing:
        return DenseSharing(plan)


class DenseSharing(Sharing):
    """Owns nothing and costs nothing."""

    def produce(self) -> Sequence[Tensor]:
        return ()

    def produce_slot(self, number: int) -> Tensor:
        raise TypeError("the slots of a dense network are its own parameters")
