"""A network and its recipe into the bytes of a compact file."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import rpg_bench
from rpg_bench.compact import container, index
from rpg_bench.compact.encoding import Encoding, Size, encoded
from rpg_bench.compact.parts import BUFFERS, FREE, PARTS, PRIVATE, fold_statistics, parts_of, silence_constant_channels
from rpg_bench.compact.recipe import Recipe
from rpg_bench.errors import InvalidInput
from rpg_bench.sharing import sharing_of


@dataclass(frozen=True)
class Storage:
    """How each part is stored. Buffers, of which few networks have any once statistics are folded, stay float32."""

    free: Encoding = field(default_factory=Encoding)
    private: Encoding = field(default_factory=Encoding)
    fold: bool = True  # the statistics of batch norms into their weights


@dataclass(frozen=True)
class Compact:
    """The bytes of a file, and where they go."""

    content: bytes
    sizes: dict[str, Size]  # bits of each part
    total: int  # DoF + private

    @property
    def index_bytes(self) -> int:
        """Of survivors' positions."""
        return sum(size.masks for size in self.sizes.values()) // 8

    @property
    def bound(self) -> int:
        """Bytes that the file may have: 4 for each trained number, 16 KiB, and an index where a mask was learned."""
        return 4 * self.total + (16 << 10) + self.index_bytes


def compact(model: nn.Module, recipe: Recipe, storage: Storage | None = None) -> Compact:
    """The file of a shared network, which stays as it is.

    Raises:
        InvalidInput: its parameters are not float32.
    """
    storage = storage or Storage()
    model = copy.deepcopy(model).cpu().eval()
    if storage.fold:
        if storage.private.bits < 32:
            silence_constant_channels(model)
        fold_statistics(model)
    parts = parts_of(model, storage.fold)
    tensors: dict[str, NDArray[Any]] = {}
    described: dict[str, Any] = {}
    sizes: dict[str, Size] = {}
    for part, encoding in ((FREE, storage.free), (PRIVATE, storage.private), (BUFFERS, Encoding())):
        for name, tensor in parts.floats[part].items():
            if tensor.dtype != torch.float32:
                raise InvalidInput(f"model: {name} has dtype {tensor.dtype}; compact files hold networks in float32")
        values = [tensor.detach().contiguous().reshape(-1).numpy() for tensor in parts.floats[part].values()]
        found, described[part], sizes[part] = encoded(
            part, values, parts.shapes(part), encoding, vectors=part == PRIVATE
        )
        tensors |= found
    if parts.integers:
        joined = np.concatenate([tensor.numpy().astype(np.int64).reshape(-1) for tensor in parts.integers.values()])
        tensors["integers"] = joined
        sizes["integers"] = Size(len(joined), 64 * len(joined), 0, 0)
    if parts.masked is not None:
        positions = np.sort(parts.masked.positions.numpy().astype(np.int64))
        tensors["survivors"] = index.encoded(positions, parts.masked.plan.total)
        sizes["survivors"] = Size(0, 0, 0, 8 * len(tensors["survivors"]))
    sharing = sharing_of(model)
    description = {
        "written_by": f"rpg_bench {rpg_bench.__version__}",
        "recipe": recipe.to_dict(),
        "fingerprint": sharing.fingerprint(),
        "weights": sharing.plan.total,
        "counts": {part: parts.count(part) for part in PARTS},
        "layout": parts.layout(),
        "folded": storage.fold,
        "parts": described,
    }
    total = parts.count(FREE) + parts.count(PRIVATE)
    return Compact(container.packed(description, tensors), sizes, total)
