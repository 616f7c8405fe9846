"""scikit-learn's digits: 1,797 grey images of 8x8 pixels, ten classes, part of the package."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from rpg_bench.config import DatasetConfig
from rpg_bench.datasets.in_memory import InMemorySamples, resized
from rpg_bench.datasets.interface import Source

TEST_IMAGES = 360  # of 1,797; the other 1,437 train
MEAN = (0.3054,)  # of the 8x8 training images
STD = (0.3761,)


def load_digits(dataset: DatasetConfig) -> Source:
    """Return the digits, resized bilinearly, with a fixed stratified split."""
    import sklearn.datasets
    from sklearn.model_selection import train_test_split

    digits = sklearn.datasets.load_digits()
    labels = digits.target.astype(np.int64)
    pixels = torch.from_numpy(digits.images).to(torch.float32)[:, None] * (255 / 16)
    images = resized(pixels, dataset.image_size, antialias=False)
    train, test = train_test_split(np.arange(len(labels)), test_size=TEST_IMAGES, random_state=0, stratify=labels)

    def part(positions: NDArray[np.int64]) -> InMemorySamples:
        return InMemorySamples(images[torch.from_numpy(positions)], labels[positions])

    return Source(
        classes=tuple(str(digit) for digit in range(10)),
        mean=MEAN,
        std=STD,
        train=lambda: part(train),
        test=lambda: part(test),
    )
