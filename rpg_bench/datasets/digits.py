"""scikit-learn's digits: 1,797 grey images of 8x8 pixels, ten classes, part of the package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rpg_bench.config import DatasetConfig
from rpg_bench.datasets.in_memory import InMemorySamples, resized
from rpg_bench.datasets.interface import Source

TEST_IMAGES = 360  # of 1,797; the other 1,437 train
MEAN = (0.3054,)  # of the 8x8 training images
STD = (0.3761,)

_SPLIT = Path(__file__).with_name("digits_split.txt")


def load_digits(dataset: DatasetConfig) -> Source:
    """Return the digits, resized bilinearly, with a fixed stratified split."""
    values, labels = _read()
    pixels = torch.from_numpy(values).to(torch.float32)[:, None] * (255 / 16)
    images = resized(pixels, dataset.image_size, antialias=False)
    positions = np.array(_split(), np.int64)
    test, train = positions[:TEST_IMAGES], positions[TEST_IMAGES:]

    def part(positions: NDArray[np.int64]) -> InMemorySamples:
        return InMemorySamples(images[torch.from_numpy(positions)], labels[positions])

    return Source(
        classes=tuple(str(digit) for digit in range(10)),
        mean=MEAN,
        std=STD,
        train=lambda: part(train),
        test=lambda: part(test),
    )


def _split() -> list[int]:
    lines = _SPLIT.read_text().splitlines()
    return [int(number) for line in lines if not line.startswith("#") for number in line.split()]


def _read() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Images (1797, 8, 8) with values 0..16, and labels, from the file inside scikit-learn.

    The package itself is not imported where that can be helped: it takes longer than a training step.
    """
    package = importlib.util.find_spec("sklearn")
    if package is not None and package.origin is not None:
        file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            table = np.loadtxt(file, delimiter=",")
            return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
    import sklearn.datasets

    digits = sklearn.datasets.load_digits()
    return digits.images, digits.target.astype(np.int64)
