"""`lors`: stacked layers share one weight, and each adds its own low-rank residual (LORS, static).

    W_i = W + sum_k B_ik A_ik            (arXiv 2403.04303, section 3.2)

All pairs of a layer equal one pair of the summed rank, and are kept as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rpg_bench.budget import check_range, parse_dof
from rpg_bench.errors import InvalidInput, unknown
from rpg_bench.sharing.scheme import Batches, Budget, Plan, Scheme, Sharing, register
from rpg_bench.sharing.slots import Slot, total_size
from rpg_bench.sharing.stacks import Stack, find_stacks

# Groups of each of DeiT-Tiny's twelve layers (the official configuration); layer i has rank
# base rank x group. Stacks of other lengths take the pattern stretched, convolutions take ones.
GROUPS = {
    "attn": (1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 6),
    "mlp": (6, 4, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1),
}


@dataclass(frozen=True)
class StackPlan(Plan):
    """Stacks, and the rank of the residual of each of their layers."""

    stacks: tuple[Stack, ...]
    ranks: tuple[tuple[int, ...], ...]  # one for each layer of each stack


@register("lors")
@dataclass(frozen=True)
class Lors(Scheme):
    """One weight per stack, and a residual of rank `rank` x group for each layer.

    `groups` maps `attn` and `mlp` to one group number per layer. Without `rank`, a budget is solved
    for the largest base rank; without either, the papers' rank 32. A slot that is alone in its shape
    stays free.
    """

    source = "LORS, arXiv 2403.04303"
    default_rank: ClassVar[int] = 32

    rank: int | None = None
    groups: Mapping[str, Any] = field(default_factory=lambda: {"attn": None, "mlp": None})

    def __post_init__(self) -> None:
        if self.rank is not None and (not isinstance(self.rank, int) or self.rank < 0):
            raise InvalidInput(f"sharing.rank: {self.rank!r} is no whole number; allowed: 0 or more")
        for family, pattern in self.groups.items():
            if family not in GROUPS:
                raise unknown(f"sharing.groups.{family}", family, GROUPS)
            if pattern is not None and not all(isinstance(group, int) and group >= 0 for group in pattern):
                raise InvalidInput(f"sharing.groups.{family}: {list(pattern)} is not a list of whole numbers")

    def range(self, slots: Sequence[Slot]) -> tuple[int, int]:
        return smallest_stacked_dof(slots, self.name), total_size(slots)

    def plan(self, slots: Sequence[Slot], dof: Budget, seed: int) -> StackPlan:
        stacks, alone = stacks_of(slots, self.name)
        patterns = [self._pattern(stack) for stack in stacks]

        def planned(base: int) -> StackPlan:
            return self._planned(slots, seed, stacks, patterns, alone, base)

        if dof is None:
            return planned(self.default_rank if self.rank is None else self.rank)
        if self.rank is not None:
            raise InvalidInput(f"sharing.rank: {self.rank} and dof {dof} both fix the size; leave one out")
        budget = parse_dof(dof, total_size(slots))
        check_range(budget, *self.range(slots), self.name)
        return planned(_largest(lambda base: planned(base).dof, budget))

    def _planned(
        self,
        slots: Sequence[Slot],
        seed: int,
        stacks: tuple[Stack, ...],
        patterns: Sequence[Sequence[int]],
        alone: tuple[int, ...],
        base: int,
    ) -> StackPlan:
        """The plan for a base rank."""
        ranks = tuple(tuple(base * group for group in pattern) for pattern in patterns)
        dof = stacked_dof(slots, stacks, ranks, alone)
        options = {**self.options(), "rank": base}
        return StackPlan(self.name, tuple(slots), dof, seed, options, alone, stacks, ranks)

    def build(self, plan: Plan, model: nn.Module, batches: Batches | None = None) -> Sharing:
        assert isinstance(plan, StackPlan)
        return LorsSharing(plan)

    def _pattern(self, stack: Stack) -> tuple[int, ...]:
        """One group number for each layer of the stack."""
        layers = len(stack.slots)
        given = self.groups.get(stack.family)
        if given is not None:
            if len(given) != layers:
                raise InvalidInput(
                    f"sharing.groups.{stack.family}: it has {len(given)} numbers, but {stack.role} has {layers} layers"
                )
            return tuple(given)
        pattern = GROUPS.get(stack.family, (1,))
        return tuple(pattern[position * len(pattern) // layers] for position in range(layers))


class LorsSharing(Sharing):
    """`shared.s`: (out, columns) of stack s; `down.s_i`: A (rank, columns) and `up.s_i`: B (out, rank) of layer i."""

    def __init__(self, plan: StackPlan) -> None:
        super().__init__(plan)
        generator = plan.generator("lors")
        self.shared, self.down, self.up = nn.ParameterList(), nn.ParameterDict(), nn.ParameterDict()
        self._layers: dict[int, tuple[int, str | None]] = {}
        for number, (stack, ranks) in enumerate(zip(plan.stacks, plan.ranks, strict=True)):
            rows, columns = stack.matrix
            std = plan.slots[stack.slots[0]].std
            self.shared.append(nn.Parameter(torch.randn(rows, columns, generator=generator) * std))
            for layer, (slot, rank) in enumerate(zip(stack.slots, ranks, strict=True)):
                key = f"{number}_{layer}" if rank else None
                self._layers[slot] = (number, key)
                if key is not None:
                    down = torch.empty(rank, columns)
                    nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
                    self.down[key] = nn.Parameter(down)
                    self.up[key] = nn.Parameter(torch.zeros(rows, rank))

    def produce(self) -> Sequence[Tensor]:
        return [self.produce_slot(number) for number in self.plan.generated]

    def produce_slot(self, number: int) -> Tensor:
        stack, key = self._layers[number]
        weight: Tensor = self.shared[stack]
        if key is not None:
            weight = torch.addmm(weight, self.up[key], self.down[key])
        return weight.view(self.plan.slots[number].shape)


def stacks_of(slots: Sequence[Slot], scheme: str) -> tuple[tuple[Stack, ...], tuple[int, ...]]:
    """The stacks and the slots that are alone; InvalidInput if there is no stack at all."""
    stacks, alone = find_stacks(slots)
    if not stacks:
        raise InvalidInput(f"sharing: {scheme} needs layers of equal shape and role, and this network has none")
    return stacks, alone


def stacked_dof(
    slots: Sequence[Slot], stacks: Sequence[Stack], ranks: Sequence[Sequence[int]], alone: Sequence[int]
) -> int:
    """Free scalars: a weight per stack, a pair of factors per layer, and the slots that are alone."""
    shared = sum(math.prod(stack.shape) for stack in stacks)
    residual = sum(sum(layers) * sum(stack.matrix) for stack, layers in zip(stacks, ranks, strict=True))
    return shared + residual + sum(slots[number].size for number in alone)


def smallest_stacked_dof(slots: Sequence[Slot], scheme: str) -> int:
    """Free scalars without any residual."""
    stacks, alone = stacks_of(slots, scheme)
    return stacked_dof(slots, stacks, [(0,) * len(stack.slots) for stack in stacks], alone)


def _largest(count: Callable[[int], int], budget: int) -> int:
    """The largest base rank that does not exceed the budget, by bisection."""
    low, high = 0, budget
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(middle) <= budget else (low, middle - 1)
    return low
