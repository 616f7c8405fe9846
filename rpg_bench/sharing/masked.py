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
        self.survivors = nn.Parameter(flat[positions].clone())
        self.add_table("positions", positions.to(torch.int32))
        self.register_buffer("mask", self._packed(), persistent=True)
        self._shapes = [slot.shape for slot in plan.slots]
        self._bounds = np.cumsum([0, *(slot.size for slot in plan.slots)]).tolist()

    def produce(self) -> Sequence[Tensor]:
        slots: Sequence[Tensor] = _Scatter.apply(self.survivors, self.positions, self.plan.total, self._shapes)
        return slots

    def produce_slot(self, number: int) -> Tensor:
        start, stop = self._bounds[number], self._bounds[number + 1]
        # Positions ascend: a slot's survivors are a slice.
        bounds = torch.tensor([start, stop], dtype=torch.int32, device=self.positions.device)
        first, last = torch.searchsorted(self.positions, bounds).tolist()
        local = self.positions[first:last] - start
        slots: Sequence[Tensor] = _Scatter.apply(
            self.survivors[first:last], local, stop - start, [self._shapes[number]]
        )
        return slots[0]

    def _packed(self) -> Tensor:
        bits = np.zeros(self.plan.total, np.bool_)
        bits[self.positions.cpu().numpy()] = True
        return torch.from_numpy(np.packbits(bits, bitorder="little")).to(self.positions.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)  # type: ignore[no-untyped-call]  # torch has no hint
        bits = np.unpackbits(self.mask.cpu().numpy(), count=self.plan.total, bitorder="little")
        positions = torch.from_numpy(np.flatnonzero(bits).astype(np.int32))
        if len(positions) == self.plan.dof:  # else the errors that were collected say what is wrong
            self.positions = positions.to(self.positions.device)


class _Scatter(torch.autograd.Function):
    """Slots that are zero but for the survivors."""

    @staticmethod
    def forward(
        ctx: Any, survivors: Tensor, positions: Tensor, total: int, shapes: Sequence[tuple[int, ...]]
    ) -> tuple[Tensor, ...]:
        ctx.positions = positions
        flat = survivors.new_zeros(total).index_copy_(0, positions.long(), survivors)
        pieces = torch.split(flat, [math.prod(shape) for shape in shapes])
        return tuple(piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        return flat.index_select(0, ctx.positions), None, None, None
