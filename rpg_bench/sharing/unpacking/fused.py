"""The table of CUDA devices: all slots of a ring in one launch of a kernel, and its gradient in another."""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from rpg_bench.sharing.unpacking import native
from rpg_bench.sharing.unpacking.layout import Layout
from rpg_bench.sharing.unpacking.tables import Table, TorchTable, sorted_uses

CHUNK = 1024  # positions with one scale; each slot begins at a multiple of it
TILE = 1024  # uses that a program takes at a time
KINDS = (torch.float32, torch.bfloat16, torch.float16)  # of slots; the ring is float32


@functools.cache
def kernels() -> ModuleType | None:
    """Return the kernels, or None where Triton is not installed or they are switched off."""
    if os.environ.get(native.SWITCH) == "0":
        return None
    try:
        from rpg_bench.sharing.unpacking import triton_kernels
    except ImportError:
        return None
    return triton_kernels


@functools.cache
def works(device: torch.device) -> bool:
    """Whether the kernels can be built for this device and give there what `TorchTable` gives."""
    if device.type != "cuda" or kernels() is None:
        return False
    try:
        good = _agrees(device)
        reason = "they give other values than torch"
    except Exception as problem:  # a driver, a compiler or a Triton that is missing or too old
        good, reason = False, (str(problem).strip().splitlines() or [type(problem).__name__])[0]
    if not good:
        warnings.warn(f"rings are unpacked without Triton kernels on {device}: {reason}", stacklevel=2)
    return good


class FusedTable(Table):
    """Uses sorted by ring entry, in a numbering in which each slot begins at a multiple of CHUNK.

    The index is 4 bytes per weight; beside it are 4 bytes per entry of the ring. Needs `kernels()`.
    """

    def __init__(self, index: Tensor, layout: Layout, scales: Sequence[float], dof: int) -> None:
        """index: as for `TorchTable`."""
        super().__init__(layout, scales, dof)
        self.order, self.ends = sorted_uses(index, dof)
        chunks = [-(-size // CHUNK) for size in layout.sizes]
        # How the tensor of all slots is cut: slot, padding, slot, padding, ...
        self.cuts = [part for size, count in zip(layout.sizes, chunks) for part in (size, count * CHUNK - size)]
        self.length = sum(self.cuts)
        counts = torch.tensor(chunks, device=index.device)
        self.chunk_scales = torch.tensor(scales, dtype=torch.float32, device=index.device).repeat_interleave(counts)
        self._widen(chunks)
        mean = max(1, len(self.order) // dof)
        self.uses = min(TILE, 1 << (mean - 1).bit_length())
        self.grid = (-(-dof // (TILE // self.uses)),)

    @property
    def bytes(self) -> int:
        return self.order.nbytes + self.ends.nbytes + self.chunk_scales.nbytes

    def outputs(self, kind: torch.dtype) -> list[Tensor]:
        return [torch.empty(self.length, dtype=kind)]

    def slots(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        return [self.layout.shaped(slot, part) for slot, part in enumerate(torch.split(outputs[0], self.cuts)[::2])]

    def unpack(self, ring: Tensor, kind: torch.dtype) -> list[Tensor]:
        whole = torch.empty(self.length, dtype=kind, device=ring.device)
        self._launch("unpack", ring.detach().contiguous(), whole)
        return [whole]

    def fold(self, gradients: Sequence[Tensor | None], kind: torch.dtype) -> Tensor:
        (whole,) = gradients
        if whole is None:
            return torch.zeros(self.dof, dtype=kind, device=self.order.device)
        sums = torch.empty(self.dof, dtype=torch.float32, device=self.order.device)
        self._launch("fold", whole.contiguous(), sums)
        return sums.to(kind)

    def _launch(self, name: str, source: Tensor, destination: Tensor) -> None:
        fixed = (self.order, self.ends, self.chunk_scales)
        sizes = {"CHUNK": CHUNK, "ENTRIES": TILE // self.uses, "USES": self.uses}
        here = torch.cuda.device(source.device) if source.is_cuda else contextlib.nullcontext()
        with here:
            getattr(kernels(), name)[self.grid](source, *fixed, destination, self.dof, **sizes)

    def _widen(self, chunks: Sequence[int]) -> None:
        """Turn `order` from the slots' own numbering, without gaps, into that of the chunks."""
        sizes = torch.tensor(self.layout.sizes, device=self.order.device)
        gaps = CHUNK * torch.tensor(chunks, device=self.order.device) - sizes
        before = gaps.cumsum(0) - gaps  # scalars of padding before each slot
        ends = sizes.cumsum(0).to(torch.int32)
        for piece in torch.split(self.order, 1 << 24):  # what is made on the way stays small
            position = torch.where(piece < 0, -1 - piece, piece)
            position += before[torch.bucketize(position, ends, right=True)].to(torch.int32)
            piece.copy_(torch.where(piece < 0, -1 - position, position))


def _agrees(device: torch.device) -> bool:
    """Whether a small table on the device unpacks and folds as torch does on the CPU."""
    layout, dof = Layout(((3, 4, 3, 3), (1500,)), channels_last=True), 37
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(2 * dof, (layout.total,), generator=generator, dtype=torch.int32)
    ring = torch.randn(dof, generator=generator)
    plain = TorchTable(index, layout, (0.5, 2.0), dof)
    fused = FusedTable(index.to(device), layout, (0.5, 2.0), dof)
    for kind in KINDS:
        expected, (whole,) = plain.unpack(ring, kind), fused.unpack(ring.to(device), kind)
        if not all(map(torch.equal, expected, [slot.cpu() for slot in fused.slots([whole])])):
            return False
        sums = fused.fold([whole], torch.float32).cpu()
        if not torch.allclose(sums, plain.fold(expected, torch.float32), rtol=1e-4, atol=1e-4):
            return False
    return True
