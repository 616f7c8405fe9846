"""What is done to a trained network before it is stored; read without torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What is done to a network. Each field has a value that does nothing."""

    bits: int = 32  # of each free number, and of each private one but norms and biases, which keep 8 at least
    prune: float = 0.0  # share of the free numbers that is taken away
    block: int = 64  # numbers that share a scale; 0: those of a tensor, a whole ring
    calibrate: int = 1024  # training images for statistics and the choice of scales; 0: none
    tune: int = 0  # epochs of fine-tuning after each round of pruning
    tune_images: float = 1.0  # share of the training images in such an epoch
    tune_rate: float = 0.1  # of the run's own learning rate, falling to nothing as a cosine
    rounds: int = 1  # of pruning
    activations: int = 32  # 8: measured as it runs with 8-bit weights and activations, see int8

    @property
    def changes(self) -> bool:
        """Whether the network is another one afterwards."""
        return self.bits < 32 or self.prune > 0 or self.tune > 0


def compression_hash(parent: str, settings: Settings) -> str:
    """Covers the run's hash and every setting that is not at its default."""
    changed = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(Settings)
        if getattr(settings, field.name) != field.default
    }
    text = json.dumps({"parent": parent, **changed}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
