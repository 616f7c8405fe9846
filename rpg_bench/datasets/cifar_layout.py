"""What the layouts of CIFAR have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rpg_bench.errors import InvalidInput

SIDE = 32  # pixels


@dataclass(frozen=True)
class CifarSplit:
    """images: uint8 (n, 3, 32, 32); labels: int64 (n,)."""

    images: Tensor
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class CifarFiles:
    """Files that were found; each split is read when called for."""

    classes: tuple[str, ...]
    train: Callable[[], CifarSplit]
    test: Callable[[], CifarSplit]


def numbered_classes(number_of_classes: int) -> tuple[str, ...]:
    """Return names for classes whose names are not stored: "0", "1", ..."""
    return tuple(str(number) for number in range(number_of_classes))


def checked_labels(labels: ArrayLike, number_of_classes: int, file: Path) -> NDArray[np.int64]:
    """Return labels as int64 (n,); raises InvalidInput, naming `file`, for one that is no class number."""
    array = np.asarray(labels)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InvalidInput(f"dataset.root: the labels in '{file}' are not a list of integers")
    outside = np.flatnonzero((array < 0) | (array >= number_of_classes))
    if outside.size:
        row = int(outside[0])
        raise InvalidInput(
            f"dataset.root: label {array[row]} in row {row} of '{file}' is outside [0, {number_of_classes})"
        )
    return array.astype(np.int64)
