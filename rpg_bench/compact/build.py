"""A network from its recipe, with everything in place but its numbers."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from rpg_bench.backbones import create_backbone
from rpg_bench.compact.recipe import Recipe
from rpg_bench.errors import InvalidInput
from rpg_bench.sharing import Blueprint, share
from rpg_bench.sharing.narrower import narrow_at
from rpg_bench.sharing.slots import total_size


def build(recipe: Recipe, weights: int | None = None) -> nn.Module:
    """The shared network of a recipe, in evaluation mode; its numbers are to be loaded.

    weights: that its slots must have together, so that nothing of their size is made for another network.

    Global random generators are left as they are.

    Raises:
        InvalidInput: the recipe is not one of a network that can be built here.
    """
    sharing = recipe.sharing
    assert sharing.seed is not None

    def network(widths: object) -> nn.Module:
        assert isinstance(widths, dict)
        options = {**recipe.backbone.options, **widths}
        backbone = dataclasses.replace(recipe.backbone, options=options)
        return create_backbone(
            backbone, classes=len(recipe.classes), channels=recipe.channels, image_size=recipe.image_size
        )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sharing.seed)
        blueprint = Blueprint(network, sharing.include, sharing.exclude)
        model = blueprint.full if recipe.step is None else narrow_at(blueprint, recipe.step)
        found = total_size(blueprint.slots_of(model))
        if weights not in (None, found):
            raise InvalidInput(f"file: it says slots of {weights:,} weights, what its recipe builds here has {found:,}")
        share(
            model,
            sharing.name,
            recipe.dof,
            seed=sharing.seed,
            include=sharing.include,
            exclude=sharing.exclude,
            empty=True,
            **sharing.options,
        )
    return model.eval()
