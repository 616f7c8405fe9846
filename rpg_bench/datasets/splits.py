"""Stratified shares of the training data: the subset to train on and the held-out validation part.

Both are fixed for a data set: drawn with seed 0, whatever the seed of the run.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rpg_bench.datasets.random_streams import random_stream
from rpg_bench.errors import InvalidInput

Positions = NDArray[np.int64]


def hold_out(labels: Positions, share: float) -> tuple[Positions, Positions]:
    """Split positions into (training, validation), both ascending; `share` in [0, 1) of each class.

    Every class keeps at least one image for training and, from two images on, gives at least one to
    a validation part that is asked for. Raises InvalidInput where no class can give an image.
    """
    if share == 0:
        return np.arange(len(labels), dtype=np.int64), np.empty(0, dtype=np.int64)
    training, validation = [], []
    for positions in _shuffled_classes("validation", labels):
        held = min(max(_rounded(share * len(positions)), 1), len(positions) - 1)
        validation.append(positions[:held])
        training.append(positions[held:])
    held_out = np.sort(np.concatenate(validation))
    if not len(held_out):
        raise InvalidInput(f"dataset.validation: {share} holds out nothing: every class has a single training image")
    return np.sort(np.concatenate(training)), held_out


def take_subset(labels: Positions, share: float) -> Positions:
    """Return the ascending positions of `share`, in (0, 1], of each class, at least one of each.

    A smaller subset lies within a larger one.
    """
    if share == 1:
        return np.arange(len(labels), dtype=np.int64)
    kept = [positions[: max(_rounded(share * len(positions)), 1)] for positions in _shuffled_classes("subset", labels)]
    return np.sort(np.concatenate(kept))


def _shuffled_classes(purpose: str, labels: Positions) -> list[Positions]:
    by_class = np.argsort(labels, kind="stable").astype(np.int64)
    classes, first = np.unique(labels[by_class], return_index=True)
    return [
        random_stream(purpose, 0, int(label)).permutation(positions)
        for label, positions in zip(classes, np.split(by_class, first[1:]), strict=True)
    ]


def _rounded(number: float) -> int:
    return math.floor(number + 0.5)
