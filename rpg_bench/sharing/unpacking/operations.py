"""`unpack`: a ring into all slots, with its gradient. One operation, opaque to `torch.compile`."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rpg_bench.sharing.unpacking.tables import Table

# Operators take tensors and numbers; a table goes by a number that names it in this process.
_TABLES: weakref.WeakValueDictionary[int, Table] = weakref.WeakValueDictionary()
_NUMBERS: weakref.WeakKeyDictionary[Table, int] = weakref.WeakKeyDictionary()
_next_number = itertools.count()


def number_of(table: Table) -> int:
    """The number that names the table in this process, as long as it lives."""
    if table not in _NUMBERS:
        number = next(_next_number)
        _NUMBERS[table], _TABLES[number] = number, table
    return _NUMBERS[table]


def unpack(ring: Tensor, table: int, kind: torch.dtype) -> list[Tensor]:
    """Slots from the ring, by the table of that number.

    Args:
        ring: shape (N,).
        table: from `number_of`.
        kind: dtype of the slots.

    Returns:
        Tensors of which the table's `slots` makes the slots.
    """
    outputs: list[Tensor] = _unpack(ring, table, kind)
    return outputs


@torch.library.custom_op("rpg_bench::unpack", mutates_args=())
def _unpack(ring: Tensor, table: int, kind: torch.dtype) -> list[Tensor]:
    return _TABLES[table].unpack(ring, kind)


@torch.library.custom_op("rpg_bench::fold", mutates_args=())
def _fold(gradients: Sequence[Tensor | None], table: int, kind: torch.dtype, device: torch.device) -> Tensor:
    return _TABLES[table].fold(gradients, kind)


@_unpack.register_fake
def _(ring: Tensor, table: int, kind: torch.dtype) -> list[Tensor]:
    return [output.to(ring.device) for output in _TABLES[table].outputs(kind)]


@_fold.register_fake
def _(gradients: Sequence[Tensor | None], table: int, kind: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(_TABLES[table].dof, dtype=kind, device=device)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    # Nothing through save_for_backward: activation checkpointing compares what is saved when a block
    # runs first (slots read from the whole) and again (slot by slot).
    ring, ctx.number, _ = inputs
    ctx.kind, ctx.device = ring.dtype, ring.device
    ctx.table = _TABLES[ctx.number]  # lives until the backward pass


def _backward(ctx: Any, gradients: list[Tensor | None]) -> tuple[Tensor, None, None]:
    return _fold(gradients, ctx.number, ctx.kind, ctx.device), None, None


def _remember_fold(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    gradients, ctx.number, _, _ = inputs
    ctx.kinds = [None if gradient is None else gradient.dtype for gradient in gradients]
    ctx.table = _TABLES[ctx.number]


def _backward_of_fold(ctx: Any, gradient: Tensor) -> tuple[list[Tensor | None], None, None, None]:
    """Both operations are linear, and each other's transpose."""
    outputs = _unpack(gradient, ctx.number, gradient.dtype)
    cast = [None if kind is None else output.to(kind) for output, kind in zip(outputs, ctx.kinds, strict=True)]
    return cast, None, None, None


_unpack.register_autograd(_backward, setup_context=_remember)
_fold.register_autograd(_backward_of_fold, setup_context=_remember_fold)
