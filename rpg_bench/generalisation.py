"""What a trained network does with the images it was trained on, and with corrupted ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rpg_bench.config import EvaluationConfig
from rpg_bench.corruption_names import chosen
from rpg_bench.corruptions import LEAST_SIDE, SEVERITIES, corrupted, library
from rpg_bench.datasets import Data
from rpg_bench.errors import InvalidInput
from rpg_bench.finished import GENERALISATION, read_record

if TYPE_CHECKING:
    from rpg_bench.engine import Trainer


def check_evaluation(evaluation: EvaluationConfig, data: Data) -> None:
    """See, before training, that what is asked for after it can be done.

    Raises:
        InvalidInput: an unknown corruption, a library that is missing, or images that are too small.
    """
    if not chosen(evaluation.corruptions):
        return
    if data.image_size < LEAST_SIDE:
        raise InvalidInput(
            f"evaluation.corruptions: need images of at least {LEAST_SIDE} pixels; dataset.image_size is "
            f"{data.image_size}"
        )
    if data.channels not in (1, 3):
        raise InvalidInput(f"evaluation.corruptions: need images of 1 or 3 channels, these have {data.channels}")
    library()


def held_evaluation(path: Path) -> Mapping[str, Any]:
    """What the record at this path has measured; nothing, where there is none."""
    held: Mapping[str, Any] = (read_record(path) or {}).get(GENERALISATION, {})
    return held


def measure_generalisation(
    trainer: Trainer, evaluation: EvaluationConfig, held: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Top-1 in percent, of the network as it is evaluated: the average, where the recipe has one.

    Args:
        trainer: at the end of its training.
        evaluation: what is asked for.
        held: what an earlier record of the run has; that is measured again, so that nothing is lost.

    Returns:
        `train_loss` and `train_top1` over the training images without augmentation; `corruptions`: top-1 at
        severities 1 to 5 by name, with the number of images and the library they come from. What is not asked for
        is left out.

    Raises:
        InvalidInput: as `check_evaluation`.
    """
    check_evaluation(evaluation, trainer.data)
    held = held or {}
    measured: dict[str, Any] = {}
    if evaluation.train or "train_top1" in held:
        loss, top1, _ = trainer.measure(trainer.data.train_unaugmented.epoch(0))
        measured |= {"train_loss": loss, "train_top1": top1}
    names = chosen([*evaluation.corruptions, *held.get("corruptions", {})])
    if names:
        views = _Views(trainer, evaluation.corrupted_images)
        measured["corruptions"] = {
            name: [round(trainer.measure(views.corrupted(name, severity))[1], 4) for severity in SEVERITIES]
            for name in names
        }
        measured |= {
            "images": views.total,
            "images_asked_for": evaluation.corrupted_images,
            "library": library(),
        }
    return measured


class _Views:
    """Every k-th evaluation image, as pixels; of several processes, each has its share."""

    def __init__(self, trainer: Trainer, wanted: int) -> None:
        data, processes = trainer.data, trainer.accelerator.num_processes
        stride = max(1, data.test.samples // wanted)
        self.total = min(wanted, data.test.samples)
        last = (self.total - 1) * stride
        self._device = trainer.device
        self._mean = torch.tensor(data.mean)[:, None, None]
        self._std = torch.tensor(data.std)[:, None, None]
        self._batches: list[tuple[np.ndarray[Any, np.dtype[np.uint8]], Tensor, list[int]]] = []
        number = trainer.accelerator.process_index  # ranks take turns: EvaluationBatches
        for images, labels in data.test.epoch(0):
            numbers = [number + processes * place for place in range(len(labels))]
            number += processes * len(labels)
            kept = [place for place, n in enumerate(numbers) if n % stride == 0 and n <= last]
            if kept:
                self._batches.append((self._pixels(images[kept]), labels[kept], [numbers[place] for place in kept]))

    def corrupted(self, name: str, severity: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of corrupted images, normalised as the evaluation images are."""
        for pixels, labels, numbers in self._batches:
            images = torch.from_numpy(corrupted(pixels, name, severity, numbers)).permute(0, 3, 1, 2)
            yield ((images / 255 - self._mean) / self._std).to(self._device), labels

    def _pixels(self, images: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
        values = (images.cpu() * self._std + self._mean) * 255
        return values.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
