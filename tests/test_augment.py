"""The augmentation against slow references, and the shares that mixing gives to labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import RandomState
from torch import Tensor

from rpg_bench.augment import (
    Normalise,
    TrainingAugmentation,
    check_augment,
    crop,
    cutmix,
    cutmix_box,
    flip,
    mixup,
)
from rpg_bench.config import AugmentConfig
from rpg_bench.errors import InvalidInput

CPU = torch.device("cpu")


def random_images(seed: int, number: int, channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (number, channels, height, width), dtype=torch.uint8, generator=generator)


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7),
    st.integers(0, 4),
)  # fmt: skip
def test_crop_is_the_window_at_the_offset(
    seed: int, number: int, channels: int, height: int, width: int, padding: int
) -> None:
    images = random_images(seed, number, channels, height, width)
    offsets = torch.from_numpy(RandomState(seed).randint(0, 2 * padding + 1, (number, 2), dtype=np.int64))
    cropped = crop(images, padding, offsets)
    for image, result, (row, column) in zip(images, cropped, offsets.tolist(), strict=True):
        for y in range(height):
            for x in range(width):
                source_y, source_x = y + row - padding, x + column - padding
                inside = 0 <= source_y < height and 0 <= source_x < width
                expected = image[:, source_y, source_x] if inside else torch.zeros_like(image[:, 0, 0])
                assert torch.equal(result[:, y, x], expected)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.lists(st.booleans(), min_size=1, max_size=6), st.integers(1, 5))
def test_flip_mirrors_the_chosen_images_alone(seed: int, flipped: list[bool], width: int) -> None:
    images = random_images(seed, len(flipped), 2, 3, width)
    result = flip(images, torch.tensor(flipped))
    for image, mirrored, chosen in zip(images, result, flipped, strict=True):
        for x in range(width):
            assert torch.equal(mirrored[:, :, x], image[:, :, width - 1 - x if chosen else x])


def test_normalise_is_per_channel() -> None:
    images = random_images(0, 4, 3, 5, 5)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    result = Normalise(mean, std, CPU)(images)
    assert result.dtype == torch.float32
    for channel in range(3):
        expected = (images[:, channel].double() / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(result[:, channel].double(), expected, rtol=1e-5, atol=1e-5)


@given(st.floats(0, 1))
def test_mixup_blends_images_and_targets_alike(share: float) -> None:
    images, targets = torch.rand(4, 1, 2, 2), torch.eye(4)
    mixed, mixed_targets = mixup(images, targets, share)
    torch.testing.assert_close(mixed[0], share * images[0] + (1 - share) * images[3])
    torch.testing.assert_close(mixed_targets[1], share * targets[1] + (1 - share) * targets[0])


@settings(deadline=None)
@given(st.floats(0, 1), st.integers(1, 20), st.integers(1, 20), st.data())
def test_cutmix_weighs_labels_by_the_pixels_that_were_pasted(
    share: float, height: int, width: int, data: st.DataObject
) -> None:
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = cutmix_box(height, width, share, row, column)
    images = torch.arange(3.0)[:, None, None, None].expand(3, 2, height, width)  # each image its number
    mixed, targets = cutmix(images, torch.eye(3), box)
    for image in range(3):
        shares = [(mixed[image] == other).float().mean().item() for other in range(3)]
        assert targets[image].tolist() == pytest.approx(shares, abs=1e-6)
    pasted = (mixed[0] == 2).float().mean().item()
    assert pasted <= 1 - share + 1e-6


def augmented(augment: AugmentConfig, seed: int) -> tuple[Tensor, Tensor]:
    augmentation = TrainingAugmentation(augment, Normalise((0.5,), (0.25,), CPU), 5)
    return augmentation(random_images(0, 16, 1, 8, 8), torch.arange(16) % 5, RandomState(seed))


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([0.0, 0.2, 1.0, 5.0]), st.sampled_from([0.0, 0.2, 1.0, 5.0]), st.integers(0, 2**31)
)  # fmt: skip
def test_targets_are_shares_that_sum_to_one(mixup_alpha: float, cutmix_alpha: float, seed: int) -> None:
    images, targets = augmented(AugmentConfig(mixup=mixup_alpha, cutmix=cutmix_alpha), seed)
    assert images.shape == (16, 1, 8, 8)
    assert images.dtype == torch.float32
    if not mixup_alpha and not cutmix_alpha:
        assert targets.dtype == torch.int64
        assert targets.shape == (16,)
        return
    assert targets.shape == (16, 5)
    assert targets.dtype == torch.float32
    assert (targets >= 0).all()
    torch.testing.assert_close(targets.sum(1), torch.ones(16))


def test_with_both_on_each_is_used_for_about_half_of_the_batches() -> None:
    plain = set(augmented(AugmentConfig(), 0)[0].flatten().tolist())
    blended = 0
    for seed in range(200):
        images, _ = augmented(AugmentConfig(mixup=1.0, cutmix=1.0), seed)
        blended += not set(images.flatten().tolist()) <= plain  # cutmix makes no new pixel values
    assert 70 < blended < 130


def test_offsets_and_flips_cover_their_range() -> None:
    augmentation = TrainingAugmentation(AugmentConfig(crop_padding=1, flip=True), Normalise((0.0,), (1 / 255,), CPU), 2)
    images = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3).expand(2000, 1, 3, 3)
    result, _ = augmentation(images, torch.zeros(2000, dtype=torch.int64), RandomState(0))
    variants, counts = np.unique(result.round().flatten(1).numpy(), axis=0, return_counts=True)
    assert len(variants) == 9 * 2
    assert counts.min() > 2000 / 18 / 2
    assert counts.max() < 2000 / 18 * 2


def test_same_stream_same_batch() -> None:
    augment = AugmentConfig(crop_padding=2, flip=True, mixup=0.8, cutmix=1.0)
    for first, second in zip(augmented(augment, 3), augmented(augment, 3), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(augmented(augment, 3)[0], augmented(augment, 4)[0])


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (AugmentConfig(crop_padding=-1), "augment.crop_padding: -1 is negative"),
        (AugmentConfig(mixup=-0.1), r"augment.mixup: -0.1 is outside \[0, inf\)"),
        (AugmentConfig(cutmix=float("nan")), "augment.cutmix: nan is outside"),
    ],
)
def test_impossible_values_are_refused(augment: AugmentConfig, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_augment(augment)
