"""Networks from timm, fitted to the data set's images."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from rpg_bench.config import BackboneConfig, TrainConfig
from rpg_bench.errors import InvalidInput, unknown
from rpg_bench.sharing import Blueprint
from rpg_bench.small_maps import SmallMapConv2d

LOADING = ("checkpoint_path", "cache_dir")  # options of timm.create_model that read files, besides pretrained...


def blueprint(config: TrainConfig, *, classes: int, channels: int, image_size: int) -> Blueprint:
    """What `create_backbone` builds for a run, at its full size or narrower, and its slots."""

    def build(widths: Mapping[str, Any]) -> nn.Module:
        backbone = dataclasses.replace(config.backbone, options={**config.backbone.options, **widths})
        return create_backbone(
            backbone, classes=classes, channels=channels, image_size=image_size, recipe_stem=config.recipe.stem
        )

    return Blueprint(build, config.sharing.include, config.sharing.exclude)


def create_backbone(
    backbone: BackboneConfig, *, classes: int, channels: int, image_size: int, recipe_stem: str | None = None
) -> nn.Module:
    """Return an untrained network for square images of `image_size` pixels.

    Raises:
        InvalidInput: unknown name, or an option that this network does not have.
    """
    import timm  # slow to import, and not needed to check a configuration

    if not timm.is_model(backbone.name):  # nor hf-hub:NAME or local-dir:PATH, which fetch and read files
        raise unknown("backbone.name", backbone.name, timm.list_models())
    for option in backbone.options:
        if option in LOADING or option.startswith("pretrained"):
            raise InvalidInput(f"backbone.options: {option!r} is not allowed; networks begin untrained, from no file")
    sizes = _size_arguments(backbone, image_size)
    model = _first_accepted(backbone, {"num_classes": classes, "in_chans": channels, **backbone.options}, sizes)
    stem = stem_for(backbone.stem, recipe_stem, image_size, is_resnet=_is_resnet(model), name=backbone.name)
    if stem in ("half", "cifar"):
        _replace_stem(model, channels, stride=2 if stem == "half" else 1)
    return model


def stem_for(asked: str | None, recipe: str | None, image_size: int, *, is_resnet: bool, name: str) -> str | None:
    """Decide the stem: the one asked for, else the recipe's, else by image size. None if not a ResNet.

    Raises:
        InvalidInput: a stem was asked for and the network is no ResNet.
    """
    if not is_resnet:
        if asked is not None:
            raise InvalidInput(f"backbone.stem: {asked!r} applies to ResNets only; {name} has its own stem")
        return None
    return asked or recipe or ("imagenet" if image_size > 64 else "cifar")


def default_patch_size(image_size: int) -> int:
    """An eighth of the image, at most 16, and a divisor of it: 4 at 32, 16 at 224.

    >>> [default_patch_size(size) for size in (16, 32, 64, 224)]
    [2, 4, 8, 16]
    """
    largest = max(1, min(16, image_size // 8))
    return next(size for size in range(largest, 0, -1) if image_size % size == 0)


def idle_taps(model: nn.Module, channels: int, image_size: int, field: str = "dataset.image_size") -> tuple[int, int]:
    """Count the scalars of 2d convolution kernels that never meet data at this image size.

    A tap is idle if it falls on padding at every output position. Any comparison of DoF is
    distorted where many are (design, section 4).

    Returns:
        Idle scalars, and scalars of all kernels.

    Raises:
        InvalidInput: the network cannot take images of this size, which `field` asked for.
    """
    idle = scalars = 0
    for _, layer, height, width in _convolutions(model, channels, image_size, field):
        taps = math.prod(layer.kernel_size)
        pairs = layer.out_channels * layer.in_channels // layer.groups
        busy = _busy_taps(layer, 0, height) * _busy_taps(layer, 1, width)
        idle, scalars = idle + pairs * (taps - busy), scalars + pairs * taps
    return idle, scalars


def undefined_in_cpu_bf16(
    model: nn.Module, channels: int, image_size: int, field: str = "dataset.image_size"
) -> list[str]:
    """Name the convolutions whose weight gradient oneDNN leaves partly unset in bfloat16.

    Seen with torch 2.14 on a CPU with AVX-512 BF16: a strided kernel over a single pixel, where the
    idle taps' gradient is whatever was in memory, at times NaN.
    """
    return [
        name
        for name, layer, height, width in _convolutions(model, channels, image_size, field)
        if max(height, width) == 1 and max(layer.stride) > 1 and max(layer.kernel_size) > 1
        if not isinstance(layer, SmallMapConv2d)  # does not go through oneDNN's convolution
    ]


def _convolutions(
    model: nn.Module, channels: int, image_size: int, field: str
) -> list[tuple[str, nn.Conv2d, int, int]]:
    """Every 2d convolution that an image reaches, with its name and its input's height and width."""
    found: list[tuple[str, nn.Conv2d, int, int]] = []

    def watch(name: str, layer: nn.Conv2d) -> RemovableHandle:
        return layer.register_forward_hook(lambda _, inputs, __: found.append((name, layer, *inputs[0].shape[2:])))

    hooks = [watch(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    training = model.training
    reference = next(model.parameters())
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, channels, image_size, image_size, device=reference.device))
    except Exception as error:  # networks fail at small images each in their own way
        raise InvalidInput(
            f"{field}: the network cannot take {image_size}x{image_size} pixels: {_one_line(error)}"
        ) from None
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return found


def _busy_taps(layer: nn.Conv2d, axis: int, size: int) -> int:
    """Taps of one axis that fall inside an input of `size` pixels at some output position."""
    kernel, stride, dilation = layer.kernel_size[axis], layer.stride[axis], layer.dilation[axis]
    padding = layer._reversed_padding_repeated_twice[2 * (1 - axis)]  # "same" padding spelled out
    outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    starts = [position * stride - padding for position in range(max(outputs, 1))]
    return sum(any(0 <= start + tap * dilation < size for start in starts) for tap in range(kernel))


def _fixed_size(name: str) -> bool:
    import timm

    try:
        settings = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag that the network does not have
        raise InvalidInput(f"backbone.name: {_one_line(error)}") from None
    return bool(settings and settings.fixed_input_size)


def _size_arguments(backbone: BackboneConfig, image_size: int) -> list[dict[str, int]]:
    """What to tell the network of its images, in the order to be tried. The last is what every network takes.

    Networks that are built for one image size take it as an argument; others refuse it.
    """
    asked = backbone.patch_size
    if not _fixed_size(backbone.name):
        if asked is not None:
            raise InvalidInput(f"backbone.patch_size: {backbone.name} has no patches; leave it out")
        return [{}]
    if asked is not None and (asked < 1 or image_size % asked):
        nearest = min((p for p in range(1, image_size + 1) if image_size % p == 0), key=lambda p: abs(p - asked))
        raise InvalidInput(
            f"backbone.patch_size: {asked} does not divide images of {image_size} pixels; nearest: {nearest}"
        )
    patch = default_patch_size(image_size) if asked is None else asked
    with_patches = {"img_size": image_size, "patch_size": patch}
    return [with_patches] if asked is not None else [with_patches, {"img_size": image_size}, {}]


def _first_accepted(backbone: BackboneConfig, arguments: dict[str, Any], sizes: list[dict[str, int]]) -> nn.Module:
    import timm

    for size in sizes:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model: nn.Module = timm.create_model(backbone.name, **{**size, **arguments})
            return model
        except TypeError as error:  # an argument that the network does not have
            refusal = _one_line(error)
        except (AssertionError, ValueError, RuntimeError, ZeroDivisionError) as error:
            raise InvalidInput(f"backbone: timm cannot build {backbone.name} so: {_one_line(error)}") from None
    field = "patch_size" if "patch_size" in refusal else "options"
    raise InvalidInput(f"backbone.{field}: {backbone.name} refuses them: {refusal}")


def _one_line(error: Exception | None) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _is_resnet(model: nn.Module) -> bool:
    from timm.models.resnet import ResNet

    return isinstance(model, ResNet)


def _replace_stem(model: nn.Module, channels: int, stride: int) -> None:
    """Replace a ResNet's 7x7 stride-2 convolution and pooling by one 3x3 convolution."""
    replaced = [layer for layer in model.get_submodule("conv1").modules() if isinstance(layer, nn.Conv2d)]
    width = replaced[-1].out_channels  # a deep stem has three convolutions
    stem = nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    model.conv1 = stem
    model.maxpool = nn.Identity()
