"""Whole training loops, each a contestant that takes a number of steps: the project's own, and a plain one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from rpg_bench.benchmarks.networks import in_format
from rpg_bench.benchmarks.synthetic import MEAN, PADDING, STD, TEST_IMAGES, pixels
from rpg_bench.benchmarks.timing import Contestant
from rpg_bench.config import OptimizerConfig, RecipeConfig, ScheduleConfig, TrackingConfig, TrainConfig
from rpg_bench.datasets import Data
from rpg_bench.display import Display
from rpg_bench.engine import Trainer
from rpg_bench.launch import accelerator
from rpg_bench.signals import StopRequest
from rpg_bench.tracking import Tracker

WORKERS = 2


def whole_trainer(network: nn.Module, data: Data, batch_size: int, device: torch.device, directory: Path) -> Contestant:
    """Each call is one epoch as the command trains it: augmentation, sums, checks, evaluation, checkpoint."""
    config = TrainConfig(
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=5e-4, options={"nesterov": True}),
        recipe=RecipeConfig(
            epochs=1, batch_size=batch_size, schedule=ScheduleConfig(), precision="bf16", channels_last=True
        ),
        tracking=TrackingConfig(mode="disabled"),
        device=device.type,
    )
    directory.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, network, data, accelerator(config), directory)
    display, tracker, stop = Display(quiet=True), Tracker(config.tracking, directory, "", None), StopRequest()

    def epoch() -> None:
        config.recipe.epochs = trainer.position.epoch + 1
        trainer.fit(display, tracker, stop)

    return epoch


class PlainImages(Dataset[tuple[Tensor, int]]):
    """The same images, decoded to PIL and transformed one by one, as is usual."""

    def __init__(self, count: int, *, augment: bool) -> None:
        from torchvision import transforms

        images, self.labels = pixels(count)
        self.images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        augmentation = [
            transforms.RandomCrop(images.shape[-1], padding=PADDING),
            transforms.RandomHorizontalFlip(),
        ]
        self.transform = transforms.Compose(
            [*(augmentation if augment else []), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[number])), int(self.labels[number])


def plain_loop(network: nn.Module, batch_size: int, steps: int, device: torch.device, directory: Path) -> Contestant:
    """Each call is an epoch of `steps` steps in float32 with images from worker processes, as RPG's own code has it.

    Like the epoch of `whole_trainer`, it ends with an evaluation and a checkpoint.
    """
    in_format(network.to(device), torch.contiguous_format)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)

    def loader(count: int, *, train: bool) -> DataLoader[tuple[Tensor, int]]:
        return DataLoader(
            PlainImages(count, augment=train),
            batch_size,
            shuffle=train,
            num_workers=WORKERS,
            pin_memory=device.type == "cuda",
            persistent_workers=True,  # their start is not counted
        )

    training, evaluation = loader(batch_size * steps, train=True), loader(TEST_IMAGES, train=False)

    def answers(images: Tensor, labels: Tensor) -> tuple[Tensor, float, float]:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        logits = network(images)
        loss = nn.functional.cross_entropy(logits, labels)
        return loss, loss.item(), (logits.argmax(1) == labels).sum().item()

    def epoch() -> None:
        losses = right = 0.0
        network.train()
        for images, labels in training:
            loss, value, hits = answers(images, labels)
            losses, right = losses + value, right + hits
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        network.eval()
        with torch.no_grad():
            for images, labels in evaluation:
                _, value, hits = answers(images, labels)
                losses, right = losses + value, right + hits
        torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict()}, directory / "checkpoint.pt")

    return epoch
