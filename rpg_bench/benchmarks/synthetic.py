"""A data set of noise with CIFAR-100's shape, through the project's own batches."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from rpg_bench.augment import Normalise, TrainingAugmentation
from rpg_bench.benchmarks.networks import CLASSES, IMAGE_SIZE
from rpg_bench.config import AugmentConfig
from rpg_bench.datasets import Data
from rpg_bench.datasets.batches import EvaluationBatches, TrainingBatches
from rpg_bench.datasets.in_memory import InMemorySamples

MEAN, STD = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)
PADDING = 4
TEST_IMAGES = 16  # few: it is training that is timed


def pixels(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (count, 3, 32, 32) and labels."""
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (count, 3, IMAGE_SIZE, IMAGE_SIZE)).astype(np.uint8)
    return images, random.randint(0, CLASSES, count).astype(np.int64)


def synthetic_data(count: int, batch_size: int, device: torch.device, test_images: int = TEST_IMAGES) -> Data:
    """What `load_data` would return for such a data set, with crop and flip."""
    images, labels = pixels(count)
    samples = InMemorySamples(torch.from_numpy(images).to(device), labels)
    normalise = Normalise(MEAN, STD, device)
    augmentation = TrainingAugmentation(AugmentConfig(crop_padding=PADDING, flip=True), normalise, CLASSES)
    one = {"rank": 0, "world_size": 1}
    return Data(
        name="synthetic",
        train=TrainingBatches(samples, augmentation, random_resized_crop=False, batch_size=batch_size, seed=0, **one),
        train_unaugmented=EvaluationBatches(samples, normalise, batch_size=batch_size, **one),
        test=EvaluationBatches(samples.select(np.arange(test_images)), normalise, batch_size=batch_size, **one),
        classes=tuple(str(number) for number in range(CLASSES)),
        channels=3,
        image_size=IMAGE_SIZE,
        mean=MEAN,
        std=STD,
        evaluated_on="test",
    )
