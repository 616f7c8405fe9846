"""ImageNet and other large data sets, decoded from files by worker processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rpg_bench.config import DatasetConfig
from rpg_bench.datasets.class_folders import ImageFiles, find_class_folders
from rpg_bench.datasets.interface import Source
from rpg_bench.datasets.random_streams import random_stream
from rpg_bench.datasets.roots import ADVICE, existing_folders, readable_root
from rpg_bench.errors import InvalidInput

MEAN = (0.485, 0.456, 0.406)  # of ImageNet
STD = (0.229, 0.224, 0.225)
RESIZE_OVER_CROP = 256 / 224  # the fixed view: shorter side resized to 256, centre of 224
CROP_SCALE = (0.08, 1.0)  # of RandomResizedCrop: share of the area, and aspect ratio
CROP_RATIO = (3 / 4, 4 / 3)


def load_image_folder(dataset: DatasetConfig) -> Source:
    """Return the images of root/train/<class>/ and root/val/<class>/ (or test/).

    They may also lie in root/<name>/. Raises InvalidInput where they do not.
    """
    folders = existing_folders(readable_root(dataset), ".", dataset.name)
    found = next(filter(None, (find_class_folders(folder, ("val", "test")) for folder in folders)), None)
    if found is None:
        raise InvalidInput(
            f"dataset.root: no train/<class>/ in {dataset.root!r} or its folder {dataset.name}/; {ADVICE}"
        )

    def samples(files: ImageFiles) -> FolderSamples:
        return FolderSamples(files, dataset.image_size, dataset.workers)

    train, test = found.train, found.test
    return Source(
        classes=found.classes,
        mean=MEAN,
        std=STD,
        train=lambda: samples(train),
        test=lambda: samples(test),
        supports_random_resized_crop=True,
    )


class FolderSamples:
    """Image files that are decoded batch by batch, by `workers` processes (0: in this one)."""

    def __init__(self, files: ImageFiles, image_size: int, workers: int, device: torch.device | None = None) -> None:
        self.labels = files.labels
        self._files = files
        self._image_size = image_size
        self._workers = workers
        self._device = device or torch.device("cpu")

    def select(self, positions: NDArray[np.int64]) -> FolderSamples:
        """Return the samples at these positions, in this order."""
        paths = tuple(self._files.paths[position] for position in positions)
        files = ImageFiles(paths, self.labels[positions])
        return FolderSamples(files, self._image_size, self._workers, self._device)

    def to(self, device: torch.device) -> FolderSamples:
        """Return the same samples, read onto `device`."""
        return FolderSamples(self._files, self._image_size, self._workers, device)

    def read(
        self, batches: Iterable[NDArray[np.int64]], random_crop: tuple[int, int] | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Samples.read`. Raises InvalidInput that names a file which is not a readable image."""
        loader: DataLoader[Any] = DataLoader(
            _DecodedImages(self._files, self._image_size, random_crop),
            batch_sampler=cast(Any, batches),  # any iterable will do: here the batches that are left
            num_workers=self._workers,
            collate_fn=_collate,
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator(),  # or it would advance the global one
        )
        for batch in loader:
            if isinstance(batch, InvalidInput):
                raise batch
            images, labels = batch
            yield (
                images.to(self._device, non_blocking=True),
                labels.to(self._device, non_blocking=True),
            )


class _DecodedImages(Dataset[Any]):
    def __init__(self, files: ImageFiles, image_size: int, random_crop: tuple[int, int] | None) -> None:
        self._files = files
        self._image_size = image_size
        self._random_crop = random_crop

    def __getitem__(self, position: int) -> tuple[Tensor, int] | InvalidInput:
        """Return the uint8 image (3, image_size, image_size) and label, or what is wrong with the file.

        The error is returned: raised in a worker, it would reach the user as a traceback.
        """
        path = self._files.paths[position]
        try:
            return self._decoded(path, int(position)), int(self._files.labels[position])
        except Exception as error:  # a corrupt file can make PIL raise nearly anything
            reason = " ".join(str(error).split()) or type(error).__name__
        return InvalidInput(f"dataset.root: cannot read the image '{path}': {reason}")

    def _decoded(self, path: str, position: int) -> Tensor:
        from PIL import Image
        from torchvision.transforms import InterpolationMode, RandomResizedCrop
        from torchvision.transforms import functional as transform

        size, bilinear = self._image_size, InterpolationMode.BILINEAR
        with Image.open(path) as file:
            image = file.convert("RGB")
        if self._random_crop is None:
            # CenterCrop pads an image that a rounding has left a pixel too small.
            shorter = max(size, round(size * RESIZE_OVER_CROP))
            image = transform.center_crop(transform.resize(image, [shorter], bilinear), [size, size])
        else:
            # Seeded per image, so that it does not matter which worker decodes it.
            seed = int(random_stream("crop", *self._random_crop, position).randint(2**31))
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)  # unlike torch.manual_seed, leaves CUDA's alone
                box = RandomResizedCrop.get_params(cast(Any, image), list(CROP_SCALE), list(CROP_RATIO))
            image = transform.resized_crop(image, *box, [size, size], bilinear)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _collate(samples: list[tuple[Tensor, int] | InvalidInput]) -> tuple[Tensor, Tensor] | InvalidInput:
    images, labels = [], []
    for sample in samples:
        if isinstance(sample, InvalidInput):
            return sample
        images.append(sample[0])
        labels.append(sample[1])
    return torch.stack(images), torch.tensor(labels, dtype=torch.int64)
