"""Narrower networks of the same family: what a standard network does with the same number of weights.

All widths are scaled by one factor k / K, k = 1..K, and rounded to the nearest integer (halves up), at
least 1. K is twice the widest width, so that widths that round up at different factors do not all grow
at once. A ResNet's stem is rounded to an even number, as timm builds it, and a first stage of the same
width with it. A ViT keeps its heads, and K is the width of one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rpg_bench.budget import check_range, parse_dof
from rpg_bench.errors import InvalidInput, unknown
from rpg_bench.sharing.blueprint import Blueprint
from rpg_bench.sharing.slots import total_size

ATTRIBUTE = "narrowed"  # under which a narrower network holds its `Narrowed`


@dataclass(frozen=True)
class Narrowed:
    """What a narrower network is of: the full one's counts, and the widths that are left."""

    slot_scalars: int  # D of the full network
    private: int  # trained outside the slots there
    widths: dict[str, Any]  # of the narrower network, as timm's arguments
    step: int  # k of the factor k / K that they are scaled by

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.widths.items())


@dataclass(frozen=True)
class Family:
    """How the widths of a network are scaled."""

    steps: int  # K
    widths: Callable[[int], dict[str, Any]]  # what is reported, for k = 1..K
    arguments: Callable[[int], dict[str, Any]]  # of timm's model function


def narrow(
    name: str, dof: str | int, *, include: Iterable[str] = (), exclude: Iterable[str] = (), **options: Any
) -> nn.Module:
    """Build timm's network `name`, narrower, so that its slots hold at most `dof` weights.

    `share(narrow("resnet18", "36k"), "none")` is the dense rival of a ring of 36,000 numbers.

    Args:
        name: of a ResNet without groups, a VisionTransformer (DeiT) or a ConvNeXt.
        dof: the budget: 36864, "36k", or a share of the full network's D, "18%".
        include: globs over parameter names to add to the slots, as for `share`.
        exclude: globs over parameter names to take out of the slots.
        options: passed on to `timm.create_model`.

    Returns:
        The widest such network, untrained; `dof_report` of it shows the full network's D.

    Raises:
        InvalidInput: no such network, a family whose widths cannot be scaled, or a budget that even
            the narrowest network exceeds; the range is stated.
    """
    import timm

    if not timm.is_model(name):
        raise unknown("name", name, timm.list_models())
    blueprint = Blueprint(lambda widths: timm.create_model(name, **{**options, **widths}), include, exclude)
    with torch.random.fork_rng(devices=[]):  # the network that is returned draws the first numbers
        total = total_size(blueprint.slots)
    return narrow_to(blueprint, parse_dof(dof, total))


def narrow_to(blueprint: Blueprint, budget: int) -> nn.Module:
    """The widest network of the blueprint whose slots hold at most `budget` weights.

    Raises:
        InvalidInput: the budget is out of range, or the family cannot be narrowed.
    """
    full, total = blueprint.full, total_size(blueprint.slots)
    if budget == total:
        return full
    check_range(budget, narrowest(blueprint), total, "none")
    family = family_of(full)
    low, high = 1, family.steps - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _slot_scalars(blueprint, family, middle) <= budget else (low, middle - 1)
    return narrow_at(blueprint, low)


def narrow_at(blueprint: Blueprint, step: int) -> nn.Module:
    """The network of the blueprint with all widths scaled by `step` / K.

    Raises:
        InvalidInput: the family cannot be narrowed, or has no such step.
    """
    full, family = blueprint.full, family_of(blueprint.full)
    if not 1 <= step < family.steps:
        raise InvalidInput(f"dof: narrowing step {step} is outside 1..{family.steps - 1}")
    network = _build(blueprint, family, step)
    slots = {slot.name for slot in blueprint.slots}
    private = sum(p.numel() for name, p in full.named_parameters() if p.requires_grad and name not in slots)
    setattr(network, ATTRIBUTE, Narrowed(total_size(blueprint.slots), private, family.widths(step), step))
    return network


def narrowest(blueprint: Blueprint) -> int:
    """Scalars in the slots of the narrowest network of the blueprint."""
    return _slot_scalars(blueprint, family_of(blueprint.full), 1)


def family_of(full: nn.Module) -> Family:
    """How a network of timm is narrowed.

    Raises:
        InvalidInput: it cannot be.
    """
    from timm.models.convnext import ConvNeXt
    from timm.models.resnet import ResNet
    from timm.models.vision_transformer import VisionTransformer

    grouped = any(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in full.modules())
    if isinstance(full, ResNet) and not grouped:
        return _resnet(full)
    if isinstance(full, VisionTransformer):
        return _vision_transformer(full)
    if isinstance(full, ConvNeXt):
        return _convnext(full)
    raise InvalidInput(
        f"dof: none below D is a narrower network, and {type(full).__name__}{' with groups' if grouped else ''} cannot "
        "be narrowed here; supported: ResNet without groups, VisionTransformer (ViT, DeiT), ConvNeXt"
    )


def _resnet(full: Any) -> Family:
    stages = [stage for name, stage in full.named_children() if re.fullmatch(r"layer\d+", name)]
    planes = [info["num_chs"] // stage[-1].expansion for info, stage in zip(full.feature_info[1:], stages, strict=True)]
    stem, steps = full.bn1.num_features, 2 * max(planes)
    convolutions = [layer for layer in full.conv1.modules() if isinstance(layer, nn.Conv2d)]
    tiered = len(convolutions) > 1 and convolutions[0].out_channels != convolutions[1].out_channels

    def stem_width(step: int) -> int:
        # timm's single convolution always has 64 channels; its deep stem has 2 x stem_width.
        return max(4 if tiered else 1, _scaled(stem, step, 2 * steps))

    def widths(step: int) -> dict[str, Any]:
        return {"channels": [2 * stem_width(step) if p == stem else _scaled(p, step, steps) for p in planes]}

    def arguments(step: int) -> dict[str, Any]:
        deep = {"stem_type": "deep"} if len(convolutions) == 1 else {}
        return {"channels": tuple(widths(step)["channels"]), "stem_width": stem_width(step), **deep}

    return Family(steps, widths, arguments)


def _vision_transformer(full: Any) -> Family:
    heads = full.blocks[0].attn.num_heads

    def widths(step: int) -> dict[str, Any]:
        return {"embed_dim": heads * step}

    return Family(full.embed_dim // heads, widths, widths)


def _convnext(full: Any) -> Family:
    dims = [info["num_chs"] for info in full.feature_info]

    def widths(step: int) -> dict[str, Any]:
        return {"dims": [_scaled(width, step, 2 * max(dims)) for width in dims]}

    return Family(2 * max(dims), widths, widths)


def _scaled(width: int, step: int, steps: int) -> int:
    """`width` * `step` / `steps`, rounded, at least 1."""
    return max(1, (2 * width * step + steps) // (2 * steps))


def _slot_scalars(blueprint: Blueprint, family: Family, step: int) -> int:
    with torch.random.fork_rng(devices=[]):
        return total_size(blueprint.slots_of(_build(blueprint, family, step)))


def _build(blueprint: Blueprint, family: Family, step: int) -> nn.Module:
    network = blueprint.build(family.arguments(step))
    stem: Any = getattr(blueprint.full, "conv1", None)
    deep: Any = getattr(network, "conv1", None)
    if isinstance(stem, nn.Conv2d) and isinstance(deep, nn.Sequential):  # one convolution, as the full network has
        size: dict[str, Any] = {"kernel_size": stem.kernel_size, "stride": stem.stride, "padding": stem.padding}
        last: Any = deep[-1]
        network.conv1 = nn.Conv2d(stem.in_channels, last.out_channels, bias=False, **size)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return network
