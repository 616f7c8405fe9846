"""Prune, fine-tune, calibrate and store a trained network."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rpg_bench.compact.encoding import Encoding
from rpg_bench.compact.pruning import Masks, apply_masks, magnitude_masks, share_after
from rpg_bench.compact.quantising import StraightThrough, as_stored, estimate_statistics
from rpg_bench.compact.recipe import Recipe
from rpg_bench.compact.write import Compact, Storage, compact
from rpg_bench.config import ScheduleConfig, TrackingConfig, TrainConfig
from rpg_bench.engine import PRECISION_TYPES
from rpg_bench.errors import InvalidInput
from rpg_bench.sharing import materialize, sharing_of
from rpg_bench.small_maps import use_matrix_products

Batches = list[tuple[Tensor, Tensor]]
HELD_OUT = 500  # training images on which a fine-tuned network is looked at after each epoch


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

    @property
    def storage(self) -> Storage:
        """How numbers are stored, scales chosen by squared error."""
        vectors = max(8, self.bits)
        return Storage(Encoding(self.bits, self.block, vectors), Encoding(self.bits, self.block, vectors))

    @property
    def changes(self) -> bool:
        """Whether the network is another one afterwards."""
        return self.bits < 32 or self.prune > 0 or self.tune > 0


def squeezed(
    model: nn.Module, recipe: Recipe, config: TrainConfig, settings: Settings, calibration: Batches
) -> Compact:
    """The compact file of a trained network after pruning, fine-tuning, calibration and quantisation.

    Args:
        model: stays as it is.
        recipe: of the file.
        config: of the run; how to train on, and in which precision the network is evaluated.
        settings: what is done.
        calibration: batches of training images, without augmentation.
    """
    model = copy.deepcopy(model)
    masks: Masks = {}
    for number in range(1, settings.rounds + 1):
        if settings.prune:
            masks = magnitude_masks(model, share_after(settings.prune, number, settings.rounds))
            apply_masks(model, masks)
        if settings.tune:
            model = fine_tuned(model, config, settings, masks)
    storage = settings.storage
    if settings.changes and calibration:
        storage = calibrated(model, config, storage, calibration)
    return compact(model, recipe, storage)


def calibrated(model: nn.Module, config: TrainConfig, storage: Storage, batches: Batches) -> Storage:
    """Measure batch norms' statistics as the stored network has them, and choose how scales are found. In place.

    Of both rules for scales the one with the smaller loss on the calibration images is taken.
    """
    rules = [storage]
    if storage.free.bits < 32:
        rules.append(_unclipped(storage))
    states: list[tuple[float, Storage, dict[str, Tensor]]] = []
    run = network(model, config)
    for rule in rules:
        with as_stored(model, rule):
            estimate_statistics(model, run, batches)
            states.append((_loss(run, batches), rule, {n: b.clone() for n, b in model.named_buffers()}))
    _, best, statistics = min(states, key=lambda state: state[0])
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(statistics[name])
    return best


def fine_tuned(model: nn.Module, config: TrainConfig, settings: Settings, masks: Masks) -> nn.Module:
    """The network after more epochs of its own recipe, masked and quantised in every forward pass.

    Test images are never looked at.
    """
    from rpg_bench import launch, tracking
    from rpg_bench.display import Display
    from rpg_bench.engine import Trainer
    from rpg_bench.sharing import dof_report
    from rpg_bench.signals import StopRequest

    if config.sharing.name == "rigl":
        raise InvalidInput("tune: rigl moves its connections while it trains, and a mask would not stay")
    schedule = ScheduleConfig(name="cosine")
    recipe = dataclasses.replace(config.recipe, epochs=settings.tune, schedule=schedule, train_sizes=[], ema_decay=None)
    config = dataclasses.replace(
        config,
        device="cpu",
        recipe=recipe,
        dataset=dataclasses.replace(config.dataset, subset=config.dataset.subset * settings.tune_images),
        optimizer=dataclasses.replace(config.optimizer, lr=config.optimizer.lr * settings.tune_rate),
        tracking=TrackingConfig(mode="disabled"),
        checkpoint_seconds=1e9,
    )
    accelerator = launch.accelerator(config)
    launch.seed_everything(config.seed)
    data = launch.load(config, accelerator)
    data = dataclasses.replace(data, test=_Few(data.train_unaugmented))
    use_matrix_products(model)
    storage = settings.storage
    free = dataclasses.replace(storage.free, clip=False)  # a search in every step would cost more than the step
    storage = dataclasses.replace(storage, free=free, private=dataclasses.replace(storage.private, clip=False))
    with tempfile.TemporaryDirectory() as folder, StopRequest() as stop:
        trainer = Trainer(config, model, data, accelerator, Path(folder))
        display = Display(quiet=True)
        straight = StraightThrough(model, masks, storage, trainer.optimizer)
        trainer.fit(display, tracking.tracker(config, trainer, dof_report(model), None), stop)
        straight.close()
    apply_masks(model, masks)
    return model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload,no-any-return]


def network(model: nn.Module, config: TrainConfig) -> Callable[[Tensor], Tensor]:
    """Runs a shared or plain model on images as the run evaluates it: its precision, memory format and kernels."""
    precision = PRECISION_TYPES[config.recipe.precision]
    layout = torch.channels_last if config.recipe.channels_last else torch.contiguous_format

    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            logits: Tensor = model(images.to(memory_format=layout))
        return logits.float()

    return run


def deployed(model: nn.Module, config: TrainConfig) -> Callable[[Tensor], Tensor]:
    """As `network`, of the ordinary network where there is one, in the run's memory format. `model` stays as it is."""
    plain = copy.deepcopy(model) if sharing_of(model).adapted else materialize(model)
    use_matrix_products(plain)
    if config.recipe.channels_last:
        plain = plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network(plain.eval(), config)


def _loss(run: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    return sum(float(functional.cross_entropy(run(images), labels, reduction="sum")) for images, labels in batches)


def _unclipped(storage: Storage) -> Storage:
    free, private = (dataclasses.replace(part, clip=False) for part in (storage.free, storage.private))
    return dataclasses.replace(storage, free=free, private=private)


class _Few:
    """The first of some batches."""

    def __init__(self, batches: Any) -> None:
        self._batches = batches
        self.samples = min(HELD_OUT, batches.samples)

    def __len__(self) -> int:
        return min(len(self._batches), 4)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for number, batch in enumerate(self._batches.epoch(epoch, start)):
            if number >= len(self):
                return
            yield batch
