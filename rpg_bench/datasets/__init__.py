"""The data sets: `load_data` gives batches that are a function of the configuration and seed alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from rpg_bench.augment import Normalise, TrainingAugmentation, check_augment
from rpg_bench.config import AugmentConfig, DatasetConfig
from rpg_bench.datasets.batches import EvaluationBatches, TrainingBatches
from rpg_bench.datasets.cifar import load_cifar10, load_cifar100
from rpg_bench.datasets.digits import load_digits
from rpg_bench.datasets.image_folder import load_image_folder
from rpg_bench.datasets.interface import Batches, Data, Source
from rpg_bench.datasets.splits import hold_out, take_subset
from rpg_bench.errors import InvalidInput, unknown

__all__ = ["DATASETS", "Batches", "Data", "load_data"]

DATASETS: Mapping[str, Callable[[DatasetConfig], Source]] = {
    "digits": load_digits,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "imagenet": load_image_folder,
    "imagefolder": load_image_folder,
}


def load_data(
    dataset: DatasetConfig,
    augment: AugmentConfig,
    *,
    batch_size: int,
    seed: int,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
) -> Data:
    """Return the training and evaluation batches of this rank.

    batch_size: images per rank. Batch b of epoch e depends on seed, e, b, rank, world_size and the
    two configurations alone: not on the number of workers, where the epoch was started, or any
    global random state, which iterating leaves untouched. Raises InvalidInput for a configuration
    or files that a user can correct.
    """
    _check(dataset, augment)
    if batch_size < 1:
        raise InvalidInput(f"recipe.batch_size: {batch_size} is not positive; allowed: 1 or more images")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: {rank} is outside [0, {world_size})")
    source = DATASETS[dataset.name](dataset)
    if augment.random_resized_crop and not source.supports_random_resized_crop:
        raise InvalidInput(
            "augment.random_resized_crop: only for data sets read from folders (imagenet, imagefolder), "
            f"not for {dataset.name}; augment.crop_padding crops there"
        )
    train = source.train()
    kept, held_out = hold_out(train.labels, dataset.validation)
    # The held-out part comes first, so that it is the same for every subset.
    test = train.select(held_out) if dataset.validation else source.test()
    kept = kept[take_subset(train.labels[kept], dataset.subset)]
    if len(kept) < len(train.labels):
        train = train.select(kept)
    normalise = Normalise(source.mean, source.std, device)
    train, test = train.to(device), test.to(device)
    fixed = {"batch_size": batch_size, "rank": rank, "world_size": world_size}
    return Data(
        name=dataset.name,
        train=TrainingBatches(
            train,
            TrainingAugmentation(augment, normalise, len(source.classes)),
            random_resized_crop=augment.random_resized_crop,
            seed=seed,
            **fixed,
        ),
        test=EvaluationBatches(test, normalise, **fixed),
        train_unaugmented=EvaluationBatches(train, normalise, **fixed),
        classes=source.classes,
        channels=len(source.mean),
        image_size=dataset.image_size,
        mean=source.mean,
        std=source.std,
        evaluated_on="validation" if dataset.validation else "test",
    )


def _check(dataset: DatasetConfig, augment: AugmentConfig) -> None:
    # Before any file is read: these must not cost a user half a minute.
    if dataset.name not in DATASETS:
        raise unknown("dataset.name", dataset.name, DATASETS)
    if dataset.image_size < 1:
        raise InvalidInput(f"dataset.image_size: {dataset.image_size} is not positive; allowed: 1 or more pixels")
    if dataset.workers < 0:
        raise InvalidInput(f"dataset.workers: {dataset.workers} is negative; allowed: 0 or more processes")
    if not 0 < dataset.subset <= 1:
        raise InvalidInput(f"dataset.subset: {dataset.subset} is outside (0, 1]")
    if not 0 <= dataset.validation < 1:
        raise InvalidInput(f"dataset.validation: {dataset.validation} is outside [0, 1)")
    check_augment(augment)
