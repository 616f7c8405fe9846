"""Tables that say which ring entry, with which sign, each position of the slots takes.

Three kinds of them run the compiled kernels on a CPU, each for what it is fastest at; `FusedTable` (in `fused`)
those of a CUDA device. `TorchTable` works everywhere, and `SortedTable` sums in a fixed order on every accelerator.
All give the same values; gradients agree up to the order of summation, which depends neither on threads nor on chance.
"""

from __future__ import annotations

import collections
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rpg_bench.sharing.unpacking import native
from rpg_bench.sharing.unpacking.layout import LARGEST_CHUNK, Chunks, Layout

BLOCK = 16  # entries that move together with `sharing.block=16`: a cache line of float32
LARGEST_LOOK_UP = 1 << 18  # entries of a ring that stays in a core's cache
MOST_CHUNKS = 4096  # the buckets that are filled at a time must stay in cache; USE_BITS could name four times more
USE_BITS = 14  # of a use in the kernels: its chunk
BUCKET_GAP = 144  # values, 9 half cache lines of bfloat16, between the buckets of two passes
PARTS = 16  # of a backward pass, each summed by itself: fixed, so that threads do not change the sum
LARGE_PARTS = 64  # of the unpacking of a large ring's blocks, at most so many threads
RANGE_BITS = 5  # a ring is cut into at most 2^5 ranges, each of which a thread can begin at

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
KINDS = tuple(_NAMES)  # of the slots that the compiled kernels make


def signed_words(index: NDArray[np.int32], dof: int) -> NDArray[np.uint32]:
    """Positions in (w, -w) as entries with the sign in the highest bit, in the same memory."""
    words: NDArray[np.uint32] = index.view(np.uint32)
    for start in range(0, len(words), 1 << 20):  # the intermediate results stay small
        piece = words[start : start + (1 << 20)]
        negative = piece >= dof
        piece -= negative * np.uint32(dof)
        piece |= negative * np.uint32(1 << 31)
    return words


def sorted_uses(index: Tensor, dof: int) -> tuple[Tensor, Tensor]:
    """Sort positions by the entry that they use.

    Args:
        index: where each position reads in (w, -w), int32, shape (D,).
        dof: N, the entries of the ring.

    Returns:
        The position of each use, or -1 - position where its sign is negative, int32, shape (D,); and where each
        entry's uses end, int32, shape (N,). Within an entry positions ascend.
    """
    entries = index % dof
    order = torch.argsort(entries, stable=True)
    ends = torch.bincount(entries, minlength=dof).cumsum(0).to(torch.int32)
    return torch.where(index[order] < dof, order, -1 - order).to(torch.int32), ends


class Table(ABC):
    """Unpacks a ring into slots of a layout, and folds the slots' gradients into the ring's."""

    def __init__(self, layout: Layout, scales: Sequence[float], dof: int) -> None:
        self.layout, self.scales, self.dof = layout, tuple(scales), dof

    def __deepcopy__(self, _: dict[int, Any]) -> Table:
        """Tables never change: copies of a model share them."""
        return self

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Resident memory of the tables."""

    def outputs(self, kind: torch.dtype) -> list[Tensor]:
        """Uninitialised tensors, on the CPU, like those that `unpack` returns: one for each slot by default."""
        return [self.layout.empty(slot, kind) for slot in range(len(self.layout.shapes))]

    def slots(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """What `unpack` returned as slots, in the layout's shapes and memory order."""
        return outputs

    @abstractmethod
    def unpack(self, ring: Tensor, kind: torch.dtype) -> list[Tensor]:
        """All slots, of dtype `kind`, in tensors like `outputs`."""

    @abstractmethod
    def fold(self, gradients: Sequence[Tensor | None], kind: torch.dtype) -> Tensor:
        """The ring's gradient, of dtype `kind`, from those of the outputs (None: zero); summed in float32 at least."""

    def of_slot(self, number: int) -> Table | None:
        """The part of the table for one slot, if it can be told apart."""
        return None


class TorchTable(Table):
    """One int32 for each position: where it reads in (w, -w). Any device and dtype. 4 bytes per weight.

    Sums in a fixed order everywhere, but on an accelerator slowly; `SortedTable` is faster there.
    """

    def __init__(self, index: Tensor, layout: Layout, scales: Sequence[float], dof: int) -> None:
        """index: shape (D,), in the slots' memory order, on the ring's device."""
        super().__init__(layout, scales, dof)
        self.index = index

    @property
    def bytes(self) -> int:
        return self.index.nbytes

    def of_slot(self, number: int) -> Table | None:
        start = sum(self.layout.sizes[:number])
        part = self.index[start : start + self.layout.sizes[number]]
        return type(self)(part, self.layout.of_slot(number), self.scales[number : number + 1], self.dof)

    def unpack(self, ring: Tensor, kind: torch.dtype) -> list[Tensor]:
        positions = torch.cat([ring, -ring]).index_select(0, self.index)
        return self._slots(positions, kind)

    def fold(self, gradients: Sequence[Tensor | None], kind: torch.dtype) -> Tensor:
        flat = self._flat(gradients, kind, self.index.device)
        table = flat.new_zeros(2 * self.dof)
        if flat.is_cpu:
            table.index_add_(0, self.index, flat)
        else:  # where index_add_ takes the order of chance, and this sorts first
            table.index_put_((self.index.long(),), flat, accumulate=True)
        return (table[: self.dof] - table[self.dof :]).to(kind)

    def _slots(self, positions: Tensor, kind: torch.dtype) -> list[Tensor]:
        pieces = torch.split(positions, self.layout.sizes)
        scaled = ((piece * scale).to(kind) for piece, scale in zip(pieces, self.scales, strict=True))
        return [self.layout.shaped(slot, piece) for slot, piece in enumerate(scaled)]

    def _flat(self, gradients: Sequence[Tensor | None], kind: torch.dtype, device: torch.device) -> Tensor:
        """Scaled gradients of all positions, in memory order; float32 at least."""
        wide = torch.promote_types(kind, torch.float32)
        flat = torch.empty(self.layout.total, dtype=wide, device=device)
        for slot, piece in enumerate(torch.split(flat, self.layout.sizes)):
            gradient = gradients[slot]
            if gradient is None:
                piece.zero_()
            else:
                piece.copy_(self.layout.flat(slot, gradient)).mul_(self.scales[slot])
        return flat


class SortedTable(TorchTable):
    """Positions sorted by entry, so that sums have one order on every device. 4 bytes per weight."""

    def __init__(self, index: Tensor, layout: Layout, scales: Sequence[float], dof: int) -> None:
        super().__init__(index, layout, scales, dof)
        self.order, self.ends = sorted_uses(index, dof)
        del self.index

    @property
    def bytes(self) -> int:
        return self.order.nbytes + self.ends.nbytes

    def of_slot(self, number: int) -> None:
        return None  # its order is over all slots

    def unpack(self, ring: Tensor, kind: torch.dtype) -> list[Tensor]:
        uses = ring.repeat_interleave(self._counts(), output_size=len(self.order))
        uses = torch.where(self.order < 0, -uses, uses)
        return self._slots(uses.new_empty(len(uses)).index_copy_(0, self._positions(), uses), kind)

    def fold(self, gradients: Sequence[Tensor | None], kind: torch.dtype) -> Tensor:
        uses = self._flat(gradients, kind, self.order.device).index_select(0, self._positions())
        uses = torch.where(self.order < 0, -uses, uses)
        sums = torch.segment_reduce(uses, "sum", lengths=self._counts(), initial=0.0, unsafe=True)
        return sums.to(kind)

    def _positions(self) -> Tensor:
        return torch.where(self.order < 0, -1 - self.order, self.order).long()

    def _counts(self) -> Tensor:
        return torch.diff(self.ends, prepend=self.ends.new_zeros(1)).long()


class NativeTable(Table):
    """What runs the compiled kernels: float32 rings, float32 and bfloat16 slots, on the CPU."""

    def unpack(self, ring: Tensor, kind: torch.dtype) -> list[Tensor]:
        slots = self.outputs(kind)
        self._unpack(ring.detach().contiguous(), slots, _NAMES[kind])
        return slots

    def fold(self, gradients: Sequence[Tensor | None], kind: torch.dtype) -> Tensor:
        given = [None if g is None else self.layout.dense(slot, g) for slot, g in enumerate(gradients)]
        kinds = {gradient.dtype for gradient in given if gradient is not None}
        if not kinds:
            return torch.zeros(self.dof, dtype=kind)
        if len(kinds) > 1 or kinds.isdisjoint(_NAMES):
            given = [None if gradient is None else gradient.float() for gradient in given]
            kinds = {torch.float32}
        return self._fold(given, _NAMES[kinds.pop()]).to(kind)

    @abstractmethod
    def _unpack(self, ring: Tensor, slots: list[Tensor], kind: str) -> None: ...

    @abstractmethod
    def _fold(self, gradients: list[Tensor | None], kind: str) -> Tensor: ...


class LookUpTable(NativeTable):
    """One word for each position; for rings that fit a core's cache. 4 bytes per weight."""

    def __init__(self, words: NDArray[np.uint32], layout: Layout, scales: Sequence[float], dof: int) -> None:
        super().__init__(layout, scales, dof)
        self.words = words
        self.chunks = Chunks.of(layout.sizes)
        self.chunk_scales = np.array(scales, np.float32)[self.chunks.slot]
        parts = min(PARTS, self.chunks.count)
        # Where the parts begin: about equally many positions each.
        wanted = np.arange(parts + 1) * (self.chunks.starts[-1] / parts)
        self.parts = np.searchsorted(self.chunks.starts, wanted).astype(np.int64)

    @property
    def bytes(self) -> int:
        return self.words.nbytes

    def of_slot(self, number: int) -> Table:
        start = sum(self.layout.sizes[:number])
        part = self.words[start : start + self.layout.sizes[number]]
        return LookUpTable(part, self.layout.of_slot(number), self.scales[number : number + 1], self.dof)

    def _unpack(self, ring: Tensor, slots: list[Tensor], kind: str) -> None:
        chunks, data = self.chunks, self.chunks.addresses(slots)
        native.divide(chunks.count, f"gather_{kind}", self.words, chunks.starts, data, self.chunk_scales, ring)

    def _fold(self, gradients: list[Tensor | None], kind: str) -> Tensor:
        chunks, data, parts = self.chunks, self.chunks.addresses(gradients), len(self.parts) - 1
        sums = torch.empty(parts, self.dof)
        fixed = (self.words, chunks.starts, data, self.chunk_scales, sums, self.dof, self.parts)
        native.divide(parts, f"scatter_{kind}", *fixed)
        native.divide(self.dof, "merge", sums, self.dof, parts)
        return sums[0].clone()


class TwoPassTable(NativeTable):
    """Ring order first, memory order second; for rings larger than a cache. 4 bytes per weight."""

    @staticmethod
    def is_better(layout: Layout, dof: int) -> bool:
        """Whether the ring is too large for a core's cache, and the slots not too large for the tables."""
        return dof > LARGEST_LOOK_UP and TwoPassTable._chunks(layout).count <= MOST_CHUNKS

    @staticmethod
    def _chunks(layout: Layout) -> Chunks:
        """Chunks that a core's cache holds twice, unless that makes too many of them."""
        chunks = Chunks.of(layout.sizes, LARGEST_CHUNK // 2)
        return chunks if chunks.count <= MOST_CHUNKS else Chunks.of(layout.sizes)

    def __init__(self, words: NDArray[np.uint32], layout: Layout, scales: Sequence[float], dof: int) -> None:
        super().__init__(layout, scales, dof)
        self.chunks = chunks = self._chunks(layout)
        self.chunk_scales = np.array(scales, np.float32)[chunks.slot]
        self._spare_buckets: collections.deque[NDArray[np.uint8]] = collections.deque(maxlen=1)
        self.bucket_starts = chunks.starts + BUCKET_GAP * np.arange(chunks.count + 1)
        shift = max(0, (dof - 1).bit_length() - RANGE_BITS)
        self.ranges = (dof - 1 >> shift) + 1
        self.range_entries = np.minimum(np.arange(self.ranges + 1, dtype=np.int64) << shift, dof)
        fixed = (words, chunks.starts, shift, self.ranges)
        counts = np.zeros((chunks.count, self.ranges), np.int64)
        native.divide(chunks.count, "count_uses", *fixed, counts)
        before = np.zeros((self.ranges + 1, chunks.count), np.int64)
        np.cumsum(counts.T, axis=0, out=before[1:])
        self.range_fill = before[:-1].astype(np.uint16)
        bounds = before.sum(1)
        # Range after range, and chunk after chunk in each.
        following = np.ascontiguousarray((bounds[:-1, None] + np.cumsum(counts.T, axis=1) - counts.T).T)
        where, entry = np.empty(len(words), np.uint32), np.empty(len(words), np.uint32)
        native.divide(chunks.count, "collect_uses", *fixed, following, where, entry)
        unused = np.empty(self.ranges, np.int64)
        native.divide(self.ranges, "count_unused", entry, bounds, self.range_entries, unused)
        if unused.any():  # such an entry names the last chunk that there is room for
            self.chunk_scales = np.pad(self.chunk_scales, (0, (1 << USE_BITS) - chunks.count))
        self.range_uses = bounds + np.cumsum([0, *unused])
        self.uses, self.places = np.empty(self.range_uses[-1], np.uint16), np.empty(len(words), np.uint16)
        ranges = (bounds, self.range_entries, self.range_uses, self.range_fill)
        buckets = (chunks.starts, self.bucket_starts, chunks.count)
        native.divide(self.ranges, "make_passes", where, entry, *ranges, *buckets, self.uses, self.places)

    @property
    def bytes(self) -> int:
        return self.uses.nbytes + self.places.nbytes + self.range_fill.nbytes

    def _unpack(self, ring: Tensor, slots: list[Tensor], kind: str) -> None:
        buckets = self._buckets(slots[0])
        native.divide(self.ranges, f"deal_{kind}", *self._first_pass(), ring, buckets)
        native.divide(self.chunks.count, f"place_{kind}", *self._second_pass(slots), buckets)
        self._spare_buckets.append(buckets)

    def _fold(self, gradients: list[Tensor | None], kind: str) -> Tensor:
        buckets = self._buckets(next(gradient for gradient in gradients if gradient is not None))
        sums = torch.empty(self.dof)
        native.divide(self.chunks.count, f"collect_{kind}", *self._second_pass(gradients), buckets)
        native.divide(self.ranges, f"fold_{kind}", *self._first_pass(), sums, buckets)
        self._spare_buckets.append(buckets)
        return sums

    def _buckets(self, like: Tensor) -> NDArray[np.uint8]:
        """Room for every position's value, from the last pass: fresh memory would cost as much as the pass."""
        size = int(self.bucket_starts[-1]) * like.element_size()
        with contextlib.suppress(IndexError):
            buckets = self._spare_buckets.pop()
            if buckets.nbytes == size:
                return buckets
        return native.pages(size)

    def _first_pass(self) -> tuple[NDArray[Any] | int, ...]:
        ranges = (self.range_uses, self.range_entries, self.range_fill)
        return (self.uses, *ranges, self.bucket_starts, self.chunks.count, self.chunk_scales)

    def _second_pass(self, slots: Sequence[Tensor | None]) -> tuple[NDArray[Any], ...]:
        return self.places, self.chunks.starts, self.chunks.addresses(slots), self.bucket_starts


class BlockTable(NativeTable):
    """One word for 16 positions, which take 16 consecutive entries. At most 0.9 bytes per weight."""

    def __init__(
        self,
        blocks: NDArray[np.uint32],
        signs: NDArray[np.uint16],
        layout: Layout,
        scales: Sequence[float],
        dof: int,
    ) -> None:
        """Ring block and sign bits of each block of positions, in memory order, each slot beginning a new one."""
        super().__init__(layout, scales, dof)
        self.blocks, self.signs = blocks, signs
        self.slot_scales = np.array(scales, np.float32)
        self.slot_size = np.array(layout.sizes, np.int64)
        self.slot_blocks = np.cumsum([0, *(-(-size // BLOCK) for size in layout.sizes)]).astype(np.int64)
        self.small = dof <= LARGEST_LOOK_UP
        parts = PARTS if self.small else LARGE_PARTS
        self.parts = np.linspace(0, len(blocks), parts + 1).astype(np.int64)
        if not self.small:
            ends, self.order = np.zeros(dof // BLOCK + 1, np.uint32), np.empty(len(blocks), np.uint32)
            native.divide(1, "sort_by_entry", blocks, len(blocks), dof // BLOCK, ends, self.order)
            self.slot_of = (np.searchsorted(self.slot_blocks, self.order, side="right") - 1).astype(np.uint16)
            self.ends = ends[:-1]

    @property
    def bytes(self) -> int:
        backwards = 0 if self.small else self.order.nbytes + self.slot_of.nbytes + self.ends.nbytes
        return self.blocks.nbytes + self.signs.nbytes + backwards

    def _unpack(self, ring: Tensor, slots: list[Tensor], kind: str) -> None:
        fixed = (self.blocks, self.signs, self.slot_blocks, self.slot_size, self._addresses(slots))
        native.divide(len(self.parts) - 1, f"gather_blocks_{kind}", *fixed, self.slot_scales, ring, self.parts)

    def _fold(self, gradients: list[Tensor | None], kind: str) -> Tensor:
        given = (self._addresses(gradients), self.slot_scales)
        if self.small:
            parts = len(self.parts) - 1
            sums = torch.empty(parts, self.dof)
            fixed = (self.blocks, self.signs, self.slot_blocks, self.slot_size)
            native.divide(parts, f"scatter_blocks_{kind}", *fixed, *given, sums, self.dof, self.parts)
            native.divide(self.dof, "merge", sums, self.dof, parts)
            return sums[0].clone()
        sums = torch.empty(self.dof)
        backwards = (self.order, self.slot_of, self.ends, self.signs, self.slot_blocks, self.slot_size)
        native.divide(self.dof // BLOCK, f"fold_blocks_{kind}", *backwards, *given, sums)
        return sums

    @staticmethod
    def _addresses(tensors: Sequence[Tensor | None]) -> NDArray[np.int64]:
        return np.array([0 if tensor is None else tensor.data_ptr() for tensor in tensors], np.int64)
