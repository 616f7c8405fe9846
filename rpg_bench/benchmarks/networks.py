"""The networks that are timed, and one training step of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rpg_bench.backbones import create_backbone
from rpg_bench.config import BackboneConfig
from rpg_bench.sharing import share
from rpg_bench.small_maps import use_matrix_products

CLASSES = 100
IMAGE_SIZE = 32
SMALL, LARGE = 36_000, 2_359_296  # the rings of the issue: 36k, and one kernel of 512 x 512 x 3 x 3
BUDGETS = {"36k": SMALL, "2.36M": LARGE}
RING_OPTIONS: dict[str, dict[str, Any]] = {"": {}, " block=16": {"block": 16}}  # by what they add to a ring's name


def resnet(
    stem: str, device: torch.device, *, depth: int = 18, image_size: int = IMAGE_SIZE, direct: bool = False
) -> nn.Module:
    """An untrained ResNet of CIFAR-100's classes, the same every time, as the training command holds it.

    That is channels last, and on a CPU with matrix products for small maps, unless `direct`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = create_backbone(
            BackboneConfig(name=f"resnet{depth}", stem=stem), classes=CLASSES, channels=3, image_size=image_size
        )
    if device.type == "cpu" and not direct:
        use_matrix_products(network)
    return in_format(network.to(device), torch.channels_last)


def in_format(network: nn.Module, form: torch.memory_format) -> nn.Module:
    """The same network, its kernels in that order of memory."""
    return network.to(memory_format=form)  # type: ignore[call-overload,no-any-return]  # torch has no hint for it


def rings(stem: str, device: torch.device, **network: Any) -> Iterator[tuple[str, nn.Module]]:
    """A network through one ring: both budgets, entry by entry and by blocks. `network`: options of `resnet`."""
    for budget, dof in BUDGETS.items():
        for name, options in RING_OPTIONS.items():
            yield f"rpg_global {budget}{name}", share(resnet(stem, device, **network), "rpg_global", dof, **options)


def random_batch(size: int, device: torch.device, image_size: int = IMAGE_SIZE) -> tuple[Tensor, Tensor]:
    """Images of noise, channels last, and labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 3, image_size, image_size, generator=generator)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    return images.to(device, memory_format=torch.channels_last), labels.to(device)


def training_step(network: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """Return one step of SGD with Nesterov momentum in bfloat16, on the same batch every time."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def step() -> None:
        with autocast(images.device):
            logits = network(images)
        nn.functional.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def autocast(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Products and convolutions in bfloat16."""
    return torch.autocast(device.type, torch.bfloat16)
