"""What a network's answers are worth: accuracy, loss, calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

BINS = 15  # of confidence, equally wide, as in Guo et al. 2017 (arXiv 1706.04599)


@dataclass(frozen=True)
class Metrics:
    """Of one network on one set of images."""

    images: int
    top1: float  # percent
    top5: float | None  # percent; None of five classes or fewer
    loss: float  # cross-entropy, mean
    calibration_error: float  # expected, over `BINS` bins, percent
    per_class: tuple[float | None, ...]  # top-1 of each class's images, percent; None without any

    def to_dict(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "top1": self.top1,
            **({} if self.top5 is None else {"top5": self.top5}),
            "loss": self.loss,
            "calibration_error": self.calibration_error,
            "bins": BINS,
        }


@torch.inference_mode()
def evaluate(network: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> Metrics:
    """Measure on batches of images, float32 (n, c, h, w), and labels, int64 (n,)."""
    loss, images, top5 = 0.0, 0, 0
    right, seen = torch.zeros(classes, dtype=torch.long), torch.zeros(classes, dtype=torch.long)
    hits, counts, confidence = torch.zeros(BINS), torch.zeros(BINS), torch.zeros(BINS, dtype=torch.double)
    for inputs, labels in batches:
        logits = network(inputs).float()
        loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
        probability, answer = logits.double().softmax(1).max(1)
        correct = answer == labels
        bins = (probability * BINS).ceil().long().sub(1).clamp(0, BINS - 1)
        hits += torch.bincount(bins, correct.double(), BINS)
        counts += torch.bincount(bins, minlength=BINS)
        confidence += torch.bincount(bins, probability, BINS)
        right += torch.bincount(labels[correct], minlength=classes)
        seen += torch.bincount(labels, minlength=classes)
        top5 += int((logits.topk(min(5, classes)).indices == labels[:, None]).sum())
        images += len(labels)
    total = max(1, images)
    return Metrics(
        images=images,
        top1=100 * int(right.sum()) / total,
        top5=100 * top5 / total if classes > 5 else None,
        loss=loss / total,
        calibration_error=100 * float((hits - confidence).abs().sum()) / total,
        per_class=tuple(100 * r / s if s else None for r, s in zip(right.tolist(), seen.tolist(), strict=True)),
    )
