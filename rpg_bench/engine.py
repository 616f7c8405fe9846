"""The training loop: resumable at any optimizer step, on one device or several."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn

from rpg_bench import checkpoint
from rpg_bench.config import TrainConfig
from rpg_bench.datasets import Data
from rpg_bench.display import Display
from rpg_bench.errors import Failed, InvalidInput
from rpg_bench.lease import Lease, Lost
from rpg_bench.optim import (
    AveragedModel,
    create_optimizer,
    parameter_groups,
    peak_rate,
    rate_factor,
    set_rate,
)
from rpg_bench.sharing import sharing_of
from rpg_bench.signals import Interrupted, StopRequest
from rpg_bench.tracking import Tracker

PRECISION_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Diverged(Failed):
    """The loss is not finite."""


@dataclass
class Position:
    """Where a run is; with the tensors, all that the next step depends on."""

    epoch: int = 0  # finished and evaluated
    batch: int = 0  # batches of the current epoch that were trained on
    step: int = 0  # optimizer steps
    train_seconds: float = 0.0
    trained_images: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)  # step and commit of each start


class Trainer:
    """Trains `model` on `data` as the recipe says."""

    def __init__(
        self, config: TrainConfig, model: nn.Module, data: Data, accelerator: Accelerator, directory: Path
    ) -> None:
        """Build what training needs; nothing is written before `fit`."""
        recipe = config.recipe
        self.config, self.data, self.accelerator, self.directory = config, data, accelerator, directory
        self.device = accelerator.device
        self.memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.plain: nn.Module = model.to(self.device).to(memory_format=self.memory_format)  # type: ignore[call-overload]
        self.sharing = sharing_of(self.plain)
        self.groups = parameter_groups(self.plain, config.optimizer.weight_decay, recipe.no_decay)
        self.optimizer = create_optimizer(config.optimizer, self.groups, recipe.batch_size)
        self.average = None
        if recipe.ema_decay is not None:
            self.average = AveragedModel(copy.deepcopy(self.plain), recipe.ema_decay)
        self.model: nn.Module = accelerator.prepare_model(self.plain)
        self.loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        self.steps_per_epoch = len(data.train) // recipe.accumulate
        if self.steps_per_epoch == 0:
            raise InvalidInput(
                f"recipe.batch_size: {recipe.batch_size} is larger than the {data.train.samples} training images"
            )
        self.rate = peak_rate(config.optimizer, recipe.batch_size)
        self.factor = rate_factor(recipe.schedule, recipe.epochs, self.steps_per_epoch)
        self.position = Position()
        self.tracking_id: str | None = None
        self.report: Callable[[], None] = lambda: None  # told behind each epoch and checkpoint, on the main process
        # Sums over the current epoch's images: loss, right answers, images.
        self.sums = self._zeros(3)
        self._unchecked: tuple[int, Tensor] | None = None
        self._saved_at = time.monotonic()
        self._evaluation_seconds = 0.0

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.config.recipe.epochs * self.steps_per_epoch

    def fit(
        self, display: Display, tracker: Tracker, stop: StopRequest, lease: Lease | None = None
    ) -> list[dict[str, Any]]:
        """Train to the end of the last epoch and return the history.

        Raises:
            Interrupted: a stop was requested; a checkpoint has been written.
            Lost: another process took the lease over; nothing more has been written.
            Diverged: the loss is not finite.
        """
        for row in self.position.history:
            tracker.log(row, row["epoch"])
        while self.position.epoch < self.config.recipe.epochs:
            self._train_epoch(display, tracker, stop, lease)
            if self._save_is_due(self._evaluation_seconds):
                self.save()
            row = self._close_epoch()
            tracker.log(row, row["epoch"])
            display.epoch(row)
            self.report()
            last = self.position.epoch == self.config.recipe.epochs
            if self._save_is_due() or last or self.best_step == self.position.step:
                self.save()
        return self.position.history

    @property
    def best_step(self) -> int | None:
        """The step behind the first epoch of the highest top-1 on the evaluation images; None before any.

        Its checkpoint is kept to be looked at, as where training overfits in the end. It was chosen on the images
        that it is measured on, so that its top-1 is too high: no result, and in no table. Those have the last epoch's.
        """
        best = max(self.position.history, key=lambda row: float(row["test_top1"]), default=None)
        return None if best is None else int(best["epoch"]) * self.steps_per_epoch

    def _train_epoch(self, display: Display, tracker: Tracker, stop: StopRequest, lease: Lease | None) -> None:
        recipe, position = self.config.recipe, self.position
        self.model.train()
        batches = self.data.train.epoch(position.epoch, start=position.batch)
        while position.batch < self.steps_per_epoch * recipe.accumulate:
            started = time.monotonic()
            self._check_loss()
            self._step(batches)
            position.train_seconds += time.monotonic() - started
            display.step(position.step, self._running, self._images_per_second, self._rate_at(position.step - 1))
            tracker.begin()
            lost = lease is not None and lease.lost
            if self._agreed(stop.requested or lost):
                if self._agreed(lost):
                    raise Lost(f"another process has taken over run {self.directory.name}; it goes on there")
                self._check_loss()
                self.save()
                raise Interrupted(stop.signal, position.epoch + 1, position.step)
            if self._save_is_due():
                self.save()
        self._check_loss()

    def _step(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        recipe, position = self.config.recipe, self.position
        set_rate(self.optimizer, self._rate_at(position.step))
        self.sharing.before_step(position.step, self.steps)
        for part in range(recipe.accumulate):
            images, labels = next(batches)
            images = self._resized(images).to(memory_format=self.memory_format)
            last = part + 1 == recipe.accumulate
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                with self._autocast():
                    logits = self.model(images)
                loss = self.loss(logits.float(), labels)
                self.scaler.scale(loss / recipe.accumulate).backward()
            with torch.no_grad():
                answers = labels.argmax(1) if labels.is_floating_point() else labels
                right = (logits.argmax(1) == answers).sum()
                self.sums += torch.stack([loss * len(labels), right, right.new_tensor(len(labels))])
            position.batch += 1
            position.trained_images += len(labels) * self.accelerator.num_processes
        if recipe.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.plain.parameters(), recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        average = None if self.average is None else sharing_of(self.average.model)
        self.sharing.after_step(position.step, self.steps, self.optimizer, average)
        if self.average is not None:
            self.average.update(self.plain)
        self._unchecked = (position.step, self.sums[0].clone())  # of all parts of the batch
        position.step += 1

    def _resized(self, images: Tensor) -> Tensor:
        """Training images at the side that is due: small ones first cost less and lose little."""
        sizes = self.config.recipe.train_sizes
        if not sizes:
            return images
        side = sizes[self.position.step * len(sizes) // self.steps]
        if side == images.shape[-1]:
            return images
        return nn.functional.interpolate(images, (side, side), mode="bilinear", antialias=True)

    def _close_epoch(self) -> dict[str, Any]:
        """Evaluate, and turn the epoch's sums into a row of the history."""
        position = self.position
        train_loss, train_top1, _ = self._means(self.sums)
        row: dict[str, Any] = {
            "epoch": position.epoch + 1,
            "lr": self._rate_at(position.step - 1),
            "train_loss": train_loss,
            "train_top1": train_top1,
            **self.evaluate(),
            "seconds": round(position.train_seconds, 2),
            "images_per_second": round(self._images_per_second(), 1),
        }
        if not math.isfinite(row["test_loss"]):
            raise Diverged(
                f"the {self.data.evaluated_on} loss is {row['test_loss']} after step {position.step} (epoch "
                f"{row['epoch']}, learning rate {row['lr']:.3g}); try a smaller optimizer.lr or recipe.clip_norm=1"
            )
        position.history.append(row)
        position.epoch += 1
        position.batch = 0
        self.sums = self._zeros(3)
        return row

    def evaluate(self) -> dict[str, float]:
        """Return loss, top-1 and top-5 (percent) on the evaluation images, exact over all devices."""
        started = time.monotonic()
        loss, top1, top5 = self.measure(self.data.test.epoch(0))
        self._evaluation_seconds = time.monotonic() - started
        return {
            "test_loss": loss,
            "test_top1": top1,
            **({"test_top5": top5} if len(self.data.classes) > 5 else {}),
        }

    def measure(self, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float, float]:
        """Loss, top-1 and top-5 (percent) of the evaluated network over every process's batches, each with int64
        labels."""
        model = self.average.model if self.average is not None else self.plain
        self._share_statistics(model)
        model.eval()
        best = min(5, len(self.data.classes))
        sums = self._zeros(4)  # loss, top-1, images, top-5
        with torch.inference_mode(), self._autocast():
            for images, labels in batches:
                logits = model(images.to(memory_format=self.memory_format)).float()
                loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
                hits = logits.topk(best).indices == labels[:, None]
                sums += torch.stack(
                    [loss, hits[:, 0].sum(), hits.new_tensor(len(labels), dtype=torch.long), hits.sum()]
                )
        return self._means(sums)

    def _share_statistics(self, model: nn.Module) -> None:
        """Give every process the main one's batch norm statistics: they are what is saved."""
        if self.accelerator.num_processes > 1:
            saved = model.state_dict()
            for name, buffer in model.named_buffers():
                if name in saved:
                    distributed.broadcast(buffer, 0)

    def save(self) -> None:
        """Write a checkpoint, on the main process; every process calls this at the same step.

        Raises:
            InvalidInput: it cannot be written; Failed on the other processes.
        """
        self._saved_at = time.monotonic()
        sums = self.accelerator.reduce(self.sums, "sum")  # of all processes; not in place
        failure = None
        if self.accelerator.is_main_process:
            try:
                checkpoint.save(self.directory, self.position.step, self._state(sums), self.best_step)
            except OSError as error:
                failure = InvalidInput(f"runs_dir: no checkpoint can be written to {self.directory}: {error.strerror}")
        if self._agreed(failure is not None):
            raise failure or Failed("the main process could not write a checkpoint")
        self.report()

    def _state(self, sums: Tensor) -> dict[str, Any]:
        return {
            "position": asdict(self.position),
            "sums": sums.cpu(),
            "model": self.plain.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.model.state_dict(),
            "random": checkpoint.random_state(),
            "tracking_id": self.tracking_id,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `save` wrote."""
        self.plain.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.model.load_state_dict(state["average"])
        # Those of all processes together.
        self.sums = state["sums"].to(self.device) if self.accelerator.is_main_process else self._zeros(3)
        self.position = Position(**state["position"])
        self.tracking_id = state["tracking_id"]
        checkpoint.restore_random_state(state["random"])

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        kind = PRECISION_TYPES[self.config.recipe.precision]
        return torch.autocast(self.device.type, kind, enabled=kind != torch.float32)

    def _check_loss(self) -> None:
        """Look at the last step's loss. Late, so that a GPU is not kept waiting within the step."""
        if self._unchecked is None:
            return
        step, loss = self._unchecked
        self._unchecked = None
        value = loss.item()
        if self._agreed(not math.isfinite(value)):
            raise Diverged(
                f"the loss is {value} at step {step} (epoch {self.position.epoch + 1}, learning rate "
                f"{self._rate_at(step):.3g}); try a smaller optimizer.lr, recipe.clip_norm=1, or recipe.precision=fp32"
            )

    def _save_is_due(self, more: float = 0.0) -> bool:
        return self._agreed(time.monotonic() - self._saved_at + more > self.config.checkpoint_seconds)

    def _agreed(self, flag: bool) -> bool:
        """Whether any process has the flag set: all must stop at the same step."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.device), "sum") > 0)

    def _rate_at(self, step: int) -> float:
        return self.rate * self.factor(step)

    def _running(self) -> tuple[float, float]:
        """Training loss and top-1 (percent) of the current epoch so far, on this process."""
        loss, right, images = self.sums.tolist()
        return loss / max(1, images), 100 * right / max(1, images)

    def _images_per_second(self) -> float:
        return self.position.trained_images / max(1e-9, self.position.train_seconds)

    def _means(self, sums: Tensor) -> tuple[float, float, float]:
        """Loss, top-1 and top-5 (percent; 0 without) from sums over all processes."""
        total = self.accelerator.reduce(sums, "sum").tolist()
        images = max(1, total[2])
        return total[0] / images, 100 * total[1] / images, 100 * total[3] / images if len(total) > 3 else 0.0

    def _zeros(self, size: int) -> Tensor:
        # MPS has no float64.
        precise = torch.float32 if self.device.type == "mps" else torch.float64
        return torch.zeros(size, dtype=precise, device=self.device)
