"""Convolutions over small feature maps on a CPU, as matrix products without the padding.

A direct convolution kernel has little to run over on maps of 4x4 or 2x2 pixels, the last stages of a
ResNet at 32x32: oneDNN spends half of ResNet18's training step there. As products of patches and
kernels (im2col; Chellapilla et al. 2006) the same layers take less time. Of what a 3x3 kernel reads
around a map of 4x4 pixels 31 % is padding, around 2x2 it is 56 %: positions that meet the same taps
within the map share a product, which multiplies by nothing else.
(`python -m rpg_bench.benchmarks small_maps`; results/benchmarks/small_maps.json).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LARGEST_MAP = 16  # output pixels up to which the product is faster than the direct kernel


def use_matrix_products(model: nn.Module) -> None:
    """Let every 2d convolution of `model` choose the matrix product where it is faster. In place.

    Parameters, their names and their start stay as they are; results agree up to rounding.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d and _is_plain(module):
            module.__class__ = SmallMapConv2d


def _is_plain(layer: nn.Conv2d) -> bool:
    return (
        layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


class SmallMapConv2d(nn.Conv2d):
    """A convolution that becomes a matrix product on a CPU where its output is a small map."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Conv2d`: (n, in, h, w) to (n, out, h', w')."""
        if torch.compiler.is_compiling() or input.device.type != "cpu" or input.dim() != 4:
            return super().forward(input)
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        height, width = self._output_size(input)
        if not 1 <= height * width <= LARGEST_MAP or kind not in (torch.float32, torch.bfloat16):
            return super().forward(input)
        output: Tensor = _PatchProduct.apply(input.to(kind), self.weight, self.stride, self.padding)
        return output if self.bias is None else output + self.bias.to(kind)[:, None, None]

    def _output_size(self, images: Tensor) -> tuple[int, int]:
        return self._outputs(images.shape[2], 0), self._outputs(images.shape[3], 1)

    def _outputs(self, size: int, axis: int) -> int:
        padding = self.padding[axis]
        assert isinstance(padding, int)
        return max(0, (size + 2 * padding - self.kernel_size[axis]) // self.stride[axis] + 1)


@dataclass(frozen=True)
class _Group:
    """Positions along one axis that have their partners in common: outputs by taps, pixels by taps, taps by outputs."""

    positions: slice
    partners: slice
    counts: tuple[int, int]  # of positions and of partners
    first: int  # what the first position finds at its first partner: a pixel, an output, a pixel
    steps: tuple[int, int]  # to what the next position finds there, and to what it finds at its next partner


@dataclass(frozen=True)
class _Axis:
    """How a kernel passes over one axis of a map, without the padding."""

    outputs: int
    by_output: tuple[_Group, ...]  # the taps of each output: forward
    by_pixel: tuple[_Group, ...]  # the taps of each pixel, pixels and outputs counted from the far end: backward
    by_tap: tuple[_Group, ...]  # the outputs of each tap: the weight's gradient


@lru_cache(maxsize=1024)
def _axis(pixels: int, taps: int, stride: int, padding: int) -> _Axis:
    outputs = (pixels + 2 * padding - taps) // stride + 1
    products = [
        (output, tap, output * stride + tap - padding)
        for output in range(outputs)
        for tap in range(taps)
        if 0 <= output * stride + tap - padding < pixels
    ]
    return _Axis(
        outputs,
        _grouped(products),
        _grouped((pixels - 1 - pixel, tap, outputs - 1 - output) for output, tap, pixel in products),
        _grouped((tap, output, pixel) for output, tap, pixel in products),
    )


def _grouped(products: Iterable[tuple[int, int, int]]) -> tuple[_Group, ...]:
    """Group the positions of (position, partner, found there) by their partners."""
    found: dict[int, dict[int, int]] = defaultdict(dict)
    for position, partner, there in sorted(products):
        found[position][partner] = there
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for position, by_partner in found.items():
        alike[tuple(by_partner)].append(position)
    groups = []
    for partners, positions in alike.items():
        first = found[positions[0]][partners[0]]
        steps = (
            found[positions[1]][partners[0]] - first if len(positions) > 1 else 0,
            found[positions[0]][partners[1]] - first if len(partners) > 1 else 0,
        )
        counts = (len(positions), len(partners))
        groups.append(_Group(_evenly(positions), _evenly(partners), counts, first, steps))
    return tuple(groups)


def _evenly(numbers: Sequence[int]) -> slice:
    """The slice of these numbers, which rise in equal steps."""
    return slice(numbers[0], numbers[-1] + 1, numbers[1] - numbers[0] if len(numbers) > 1 else 1)


class _PatchProduct(torch.autograd.Function):
    """A convolution; within it maps are (n, h, w, channels), so that the pixels of a row are contiguous."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        pixels = images.permute(0, 2, 3, 1).contiguous()
        kernels = weight.to(images.dtype).permute(0, 2, 3, 1).contiguous()
        rows, columns = (_axis(pixels.shape[1 + a], kernels.shape[1 + a], stride[a], padding[a]) for a in (0, 1))
        ctx.save_for_backward(pixels, kernels)
        ctx.axes, ctx.weight_dtype = (rows, columns), weight.dtype
        outputs = pixels.new_zeros(len(pixels), rows.outputs, columns.outputs, len(kernels))
        for row, column in product(rows.by_output, columns.by_output):
            matrix = kernels[:, row.partners, column.partners].flatten(1)
            outputs[:, row.positions, column.positions] = _times(_patches(pixels, row, column), matrix.t())
        return outputs.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]  # torch has no hint
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        pixels, kernels = ctx.saved_tensors
        rows, columns = ctx.axes
        taps = kernels.shape[1] * kernels.shape[2]
        outputs = gradient.permute(0, 2, 3, 1).contiguous()
        for_images = for_weight = None
        if ctx.needs_input_grad[0]:
            turned, by_tap = outputs.flip(1, 2), kernels.permute(1, 2, 0, 3)
            for_images = torch.zeros_like(pixels)
            for row, column in product(rows.by_pixel, columns.by_pixel):
                matrix = by_tap[row.partners, column.partners].flatten(0, 2)
                for_images[:, row.positions, column.positions] = _times(_patches(turned, row, column), matrix)
            for_images = for_images.flip(1, 2).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            for_weight = torch.empty_like(kernels, dtype=ctx.weight_dtype)
            if sum(row.counts[0] * column.counts[0] for row, column in product(rows.by_tap, columns.by_tap)) < taps:
                for_weight.zero_()  # taps that meet padding only
            for row, column in product(rows.by_tap, columns.by_tap):
                of_outputs = outputs[:, row.partners, column.partners].flatten(0, 2)
                of_pixels = _patches(pixels, row, column).transpose(1, 3).transpose(2, 4)
                part = of_outputs.t() @ of_pixels.flatten(3).flatten(0, 2)
                for_weight[:, row.positions, column.positions] = part.view(len(kernels), *of_pixels.shape[3:])
            for_weight = for_weight.permute(0, 3, 1, 2)
        return for_images, for_weight, None, None


def _patches(maps: Tensor, row: _Group, column: _Group) -> Tensor:
    """What positions find at their partners: (n, positions, positions, partners, partners, channels), a view."""
    image, down, across, channel = maps.stride()
    return maps.as_strided(
        (len(maps), row.counts[0], column.counts[0], row.counts[1], column.counts[1], maps.shape[3]),
        (image, row.steps[0] * down, column.steps[0] * across, row.steps[1] * down, column.steps[1] * across, channel),
        maps.storage_offset() + row.first * down + column.first * across,
    )


def _times(patches: Tensor, matrix: Tensor) -> Tensor:
    """(n, h, w, rows, columns, channels) times (rows columns channels, out): (n, h, w, out)."""
    return (patches.flatten(3).flatten(0, 2) @ matrix).view(*patches.shape[:3], matrix.shape[1])
