"""Augmentation of whole batches: crop, flip, normalise, mixup, cutmix.

Every random number comes from the `RandomState` that the caller passes: its stream is frozen by
NumPy's policy, it is drawn on the CPU, and no global generator is read or advanced. So a batch is
the same on every device, and on CUDA the draws are copied without waiting for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rpg_bench.config import AugmentConfig
from rpg_bench.errors import InvalidInput


def check_augment(augment: AugmentConfig) -> None:
    """Raise InvalidInput for a value that no data set can use."""
    if augment.crop_padding < 0:
        raise InvalidInput(f"augment.crop_padding: {augment.crop_padding} is negative; allowed: 0 or more pixels")
    for field in ("mixup", "cutmix"):
        alpha = getattr(augment, field)
        if not (alpha >= 0 and math.isfinite(alpha)):
            raise InvalidInput(f"augment.{field}: {alpha} is outside [0, inf); 0 switches it off")


def copy_to_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """Return `array` as a tensor on `device`; on CUDA without waiting for the device."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def crop(images: Tensor, padding: int, offsets: Tensor) -> Tensor:
    """Cut each image's own window of the original size out of the image with a black border.

    images: (n, c, h, w); offsets: int64 (n, 2), row and column of the window's top left corner in
    the padded image, each in [0, 2 * padding]; returns (n, c, h, w).
    """
    number, channels, height, width = images.shape
    padded = functional.pad(images, (padding, padding, padding, padding))
    rows = offsets[:, :1] + torch.arange(height, device=images.device)
    columns = offsets[:, 1:] + torch.arange(width, device=images.device)
    pixels = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    pixels = pixels.reshape(number, 1, height * width).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, pixels).view(number, channels, height, width)


def flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror the images (n, c, h, w) for which `flipped`, bool (n,), is true, left to right."""
    return torch.where(flipped[:, None, None, None], images.flip(-1), images)


class Normalise:
    """uint8 images (n, c, h, w) to float32: (pixel / 255 - mean) / std, per channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        means = torch.tensor(mean, dtype=torch.float64)[:, None, None]
        stds = torch.tensor(std, dtype=torch.float64)[:, None, None]
        self._scale = (1 / (255 * stds)).to(device=device, dtype=torch.float32)
        self._shift = (-means / stds).to(device=device, dtype=torch.float32)

    def __call__(self, images: Tensor) -> Tensor:
        """Return new float32 images of the same shape."""
        return images.to(torch.float32).mul_(self._scale).add_(self._shift)


def mixup(images: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Blend each image and target row with its predecessor in the batch, which gets 1 - `share`."""
    return torch.lerp(images.roll(1, 0), images, share), torch.lerp(targets.roll(1, 0), targets, share)


def cutmix_box(height: int, width: int, share: float, row: int, column: int) -> tuple[int, int, int, int]:
    """Return top, bottom, left, right of a box around (row, column), clipped to the image.

    Before clipping it covers 1 - `share` of the image, up to rounding down to pixels.
    """
    half = 0.5 * math.sqrt(1 - share)
    half_height, half_width = int(half * height), int(half * width)
    return (
        max(row - half_height, 0),
        min(row + half_height, height),
        max(column - half_width, 0),
        min(column + half_width, width),
    )


def cutmix(images: Tensor, targets: Tensor, box: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """Paste the box of each image's predecessor in the batch; targets mix by the exact area.

    box: top, bottom, left, right in pixels, as `cutmix_box` gives it.
    """
    top, bottom, left, right = box
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[:, :, top:bottom, left:right].roll(1, 0)
    share = 1 - (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
    return mixed, torch.lerp(targets.roll(1, 0), targets, share)


class TrainingAugmentation:
    """The augmentation of one training batch, as configured.

    Raises InvalidInput for a configuration that `check_augment` refuses.
    """

    def __init__(self, augment: AugmentConfig, normalise: Normalise, number_of_classes: int) -> None:
        check_augment(augment)
        self._augment = augment
        self._normalise = normalise
        self._number_of_classes = number_of_classes

    def __call__(self, images: Tensor, labels: Tensor, random: RandomState) -> tuple[Tensor, Tensor]:
        """Augment uint8 images (n, c, h, w) with int64 labels (n,), with draws from the batch's stream.

        Returns float32 images and the labels, or float32 targets (n, number_of_classes) where mixup
        or cutmix is on.
        """
        padding = self._augment.crop_padding
        if padding:
            offsets = random.randint(0, 2 * padding + 1, size=(len(images), 2), dtype=np.int64)
            images = crop(images, padding, copy_to_device(offsets, images.device))
        if self._augment.flip:
            flipped = random.randint(0, 2, size=len(images), dtype=np.int64).astype(np.bool_)
            images = flip(images, copy_to_device(flipped, images.device))
        images = self._normalise(images)
        if self._augment.mixup or self._augment.cutmix:
            return self._mix(images, labels, random)
        return images, labels

    def _mix(self, images: Tensor, labels: Tensor, random: RandomState) -> tuple[Tensor, Tensor]:
        # Not functional.one_hot: it looks at the labels' values, which waits for the device.
        targets = torch.zeros(len(labels), self._number_of_classes, device=labels.device)
        targets.scatter_(1, labels[:, None], 1.0)
        mixup_alpha, cutmix_alpha = self._augment.mixup, self._augment.cutmix
        both = mixup_alpha > 0 and cutmix_alpha > 0
        if random.random_sample() < 0.5 if both else mixup_alpha > 0:
            return mixup(images, targets, float(random.beta(mixup_alpha, mixup_alpha)))
        height, width = images.shape[2:]
        share = float(random.beta(cutmix_alpha, cutmix_alpha))
        row, column = int(random.randint(height)), int(random.randint(width))
        return cutmix(images, targets, cutmix_box(height, width, share, row, column))
