"""A ring of free parameters and how it is unpacked into slots; the base of every ring scheme.

K[j] = c(slot of j) * s[j] * w[a[j]]          (design, section 2; RPG, equation 2)
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rpg_bench.errors import InvalidInput, unknown
from rpg_bench.sharing.allocation import LARGEST, ORDERS, allocate, draw, negative_signs
from rpg_bench.sharing.scheme import Batches, Plan, Scheme, Sharing
from rpg_bench.sharing.slots import Slot
from rpg_bench.sharing.unpacking import (
    BLOCK,
    LARGEST_LOOK_UP,
    BlockTable,
    FusedTable,
    Layout,
    LookUpTable,
    SortedTable,
    Table,
    TorchTable,
    TwoPassTable,
    number_of,
    signed_words,
    supported,
    unpack,
)

# The ring starts like the weights of a 512 x 512 x 3 x 3 kernel (Kaiming fan-out), which keeps the
# papers' learning rate and weight decay meaningful.
RING_STD = math.sqrt(2 / (512 * 3 * 3))

INDEX_BYTES = 4  # of a position's index, int32
BLOCK_BYTES = 6  # of a block of positions: the ring's block, and the signs
SORTED_BLOCK_BYTES = 6  # more, for the order backwards of a ring that no core's cache holds, about


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
    block: int = 1  # entries that are moved together, 1 or BLOCK

    @property
    def seeded(self) -> bool:
        return self.permute or self.flip_sign

    def signed_index(self) -> NDArray[np.int32]:
        """Where each position reads in the table (w, -w): a[j], plus N where s[j] is -1.

        Returns:
            Shape (D,), int32, values in 0..2N-1; each slot in C order.
        """
        if self.block > 1:
            return self._index_of_blocks()
        bounds = np.cumsum([0, *(slot.size for slot in self.slots)])
        whole = len(self.rings) == 1 and list(self.rings[0].slots) == list(range(len(self.slots)))
        index = np.empty(0 if whole else self.total, np.int32)
        offset = 0
        for ring in self.rings:
            identity, sizes = self._identity_of(ring), [self.slots[number].size for number in ring.slots]
            if self.order == "drawn":
                entries = draw(sizes, ring.dof, identity)
            else:
                entries = allocate(sizes, ring.dof, self.order, self.permute, identity)
            entries += np.int32(offset)
            if self.flip_sign:
                negative = negative_signs(len(entries), identity)
                for first in range(0, len(entries), 1 << 20):  # the products stay small
                    piece = slice(first, first + (1 << 20))
                    entries[piece] += negative[piece] * np.int32(self.dof)
            if whole:
                return entries  # a second array of this size would be felt
            start = 0
            for number in ring.slots:
                index[bounds[number] : bounds[number + 1]] = entries[start : start + sizes[0]]
                start += sizes.pop(0)
            offset += ring.dof
        return index

    def blocks(self) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
        """The allocation of whole blocks, with `block` above 1.

        Each slot, its kernels' channels last, is cut into blocks; a block of positions takes a block
        of the ring, entry by entry, each with a sign of its own.

        Returns:
            The ring's block and the signs (a bit for each position, set where negative) of each block
            of positions; shape (blocks of all slots,).
        """
        counts = [-(-slot.size // self.block) for slot in self.slots]
        bounds = np.cumsum([0, *counts])
        blocks, signs = np.empty(bounds[-1], np.uint32), np.zeros(bounds[-1], np.uint16)
        offset = 0
        for ring in self.rings:
            identity = {**self._identity_of(ring), "block": self.block}
            own = [counts[number] for number in ring.slots]
            entries = allocate(own, ring.dof // self.block, self.order, self.permute, identity)
            negative = negative_signs(self.block * len(entries), identity) if self.flip_sign else None
            start = 0
            for number, count in zip(ring.slots, own, strict=True):
                blocks[bounds[number] : bounds[number + 1]] = entries[start : start + count] + offset
                if negative is not None:
                    flat = negative[self.block * start : self.block * (start + count)]
                    packed = np.packbits(flat.reshape(count, self.block), axis=1, bitorder="little")
                    signs[bounds[number] : bounds[number + 1]] = packed.view("<u2")[:, 0]
                start += count
            offset += ring.dof // self.block
        return blocks, signs

    def _index_of_blocks(self) -> NDArray[np.int32]:
        blocks, signs = self.blocks()
        lanes = np.arange(self.block)
        layout, pieces, start = Layout(tuple(slot.shape for slot in self.slots), channels_last=True), [], 0
        for number, slot in enumerate(self.slots):
            stop = start - (-slot.size // self.block)
            entries = self.block * blocks[start:stop, None].astype(np.int64) + lanes
            entries += self.dof * (signs[start:stop, None] >> lanes & 1)
            pieces.append(layout.index_order(number, entries.reshape(-1)[: slot.size]))
            start = stop
        return np.concatenate(pieces).astype(np.int32)

    def _identity_of(self, ring: Ring) -> dict[str, Any]:
        """What the ring's random stream depends on."""
        owned = [self.slots[number] for number in ring.slots]
        return {"seed": self.seed, "slots": [[slot.name, list(slot.shape)] for slot in owned], "dof": ring.dof}

    def scales(self) -> tuple[float, ...]:
        """c of each slot: its own initial standard deviation over the ring's."""
        return tuple(slot.std / RING_STD for slot in self.slots)


@dataclass(frozen=True)
class TableChoice:
    """What the kind of table depends on."""

    device: torch.device
    native: bool  # whether kernels made for the device can be used
    channels_last: bool


def make_table(
    plan: RingPlan, choice: TableChoice, index: NDArray[np.int32] | None = None, by_position: bool = False
) -> Table:
    """Make the fastest table for this plan.

    Args:
        plan: what is allocated.
        choice: where the table is used.
        index: `plan.signed_index()` if it is at hand; its memory may be used for the table.
        by_position: a table that can be told apart into slots.
    """
    shapes = tuple(slot.shape for slot in plan.slots)
    on_cpu = choice.device.type == "cpu"
    if choice.native and on_cpu and plan.block > 1 and not by_position:
        return BlockTable(*plan.blocks(), Layout(shapes, channels_last=True), plan.scales(), plan.dof)
    layout = Layout(shapes, choice.channels_last or (plan.block > 1 and not by_position))
    index = plan.signed_index() if index is None else index
    start = 0
    for number, size in enumerate(layout.sizes):
        piece = index[start : start + size]
        piece[:] = layout.memory_order(number, piece)
        start += size
    if choice.native and on_cpu:
        words = signed_words(index, plan.dof)
        if TwoPassTable.is_better(layout, plan.dof):
            return TwoPassTable(words, layout, plan.scales(), plan.dof)
        return LookUpTable(words, layout, plan.scales(), plan.dof)
    kind = TorchTable if on_cpu or by_position else FusedTable if choice.native else SortedTable
    return kind(torch.from_numpy(index).to(choice.device), layout, plan.scales(), plan.dof)


@dataclass(frozen=True)
class RingScheme(Scheme):
    """Options that all ring schemes share; a subclass says which rings there are."""

    order: str = "shuffled"
    permute: bool = True
    flip_sign: bool = True
    block: int = 1

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise unknown("sharing.order", self.order, ORDERS)
        if self.block not in (1, BLOCK) or isinstance(self.block, bool):
            raise InvalidInput(f"sharing.block: {self.block!r} is not allowed; 1 (entry by entry) or {BLOCK} are")
        for option in ("permute", "flip_sign"):
            if not isinstance(getattr(self, option), bool):
                raise InvalidInput(f"sharing.{option}: {getattr(self, option)!r} is neither true nor false")

    def table_bytes(self, plan: Plan) -> int:
        assert isinstance(plan, RingPlan)
        if plan.block > 1:
            each = BLOCK_BYTES + (SORTED_BLOCK_BYTES if plan.dof > LARGEST_LOOK_UP else 0)
            return each * sum(-(-slot.size // plan.block) for slot in plan.slots)
        return INDEX_BYTES * plan.total

    def plan_rings(self, slots: Sequence[Slot], rings: Sequence[Ring], seed: int) -> RingPlan:
        """The plan for these rings with this scheme's options.

        Raises:
            InvalidInput: a ring is smaller than a block.
        """
        if self.block > 1:  # whole blocks
            rings = [replace(ring, dof=ring.dof - ring.dof % self.block) for ring in rings]
            for ring in rings:
                if not ring.dof:
                    raise InvalidInput(
                        f"dof: ring {ring.name!r} would have less than one block; at least {self.block} are needed"
                    )
        dof = sum(ring.dof for ring in rings)
        fixed = (self.order, self.permute, self.flip_sign, self.block)
        return RingPlan(self.name, tuple(slots), dof, seed, self.options(), (), tuple(rings), *fixed)

    def build(self, plan: Plan, model: nn.Module, batches: Batches | None = None) -> Sharing:
        assert isinstance(plan, RingPlan)
        return RingSharing(plan)


class RingSharing(Sharing):
    """All rings as one parameter `ring`, shape (N,), unpacked into all slots in one operation.

    What that operation reads is a table, made for the device, the precision and the memory format of
    the model, and made again when these change.
    """

    _kernel: Tensor

    def __init__(self, plan: RingPlan) -> None:
        super().__init__(plan)
        if max(plan.total, 2 * plan.dof) > LARGEST:
            raise InvalidInput(f"model: {plan.total} scalars in slots; a ring can serve at most {LARGEST // 2}")
        self.ring = nn.Parameter(torch.randn(plan.dof, generator=plan.generator("ring")) * RING_STD)
        # Follows the model through .to(): tells whether its kernels are channels last.
        self.add_table("_kernel", torch.empty(1, 2, 2, 2))
        # Never saved: the plan alone determines it, and the checkpoint has its checksum.
        self._index: NDArray[np.int32] | None = None  # until a table is made of it
        if plan.block > 1:
            blocks, signs = plan.blocks()
            self._checksum = f"{zlib.crc32(signs.data, zlib.crc32(blocks.data)):08x}"
        else:
            self._index = plan.signed_index()
            self._checksum = f"{zlib.crc32(self._index.data):08x}"
        self._table: Table | None = None
        self._made_for: TableChoice | None = None
        self._spare: Table | None = None

    def checksum(self) -> str:
        return self._checksum

    def produce(self) -> Sequence[Tensor]:
        outputs = unpack(self.ring, self._prepare(), self.slot_dtype(self.ring))
        assert self._table is not None
        slots = self._table.slots(outputs)
        if self._plan.block > 1 and not self._channels_last:
            return [slot.contiguous() for slot in slots]
        return slots

    def produce_slot(self, number: int) -> Tensor:
        self._prepare()
        part = self._table.of_slot(number) if self._table is not None else None
        if part is None:
            # Read on its own, as in activation checkpointing: by position, whatever is fastest for all.
            if self._spare is None:
                self._spare = make_table(self._plan, TableChoice(self.ring.device, False, False), by_position=True)
            part = self._spare.of_slot(number)
            assert part is not None
        return part.slots(unpack(self.ring, number_of(part), self.slot_dtype(self.ring)))[0]

    def extra_repr(self) -> str:
        return f"{self.plan.scheme}, D={self.plan.total}, DoF={self.plan.dof}"

    @property
    def _plan(self) -> RingPlan:
        assert isinstance(self.plan, RingPlan)
        return self.plan

    @property
    def _channels_last(self) -> bool:
        return not self._kernel.is_contiguous()

    def _prepare(self) -> int:
        """Make the table if there is none for this device, dtype and memory format; return its number."""
        native = supported(self.ring, self.slot_dtype(self.ring))
        choice = TableChoice(self.ring.device, native, self._channels_last)
        if self._table is None or choice != self._made_for:
            self._table = self._spare = None  # freed before the next one is made
            index, self._index = self._index, None
            self._table, self._made_for = make_table(self._plan, choice, index), choice
        return number_of(self._table)


# As torch.compiler.assume_constant_result does, which would import the compiler, in seconds: a table is
# made outside of what torch.compile traces, and the trace sees its number.
RingSharing._prepare._dynamo_marked_constant = True  # type: ignore[attr-defined]
