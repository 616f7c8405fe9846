"""The order of the samples: which images make up batch b of an epoch on a rank."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from rpg_bench.augment import Normalise, TrainingAugmentation
from rpg_bench.datasets.interface import Samples
from rpg_bench.datasets.random_streams import random_stream
from rpg_bench.errors import InvalidInput


class TrainingBatches:
    """Shuffled, augmented batches; those of all ranks together are one run of the epoch's permutation.

    What the last full batch leaves over is dropped, so every rank takes the same number of steps.
    Raises InvalidInput where `batch_size`, images per rank, leaves no batch at all.
    """

    def __init__(
        self,
        samples: Samples,
        augmentation: TrainingAugmentation,
        *,
        random_resized_crop: bool,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.samples = len(samples.labels)
        if batch_size * world_size > self.samples:
            ranks = f" x {world_size} ranks" if world_size > 1 else ""
            raise InvalidInput(
                f"recipe.batch_size: {batch_size}{ranks} exceeds the {self.samples} training images; "
                f"largest allowed: {self.samples // world_size}"
            )
        self._images = samples
        self._augmentation = augmentation
        self._random_resized_crop = random_resized_crop
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._world_size = world_size

    def __len__(self) -> int:
        return self.samples // (self._batch_size * self._world_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Batches.epoch`."""
        _check_start(start, len(self))
        return self._epoch(epoch, start)

    def _epoch(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = random_stream("order", self._seed, epoch).permutation(self.samples).astype(np.int64)
        own = order[: len(self) * self._batch_size * self._world_size]
        own = own.reshape(len(self), self._world_size, self._batch_size)[start:, self._rank]
        random_crop = (self._seed, epoch) if self._random_resized_crop else None
        for batch, (images, labels) in enumerate(self._images.read(own, random_crop), start):
            yield self._augmentation(images, labels, random_stream("augment", self._seed, epoch, batch, self._rank))


class EvaluationBatches:
    """Every image once, over all ranks, in a fixed order and without augmentation.

    Ranks may differ by one image, and by one batch; nothing is padded, so sums over ranks are exact.
    """

    def __init__(self, samples: Samples, normalise: Normalise, *, batch_size: int, rank: int, world_size: int) -> None:
        self.samples = len(samples.labels)
        self._images = samples
        self._normalise = normalise
        self._batch_size = batch_size
        self._own = np.arange(rank, self.samples, world_size, dtype=np.int64)

    def __len__(self) -> int:
        return -(-len(self._own) // self._batch_size)

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Batches.epoch`; every epoch is the same."""
        _check_start(start, len(self))
        return self._epoch(start)

    def _epoch(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        firsts = range(start * self._batch_size, len(self._own), self._batch_size)
        batches = [self._own[first : first + self._batch_size] for first in firsts]
        for images, labels in self._images.read(batches, None):
            yield self._normalise(images), labels


def _check_start(start: int, batches: int) -> None:
    if not 0 <= start <= batches:
        raise ValueError(f"start: batch {start} is outside [0, {batches}]")
