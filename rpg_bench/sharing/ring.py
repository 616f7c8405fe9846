"""A ring of free parameters and how it is unpacked into slots; the base of every ring scheme.

K[j] = c(slot of j) * s[j] * w[a[j]]          (design, section 2; RPG, equation 2)
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rpg_bench.errors import InvalidInput, unknown
from rpg_bench.sharing.allocation import LARGEST, ORDERS, allocate, draw, negative_signs
from rpg_bench.sharing.scheme import Batches, Plan, Scheme, Sharing
from rpg_bench.sharing.slots import Slot

# The ring starts like the weights of a 512 x 512 x 3 x 3 kernel (Kaiming fan-out), which keeps the
# papers' learning rate and weight decay meaningful.
RING_STD = math.sqrt(2 / (512 * 3 * 3))

INDEX_BYTES = 4  # of a position's index, int32


@dataclass(frozen=True)
class Ring:
    """Part of the free parameters, and the slots (by number) that it is unpacked into."""

    name: str
    slots: tuple[int, ...]
    dof: int


@dataclass(frozen=True)
class RingPlan(Plan):
    """Rings that together own every slot; their parameters follow one another in `Sharing.ring`."""

    rings: tuple[Ring, ...]
    order: str  # shuffled or sequential, or drawn with replacement (HashedNets)
    permute: bool
    flip_sign: bool

    @property
    def seeded(self) -> bool:
        return self.permute or self.flip_sign

    def signed_index(self) -> NDArray[np.int32]:
        """Where each position reads in the table (w, -w): a[j], plus N where s[j] is -1.

        Returns:
            Shape (D,), int32, values in 0..2N-1.
        """
        bounds = np.cumsum([0, *(slot.size for slot in self.slots)])
        index = np.empty(self.total, np.int32)
        offset = 0
        for ring in self.rings:
            owned = [self.slots[number] for number in ring.slots]
            identity = {
                "seed": self.seed,
                "slots": [[slot.name, list(slot.shape)] for slot in owned],
                "dof": ring.dof,
            }
            sizes = [slot.size for slot in owned]
            if self.order == "drawn":
                entries = draw(sizes, ring.dof, identity)
            else:
                entries = allocate(sizes, ring.dof, self.order, self.permute, identity)
            entries += np.int32(offset)
            if self.flip_sign:
                entries[negative_signs(len(entries), identity)] += np.int32(self.dof)
            start = 0
            for number in ring.slots:
                index[bounds[number] : bounds[number + 1]] = entries[start : start + sizes[0]]
                start += sizes.pop(0)
            offset += ring.dof
        return index

    def scales(self) -> tuple[float, ...]:
        """c of each slot: its own initial standard deviation over the ring's."""
        return tuple(slot.std / RING_STD for slot in self.slots)


@dataclass(frozen=True)
class RingScheme(Scheme):
    """Options that all ring schemes share; a subclass says which rings there are."""

    order: str = "shuffled"
    permute: bool = True
    flip_sign: bool = True

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise unknown("sharing.order", self.order, ORDERS)
        for option in ("permute", "flip_sign"):
            if not isinstance(getattr(self, option), bool):
                raise InvalidInput(f"sharing.{option}: {getattr(self, option)!r} is neither true nor false")

    def table_bytes(self, plan: Plan) -> int:
        return INDEX_BYTES * plan.total

    def plan_rings(self, slots: Sequence[Slot], rings: Sequence[Ring], seed: int) -> RingPlan:
        """The plan for these rings with this scheme's options."""
        dof = sum(ring.dof for ring in rings)
        fixed = (self.order, self.permute, self.flip_sign)
        return RingPlan(self.name, tuple(slots), dof, seed, self.options(), (), tuple(rings), *fixed)

    def build(self, plan: Plan, model: nn.Module, batches: Batches | None = None) -> Sharing:
        assert isinstance(plan, RingPlan)
        return RingSharing(plan)


class RingSharing(Sharing):
    """All rings as one parameter `ring`, shape (N,), unpacked by one table look-up."""

    index: Tensor

    def __init__(self, plan: RingPlan) -> None:
        super().__init__(plan)
        if max(plan.total, 2 * plan.dof) > LARGEST:
            raise InvalidInput(f"model: {plan.total} scalars in slots; a ring can serve at most {LARGEST // 2}")
        self.ring = nn.Parameter(torch.randn(plan.dof, generator=plan.generator("ring")) * RING_STD)
        self.scales = plan.scales()
        # Never saved: the plan alone determines it, and the checkpoint has its checksum.
        self.add_table("index", torch.from_numpy(plan.signed_index()))
        self._checksum = f"{zlib.crc32(self.index.numpy().data):08x}"
        sizes = [slot.size for slot in plan.slots]
        self._bounds = [0]
        for size in sizes:
            self._bounds.append(self._bounds[-1] + size)
        self._shapes = [slot.shape for slot in plan.slots]

    def checksum(self) -> str:
        return self._checksum

    def produce(self) -> Sequence[Tensor]:
        slots: Sequence[Tensor] = _Unpack.apply(self.ring, self.index, self._shapes, self.scales)
        return slots

    def produce_slot(self, number: int) -> Tensor:
        index = self.index[self._bounds[number] : self._bounds[number + 1]]
        slots: Sequence[Tensor] = _Unpack.apply(self.ring, index, [self._shapes[number]], [self.scales[number]])
        return slots[0]

    def extra_repr(self) -> str:
        return f"{self.plan.scheme}, D={self.plan.total}, DoF={self.plan.dof}"


class _Unpack(torch.autograd.Function):
    """Slots from a ring. One gather forward, one scatter-add backward, whatever the number of slots."""

    @staticmethod
    def forward(
        ctx: Any, ring: Tensor, index: Tensor, shapes: Sequence[tuple[int, ...]], scales: Sequence[float]
    ) -> tuple[Tensor, ...]:
        # Not through save_for_backward: activation checkpointing compares what is saved when a block
        # runs first (slots read from the whole) and again (slot by slot). No cycle: it is no output.
        ctx.index, ctx.scales, ctx.dof = index, scales, ring.numel()
        positions = torch.cat([ring, -ring]).index_select(0, index)
        pieces = torch.split(positions, [math.prod(shape) for shape in shapes])
        return tuple(piece.mul_(scale).view(shape) for piece, shape, scale in zip(pieces, shapes, scales, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        scaled = torch.cat([(g * scale).reshape(-1) for g, scale in zip(gradients, ctx.scales, strict=True)])
        # Accumulated in float32 at least: a ring entry sums up to thousands of positions.
        accumulated = scaled.float() if scaled.dtype in (torch.float16, torch.bfloat16) else scaled
        table = accumulated.new_zeros(2 * ctx.dof).index_add_(0, ctx.index, accumulated)
        return (table[: ctx.dof] - table[ctx.dof :]).to(scaled.dtype), None, None, None
