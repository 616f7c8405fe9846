"""Data sets small enough to be held as uint8 tensors on the training device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rpg_bench.augment import copy_to_device


class InMemorySamples:
    """images: uint8 (n, c, h, w); labels: int64 (n,)."""

    def __init__(self, images: Tensor, labels: NDArray[np.int64]) -> None:
        self.images = images
        self.labels = labels
        self._device_labels = torch.from_numpy(labels).to(images.device)

    def select(self, positions: NDArray[np.int64]) -> InMemorySamples:
        """Return the samples at these positions, in this order."""
        chosen = torch.from_numpy(positions).to(self.images.device)
        return InMemorySamples(self.images.index_select(0, chosen), self.labels[positions])

    def to(self, device: torch.device) -> InMemorySamples:
        """Return the same samples, held on `device`."""
        return InMemorySamples(self.images.to(device), self.labels)

    def read(
        self, batches: Iterable[NDArray[np.int64]], random_crop: tuple[int, int] | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Samples.read`; `random_crop` is for data sets read from folders."""
        if random_crop is not None:
            raise ValueError("random_crop: not for images in memory")
        for positions in batches:
            chosen = copy_to_device(np.ascontiguousarray(positions), self.images.device)
            yield self.images.index_select(0, chosen), self._device_labels.index_select(0, chosen)


def resized(images: Tensor, image_size: int, *, antialias: bool) -> Tensor:
    """Return (n, c, h, w) images with values 0..255 as uint8 (n, c, image_size, image_size), bilinear."""
    if images.shape[-2:] == (image_size, image_size):
        return images if images.dtype == torch.uint8 else images.round().to(torch.uint8)
    result = torch.empty((*images.shape[:2], image_size, image_size), dtype=torch.uint8)
    for first in range(0, len(images), 1024):  # so that the float copies stay small
        scaled = functional.interpolate(
            images[first : first + 1024].to(torch.float32),
            (image_size, image_size),
            mode="bilinear",
            antialias=antialias,
        )
        result[first : first + 1024] = scaled.round().clamp(0, 255)
    return result
