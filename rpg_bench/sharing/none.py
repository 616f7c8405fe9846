"""`none`: every slot is free, the dense network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from rpg_bench.budget import parse_dof
from rpg_bench.errors import InvalidInput
from rpg_bench.sharing.blueprint import Blueprint
from rpg_bench.sharing.narrower import narrow_to, narrowest
from rpg_bench.sharing.scheme import Batches, Budget, Plan, Scheme, Sharing, register
from rpg_bench.sharing.slots import Slot, total_size


@register("none")
@dataclass(frozen=True)
class Dense(Scheme):
    """The slots stay the ordinary parameters that they were: DoF = D.

    With a budget the network is a narrower one of the same family, which has to be built so: `network`
    does it for a blueprint, and `rpg_bench.narrow` for a model of timm.
    """

    source = "the baseline"

    def range(self, slots: Sequence[Slot]) -> tuple[int, int]:
        return total_size(slots), total_size(slots)

    def range_of(self, blueprint: Blueprint) -> tuple[int, int]:
        most = total_size(blueprint.slots)
        try:
            return narrowest(blueprint), most
        except InvalidInput:  # of a family that cannot be narrowed
            return most, most

    def network(self, blueprint: Blueprint, dof: Budget) -> tuple[nn.Module, Budget]:
        if dof is None:
            return blueprint.full, None
        return narrow_to(blueprint, parse_dof(dof, total_size(blueprint.slots))), None

    def plan(self, slots: Sequence[Slot], dof: Budget, seed: int) -> Plan:
        total = total_size(slots)
        if dof is not None and (budget := parse_dof(dof, total)) != total:
            raise InvalidInput(
                f"dof: {budget} is outside the range of none for a network that is built, {total}..{total}; for less, "
                f'build a narrower one: rpg_bench.narrow("resnet18", dof={budget}), for example'
            )
        return Plan(self.name, tuple(slots), total, seed=0, options=self.options(), kept=tuple(range(len(slots))))

    def build(self, plan: Plan, model: nn.Module, batches: Batches | None = None) -> Sharing:
        return DenseSharing(plan)


class DenseSharing(Sharing):
    """Owns nothing and costs nothing."""

    def produce(self) -> Sequence[Tensor]:
        return ()

    def produce_slot(self, number: int) -> Tensor:
        raise TypeError("the slots of a dense network are its own parameters")
