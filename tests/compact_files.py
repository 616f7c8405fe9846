"""Small networks as compact files, for the tests."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from rpg_bench.compact import container
from rpg_bench.compact.build import build
from rpg_bench.compact.recipe import Recipe
from rpg_bench.compact.write import Storage, compact
from rpg_bench.config import BackboneConfig, SharingConfig

CLASSES = tuple(f"class {number}" for number in range(10))


def recipe(
    scheme: str = "rpg_global", dof: int | str | None = "5k", name: str = "test_resnet", **options: Any
) -> Recipe:
    """Of a network for digits."""
    stem = "cifar" if name.endswith("resnet") else None
    return Recipe(
        backbone=BackboneConfig(name, stem=stem),
        sharing=SharingConfig(scheme, seed=3, options=options),
        dof=dof,
        step=None,
        data="digits",
        classes=CLASSES,
        channels=1,
        image_size=16,
        mean=(0.3,),
        std=(0.4,),
        run="0123456789ab",
    )


def trained(made: Recipe) -> nn.Module:
    """The network of a recipe with numbers as after training, statistics included."""
    model = build(made)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.1)
    return model.eval()


def inputs(count: int = 8) -> Tensor:
    return torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(2))


@functools.cache
def small_file() -> bytes:
    """A ring of 5,000 numbers."""
    made = recipe()
    return compact(trained(made), made, Storage()).content


def resealed(description: dict[str, Any], tensors: dict[str, Any]) -> bytes:
    """A file with a right checksum, whatever it says."""
    return container.packed({**description, "sha256": "0" * 64}, tensors)
