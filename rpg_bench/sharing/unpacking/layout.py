"""Where the scalars of a plan's slots lie in memory, and how they are cut into chunks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LARGEST_CHUNK = 1 << 16  # scalars: a place within it is 16 bits


@dataclass(frozen=True)
class Layout:
    """Slots one after the other, each in C order or, its kernels' channels last, in that order."""

    shapes: tuple[tuple[int, ...], ...]
    channels_last: bool

    @property
    def sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.shapes]

    @property
    def total(self) -> int:
        return sum(self.sizes)

    def is_channels_last(self, slot: int) -> bool:
        return self.channels_last and len(self.shapes[slot]) == 4

    def memory_order(self, slot: int, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """`values` of a slot in C order, shape (size,), in the order of memory."""
        if not self.is_channels_last(slot):
            return values
        out, channels, *kernel = self.shapes[slot]
        ordered: NDArray[np.generic] = values.reshape(out, channels, math.prod(kernel)).transpose(0, 2, 1)
        return ordered.reshape(-1)

    def index_order(self, slot: int, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """The inverse of `memory_order`."""
        if not self.is_channels_last(slot):
            return values
        out, channels, *kernel = self.shapes[slot]
        ordered: NDArray[np.generic] = values.reshape(out, math.prod(kernel), channels).transpose(0, 2, 1)
        return ordered.reshape(-1)

    def of_slot(self, slot: int) -> Layout:
        """The layout of one slot alone."""
        return Layout((self.shapes[slot],), self.channels_last)

    def shaped(self, slot: int, values: Tensor) -> Tensor:
        """A view of `values`, shape (size,) in the order of memory, in the slot's shape."""
        if not self.is_channels_last(slot):
            return values.view(self.shapes[slot])
        out, channels, height, width = self.shapes[slot]
        return values.view(out, height, width, channels).permute(0, 3, 1, 2)

    def flat(self, slot: int, values: Tensor) -> Tensor:
        """The inverse of `shaped`; copies only if the memory is in another order."""
        return (values.permute(0, 2, 3, 1) if self.is_channels_last(slot) else values).reshape(-1)

    def empty(self, slot: int, kind: torch.dtype) -> Tensor:
        """An uninitialised tensor for the slot, on the CPU."""
        form = torch.channels_last if self.is_channels_last(slot) else torch.contiguous_format
        return torch.empty(self.shapes[slot], dtype=kind, memory_format=form)

    def dense(self, slot: int, values: Tensor) -> Tensor:
        """`values` of the slot's shape, copied if its memory is in another order."""
        form = torch.channels_last if self.is_channels_last(slot) else torch.contiguous_format
        return values.contiguous(memory_format=form)


@dataclass(frozen=True)
class Chunks:
    """Runs of scalars within one slot: their slots, where they begin there, and overall."""

    slot: NDArray[np.int64]
    offset: NDArray[np.int64]
    starts: NDArray[np.int64]  # one more than chunks

    @staticmethod
    def of(sizes: Sequence[int], largest: int = LARGEST_CHUNK) -> Chunks:
        """Cut slots of these sizes into chunks of at most `largest` scalars."""
        slots = [np.full(-(-size // largest), number, np.int64) for number, size in enumerate(sizes)]
        offsets = [np.arange(0, size, largest, dtype=np.int64) for size in sizes]
        bounds = np.cumsum([0, *sizes])
        starts = [bounds[number] + offset for number, offset in enumerate(offsets)]
        return Chunks(
            np.concatenate(slots), np.concatenate(offsets), np.concatenate([*starts, bounds[-1:]]).astype(np.int64)
        )

    @property
    def count(self) -> int:
        return len(self.slot)

    def addresses(self, tensors: Sequence[Tensor | None]) -> NDArray[np.int64]:
        """Where each chunk's scalars begin in the slots' tensors; 0 for a slot that has none."""
        base = np.array([0 if tensor is None else tensor.data_ptr() for tensor in tensors], np.int64)[self.slot]
        width = next(tensor.element_size() for tensor in tensors if tensor is not None)
        return np.where(base == 0, 0, base + self.offset * width)
