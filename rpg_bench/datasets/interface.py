"""What a data set offers to training (`Data`, `Batches`), and what each loader offers to `load_data`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Batches(Protocol):
    """The batches of one rank, epoch by epoch."""

    samples: int  # images in the set, over all ranks

    def __len__(self) -> int:
        """Batches per epoch on this rank; when training the same on all ranks."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of one epoch from batch number `start` on.

        Images: float32 (n, c, h, w), normalised, on the device. Labels: int64 (n,), or float32
        (n, classes) where mixup or cutmix is on. Batch b of an epoch is the same whatever `start` is.
        Raises ValueError for a `start` outside [0, len(self)].
        """
        ...


@dataclass(frozen=True)
class Data:
    """A data set ready for training."""

    name: str
    train: Batches
    test: Batches
    train_unaugmented: Batches  # every training image once, in a fixed order
    classes: tuple[str, ...]
    channels: int
    image_size: int  # side of the square, pixels
    mean: tuple[float, ...]  # per channel, of pixels in [0, 1]
    std: tuple[float, ...]
    evaluated_on: str  # what `test` is: "test" or "validation"


class Samples(Protocol):
    """The images and labels of one split, before augmentation."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class number of each image: int64 (n,)."""
        ...

    def select(self, positions: NDArray[np.int64]) -> Samples:
        """Return the samples at these positions, in this order."""
        ...

    def to(self, device: torch.device) -> Samples:
        """Return samples that are read onto `device`."""
        ...

    def read(
        self, batches: Iterable[NDArray[np.int64]], random_crop: tuple[int, int] | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield uint8 images (n, c, h, w) and int64 labels (n,) for each array of positions.

        random_crop: (seed, epoch) of a RandomResizedCrop, or None for the fixed view of an image.
        """
        ...


@dataclass(frozen=True)
class Source:
    """What a loader finds; the splits are read when called for."""

    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Callable[[], Samples]
    test: Callable[[], Samples]
    supports_random_resized_crop: bool = False
