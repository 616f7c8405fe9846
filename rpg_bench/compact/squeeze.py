"""Prune, fine-tune, calibrate and store a trained network."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rpg_bench.attention import use_plain_attention
from rpg_bench.compact.encoding import Encoding
from rpg_bench.compact.pruning import Masks, apply_masks, magnitude_masks, share_after
from rpg_bench.compact.quantising import StraightThrough, as_stored, estimate_statistics
from rpg_bench.compact.recipe import Recipe
from rpg_bench.compact.settings import Settings
from rpg_bench.compact.write import Compact, Storage, compact
from rpg_bench.config import ScheduleConfig, TrackingConfig, TrainConfig
from rpg_bench.engine import PRECISION_TYPES
from rpg_bench.errors import InvalidInput
from rpg_bench.sharing import materialize, sharing_of
from rpg_bench.small_maps import use_matrix_products

Batches = list[tuple[Tensor, Tensor]]
HELD_OUT = 500  # training images on which a fine-tuned network is looked at after each epoch


def storage_of(settings: Settings) -> Storage:
    """How numbers are stored, scales chosen by squared error."""
    encoding = Encoding(settings.bits, settings.block, max(8, settings.bits))
    return Storage(encoding, encoding)


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
    storage = storage_of(settings)
    if settings.changes and calibration:
        storage = calibrated(model, config, storage, calibration)
    return compact(model, recipe, storage)


def calibrated(model: nn.Module, config: TrainConfig, storage: Storage, batches: Batches) -> Storage:
    """Choose how scales are found, and whether batch norms' statistics are measured anew. In place.

    What is chosen has the smallest loss on every other batch of the training images that are given; statistics are
    measured on the batches between, and at the end on all.

    Returns:
        The storage with the rule for scales that was chosen; the model has the statistics.
    """
    rules = [storage] if storage.free.bits == 32 else [storage, _unclipped(storage)]
    between, held_out = (batches[::2], batches[1::2]) if len(batches) > 1 else (batches, batches)
    run = network(model, config)
    tried: list[tuple[float, int, bool]] = []  # of equal losses, the first rule without a change
    for number, rule in enumerate(rules):
        with as_stored(model, rule), _statistics_restored(model):
            tried.append((_loss(run, held_out), number, False))
            if estimate_statistics(model, run, between):
                tried.append((_loss(run, held_out), number, True))
    _, number, measure = min(tried)
    if measure:
        with as_stored(model, rules[number]):
            estimate_statistics(model, run, batches)
    return rules[number]


@contextlib.contextmanager
def _statistics_restored(model: nn.Module) -> Iterator[None]:
    """Behind this block the model has the buffers that it had before."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])


def fine_tuned(model: nn.Module, config: TrainConfig, settings: Settings, masks: Masks) -> nn.Module:
    """The network after more epochs of its own recipe, masked and quantised in every forward pass.

    Test images are never looked at.

    Raises:
        Interrupted: a stop was requested; nothing is kept.
    """
    from rpg_bench import launch, tracking
    from rpg_bench.display import TuningDisplay
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
    if config.recipe.precision == "bf16":
        use_plain_attention(model)
    storage = storage_of(settings)
    free = dataclasses.replace(storage.free, clip=False)  # a search in every step would cost more than the step
    storage = dataclasses.replace(storage, free=free, private=dataclasses.replace(storage.private, clip=False))
    with tempfile.TemporaryDirectory() as folder, StopRequest() as stop:
        trainer = Trainer(config, model, data, accelerator, Path(folder))
        straight = StraightThrough(model, masks, storage, trainer.optimizer)
        with TuningDisplay().training(trainer.steps, 0) as display:
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
