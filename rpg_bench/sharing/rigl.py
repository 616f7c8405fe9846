"""`rigl`: a sparse network whose connections move while it trains, at a fixed number of them (RigL).

Evci et al. 2020, "Rigging the Lottery", arXiv 1911.11134. Every so many steps each layer drops the share

    alpha / 2 * (1 + cos(pi t / T))        alpha = 0.3, T = 75 % of the steps

of its connections, those of smallest magnitude, and grows as many where the gradient of the dense
weight is largest. A connection that was just dropped may come back; it then keeps its value, as in the
official code. New ones start at zero, without momentum.

Each of the run's steps is taken, and connections move behind it; the official code moves them in the
place of a step, so that its networks would be trained for fewer steps than those of other schemes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from rpg_bench.budget import check_range, parse_dof
from rpg_bench.compiler import outside_of_graphs
from rpg_bench.errors import InvalidInput, unknown
from rpg_bench.sharing.allocation import random_bits
from rpg_bench.sharing.masked import MaskedSharing
from rpg_bench.sharing.pruning import flat_slots, highest
from rpg_bench.sharing.rpg_global import DEFAULT_DOF
from rpg_bench.sharing.scheme import Batches, Budget, Plan, Scheme, Sharing, register
from rpg_bench.sharing.slots import Slot, total_size

DISTRIBUTIONS = ("erk", "uniform")
PAPERS_INTERVAL = 100  # steps between updates
LEAST_UPDATES = 10  # that a short run gets by default


@dataclass(frozen=True)
class RiglPlan(Plan):
    """How many connections each slot keeps throughout."""

    connections: tuple[int, ...]


@register("rigl")
@dataclass(frozen=True)
class Rigl(Scheme):
    """N connections, drawn at random within each slot at first, that move where the gradient is.

    `distribution` says how many a slot gets. `erk` (Erdős–Rényi-Kernel): in proportion to the sum of its
    side lengths, out + in + k + k, and all of its weights where that is more; what it could not take goes
    to the others. `uniform`: in proportion to its size. The papers keep the first layer dense under
    `uniform`; here it is no slot unless it is included, and so dense under both.

    `update_every` steps, or without it every 100 as in the paper, or as often as gives a short run ten
    updates, until the share `stop_at` of training. `drop_fraction` is alpha.

    Survivors start with the network's initial values, as in the paper, so that a layer's output starts
    with its variance times its density. Behind a norm that makes no difference.
    """

    source = "RigL, arXiv 1911.11134"

    distribution: str = "erk"
    update_every: int | None = None
    stop_at: float = 0.75
    drop_fraction: float = 0.3

    def __post_init__(self) -> None:
        if self.distribution not in DISTRIBUTIONS:
            raise unknown("sharing.distribution", self.distribution, DISTRIBUTIONS)
        every = self.update_every
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise InvalidInput(f"sharing.update_every: {every!r} is no number of steps; allowed: 1 or more, or nothing")
        for name, value in (("stop_at", self.stop_at), ("drop_fraction", self.drop_fraction)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise InvalidInput(f"sharing.{name}: {value!r} is outside [0, 1]")

    def range(self, slots: Sequence[Slot]) -> tuple[int, int]:
        return len(slots), total_size(slots)  # a slot without any would cut the network

    def table_bytes(self, plan: Plan) -> int:
        return 4 * plan.dof + -(-plan.total // 8)  # the survivors' positions, and the mask

    def plan(self, slots: Sequence[Slot], dof: Budget, seed: int) -> RiglPlan:
        budget = parse_dof(DEFAULT_DOF if dof is None else dof, total_size(slots))
        check_range(budget, *self.range(slots), self.name)
        sizes = [slot.size for slot in slots]
        weights = [sum(slot.shape) for slot in slots] if self.distribution == "erk" else sizes
        connections = spread(budget, weights, sizes)
        return RiglPlan(self.name, tuple(slots), budget, seed, self.options(), (), tuple(connections))

    def build(self, plan: Plan, model: nn.Module, batches: Batches | None = None) -> Sharing:
        assert isinstance(plan, RiglPlan)
        return RiglSharing(plan, model, self)

    def fraction(self, step: int, steps: int) -> float:
        """The share of a slot's connections that moves behind step 0..steps - 1; 0 where none does."""
        end = self.stop_at * steps
        every = self.update_every or min(PAPERS_INTERVAL, max(1, int(end) // LEAST_UPDATES))
        taken = step + 1
        if taken % every or taken >= end:
            return 0.0
        return self.drop_fraction * (1 + math.cos(math.pi * taken / end)) / 2


class RiglSharing(MaskedSharing):
    """`survivors` and `mask` of the base; both change behind a step that moves connections."""

    def __init__(self, plan: RiglPlan, model: nn.Module, scheme: Rigl) -> None:
        words = random_bits(plan.total, "connections", {"seed": plan.seed, "slots": [slot.name for slot in plan.slots]})
        bounds = np.cumsum([0, *(slot.size for slot in plan.slots)])
        drawn = [
            start + np.sort(np.argsort(words[start:stop], kind="stable")[:count])
            for start, stop, count in zip(bounds, bounds[1:], plan.connections)
        ]
        super().__init__(plan, flat_slots(plan, model), torch.from_numpy(np.concatenate(drawn)))
        self._scheme = scheme
        self._connections = list(plan.connections)
        self._gradient: Tensor | None = None  # of the dense weights, in a step behind which connections move

    def produce(self) -> Sequence[Tensor]:
        slots = super().produce()
        if self._gradient is not None:
            self._watch(slots, self._bounds)
        return slots

    def produce_slot(self, number: int) -> Tensor:
        slot = super().produce_slot(number)
        if self._gradient is not None:
            self._watch([slot], self._bounds[number:])
        return slot

    def before_step(self, step: int, steps: int) -> None:
        moves = self._scheme.fraction(step, steps) > 0
        self._gradient = self.survivors.new_zeros(self.plan.total) if moves else None

    @torch.no_grad()
    def after_step(self, step: int, steps: int, optimizer: Optimizer, average: Sharing | None = None) -> None:
        gradient, self._gradient = self._gradient, None
        if gradient is None:
            return
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(gradient)
        if not gradient.isfinite().all():  # half precision overflowed, and the optimizer skipped the step
            return
        positions = self._moved(gradient.abs_(), self._scheme.fraction(step, steps))
        of_connections = [self.survivors.grad, *optimizer.state.get(self.survivors, {}).values()]
        self._rewire(positions, [t for t in of_connections if torch.is_tensor(t) and t.shape == self.survivors.shape])
        if average is not None:
            assert isinstance(average, RiglSharing)
            average._rewire(positions)

    @outside_of_graphs
    def _watch(self, slots: Sequence[Tensor], starts: Sequence[int]) -> None:
        """Add up the gradients that reach these slots, the first of which starts at `starts[0]`."""
        for slot, start in zip(slots, starts):
            if slot.requires_grad:
                slot.register_hook(partial(self._collect, start))  # type: ignore[no-untyped-call]  # torch has no hint

    def _collect(self, start: int, gradient: Tensor) -> None:
        if self._gradient is not None:
            self._gradient[start : start + gradient.numel()] += gradient.detach().reshape(-1)

    def _moved(self, scores: Tensor, fraction: float) -> Tensor:
        """Positions of the connections behind the update, ascending, shape (N,), int32.

        `scores` of shape (D,): the magnitude of the dense gradient. Of equal ones, those that were just
        dropped come back first, so that nothing moves where no gradient arrives.
        """
        moved = []
        magnitudes = torch.split(self.survivors.abs(), self._connections)
        for number, positions in enumerate(torch.split(self.positions, self._connections)):
            start, stop = self._bounds[number], self._bounds[number + 1]
            positions = positions.long() - start
            count = int(fraction * len(positions))
            kept = torch.zeros(len(positions), dtype=torch.bool, device=positions.device)
            kept[highest(magnitudes[number], len(positions) - count)] = True
            chosen = torch.zeros(stop - start, dtype=torch.bool, device=positions.device)
            if count:
                candidates = scores[start:stop].index_fill(0, positions[kept], -1)
                threshold = candidates.kthvalue(len(candidates) - count + 1).values
                chosen = candidates > threshold
                equal = candidates == threshold
                back = positions[~kept & equal[positions]]
                equal[back] = False
                chosen[torch.cat([back, equal.nonzero()[:, 0]])[: count - int(chosen.sum())]] = True
            chosen[positions[kept]] = True
            moved.append(chosen.nonzero()[:, 0] + start)
        return torch.cat(moved).to(torch.int32)

    def _rewire(self, positions: Tensor, states: Sequence[Tensor] = ()) -> None:
        """Move to these positions: what stays keeps its value and its entry in `states`, what is new has zeros."""
        source = torch.searchsorted(self.positions, positions).clamp_(max=len(positions) - 1)
        stays = self.positions[source] == positions
        for values in (self.survivors, *states):
            values.copy_(torch.where(stays, values[source], 0))
        self._place(positions)
        self.mask.copy_(self._packed())


def spread(budget: int, weights: Sequence[int], capacities: Sequence[int]) -> list[int]:
    """Divide `budget` in proportion to `weights`, exactly: each part at least 1 and at most its capacity.

    What a part cannot hold goes to the others in proportion. The largest fractions decide the last
    scalars, earlier parts first.
    """
    parts = list(capacities)
    open_parts = list(range(len(weights)))
    while open_parts:
        left = budget - sum(parts[i] for i in set(range(len(parts))) - set(open_parts))
        total = sum(weights[i] for i in open_parts)
        fitting = [i for i in open_parts if left * weights[i] <= capacities[i] * total]
        if len(fitting) == len(open_parts):
            for i in open_parts:
                parts[i] = left * weights[i] // total
            by_fraction = sorted(open_parts, key=lambda i: (-(left * weights[i] % total), i))
            for i in by_fraction[: budget - sum(parts)]:
                parts[i] += 1
            break
        open_parts = fitting
    for i, part in enumerate(parts):
        if part == 0:  # too small for one: taken from the largest part, which has two at least
            parts[parts.index(max(parts))] -= 1
            parts[i] = 1
    return parts
