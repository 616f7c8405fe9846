"""Slots that are mostly zero: the base of every pruning scheme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rpg_bench.sharing.scheme import Plan, Sharing


class MaskedSharing(Sharing):
    """The surviving weights as one parameter `survivors`, shape (N,), in the order of their positions.

    `mask` holds one bit per slot scalar, shape (ceil(D / 8),), uint8, lowest bit first. It depends on the
    initial weights and on data, so that, unlike a ring's allocation, it is part of the checkpoint.
    """

    start_differs = "a mask takes weights away, and the papers do not scale up what survives"

    mask: Tensor
    positions: Tensor

    def __init__(self, plan: Plan, flat: Tensor, positions: Tensor) -> None:
        """Keep the entries of `flat`, shape (D,), at `positions`, ascending, shape (N,)."""
        super().__init__(plan)
        self._shapes = [slot.shape for slot in plan.slots]
        self._bounds = np.cumsum([0, *(slot.size for slot in plan.slots)]).tolist()
        self.survivors = nn.Parameter(flat[positions].clone())
        self.add_table("positions", positions.to(torch.int32))
        self._place(self.positions)
        self.register_buffer("mask", self._packed(), persistent=True)

    def produce(self) -> Sequence[Tensor]:
        return self._scatter(range(len(self._shapes)))

    def produce_slot(self, number: int) -> Tensor:
        return self._scatter([number])[0]

    def _scatter(self, numbers: Sequence[int]) -> Sequence[Tensor]:
        pieces = [(self._bounds[n], self._shapes[n], self._firsts[n], self._firsts[n + 1]) for n in numbers]
        kind = self.slot_dtype(self.survivors)
        slots: Sequence[Tensor] = _Scatter.apply(self.survivors, self.positions, pieces, kind)
        return slots

    def _place(self, positions: Tensor) -> None:
        """Let the survivors be at these positions, ascending: each slot's are a slice of them."""
        self.positions = positions
        bounds = torch.tensor(self._bounds, dtype=positions.dtype, device=positions.device)
        self._firsts: list[int] = torch.searchsorted(positions, bounds).tolist()

    def move_to(self, positions: Tensor) -> None:
        """Let the survivors be at other positions, ascending, shape (N,)."""
        self._place(positions.to(self.positions))
        self.mask.copy_(self._packed())

    def _packed(self) -> Tensor:
        bits = np.zeros(self.plan.total, np.bool_)
        bits[self.positions.cpu().numpy()] = True
        return torch.from_numpy(np.packbits(bits, bitorder="little")).to(self.positions.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)  # type: ignore[no-untyped-call]  # torch has no hint
        bits = np.unpackbits(self.mask.cpu().numpy(), count=self.plan.total, bitorder="little")
        positions = torch.from_numpy(np.flatnonzero(bits).astype(np.int32))
        if len(positions) == self.plan.dof:  # else the errors that were collected say what is wrong
            self._place(positions.to(self.positions.device))


class _Scatter(torch.autograd.Function):
    """Slots that are zero but for their survivors; each piece: start and shape of the slot, and its slice."""

    @staticmethod
    def forward(
        ctx: Any,
        survivors: Tensor,
        positions: Tensor,
        pieces: Sequence[tuple[int, tuple[int, ...], int, int]],
        kind: torch.dtype,
    ) -> tuple[Tensor, ...]:
        ctx.positions, ctx.pieces = positions, pieces
        ctx.like = (survivors.shape, survivors.dtype)
        slots = []
        for start, shape, first, last in pieces:
            slot = survivors.new_zeros(math.prod(shape), dtype=kind)
            slot.index_copy_(0, (positions[first:last] - start).long(), survivors[first:last].to(kind))
            slots.append(slot.view(shape))
        return tuple(slots)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        shape, dtype = ctx.like
        folded = torch.zeros(shape, dtype=dtype, device=ctx.positions.device)
        for gradient, (start, _, first, last) in zip(gradients, ctx.pieces, strict=True):
            folded[first:last] = gradient.reshape(-1).index_select(0, ctx.positions[first:last] - start)
        return folded, None, None, None
