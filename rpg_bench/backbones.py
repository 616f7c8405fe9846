"""Networks from timm, fitted to the data set's images."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import nn

from rpg_bench.config import BackboneConfig
from rpg_bench.errors import InvalidInput, unknown


def create_backbone(
    backbone: BackboneConfig, *, classes: int, channels: int, image_size: int, recipe_stem: str | None = None
) -> nn.Module:
    """Return an untrained network for square images of `image_size` pixels.

    Raises:
        InvalidInput: unknown name, or an option that this network does not have.
    """
    import timm  # slow to import, and not needed to check a configuration

    if not timm.is_model(backbone.name):
        raise unknown("backbone.name", backbone.name, timm.list_models())
    arguments = {"num_classes": classes, "in_chans": channels, **backbone.options}
    if backbone.patch_size is not None:
        sizes = [{"img_size": image_size, "patch_size": backbone.patch_size}]
    else:
        # Networks that are built for one image size take it as an argument; others refuse it.
        sizes = [
            {"img_size": image_size, "patch_size": default_patch_size(image_size)},
            {"img_size": image_size},
            {},
        ]
        if not _fixed_size(backbone.name):
            sizes.reverse()
    model = _first_accepted(backbone, arguments, sizes)
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


def idle_taps(model: nn.Module, channels: int, image_size: int) -> tuple[int, int]:
    """Count the scalars of 2d convolution kernels that never meet data at this image size.

    A tap is idle if it falls on padding at every output position. Any comparison of DoF is
    distorted where many are (design, section 4).

    Returns:
        Idle scalars, and scalars of all kernels.
    """
    counts = {"idle": 0, "all": 0}

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        busy = 1
        for axis in (0, 1):
            padding = layer.padding[axis] if not isinstance(layer.padding, str) else 0
            busy *= _busy_taps(
                inputs[0].shape[2 + axis],
                layer.kernel_size[axis],
                layer.stride[axis],
                int(padding),
                layer.dilation[axis],
            )
        pairs = layer.out_channels * layer.in_channels // layer.groups
        counts["all"] += pairs * math.prod(layer.kernel_size)
        counts["idle"] += pairs * (math.prod(layer.kernel_size) - busy)

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d)]
    training = model.training
    reference = next(model.parameters())
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, channels, image_size, image_size, device=reference.device))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return counts["idle"], counts["all"]


def _busy_taps(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Taps of one axis that fall inside an input of `size` pixels at some output position."""
    outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    starts = [position * stride - padding for position in range(max(outputs, 1))]
    return sum(any(0 <= start + tap * dilation < size for start in starts) for tap in range(kernel))


def _fixed_size(name: str) -> bool:
    import timm

    settings = timm.get_pretrained_cfg(name)
    return bool(settings and settings.fixed_input_size)


def _first_accepted(backbone: BackboneConfig, arguments: dict[str, Any], sizes: list[dict[str, int]]) -> nn.Module:
    import timm

    refusal: Exception | None = None
    for size in sizes:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model: nn.Module = timm.create_model(backbone.name, **{**size, **arguments})
            return model
        except TypeError as error:  # an argument that the network does not have
            refusal = error
        except (AssertionError, ValueError, RuntimeError) as error:
            raise InvalidInput(f"backbone: timm cannot build {backbone.name} so: {_one_line(error)}") from None
    if backbone.patch_size is not None and "patch_size" in str(refusal):
        raise InvalidInput(f"backbone.patch_size: {backbone.name} has no patches; leave it out")
    raise InvalidInput(f"backbone.options: {backbone.name} refuses them: {_one_line(refusal)}")


def _one_line(error: Exception | None) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _is_resnet(model: nn.Module) -> bool:
    from timm.models.resnet import ResNet

    return isinstance(model, ResNet)


def _replace_stem(model: nn.Module, channels: int, stride: int) -> None:
    """Replace a ResNet's 7x7 stride-2 convolution and pooling by one 3x3 convolution."""
    norm = model.get_submodule("bn1")
    assert isinstance(norm, nn.BatchNorm2d)
    stem = nn.Conv2d(channels, norm.num_features, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    model.conv1 = stem
    model.maxpool = nn.Identity()
