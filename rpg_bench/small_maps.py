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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
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
    """Positions along one axis that meet the same taps within the map."""

    targets: slice  # the positions
    taps: slice
    source: int  # the pixel under the first position's first tap; that under its next tap is the next pixel
    step: int  # from the pixel of one position to that of the next
    counts: tuple[int, int]  # of positions and of taps


@dataclass(frozen=True)
class _Axis:
    """How a kernel passes over one axis of a map, without the padding."""

    outputs: int
    forward: tuple[_Group, ...]  # outputs, each with the pixels it reads
    backward: tuple[_Group, ...]  # pixels, each with the outputs that read it; both counted from the far end
    by_tap: tuple[tuple[int, slice, slice], ...]  # a tap, the outputs where it lies within the map, and its pixels


@lru_cache(maxsize=1024)
def _axis(pixels: int, taps: int, stride: int, padding: int) -> _Axis:
    outputs = (pixels + 2 * padding - taps) // stride + 1
    # (output, tap, pixel) of every product that is not one by zero
    meetings = [
        (output, tap, output * stride + tap - padding)
        for output in range(outputs)
        for tap in range(taps)
        if 0 <= output * stride + tap - padding < pixels
    ]
    by_tap: list[tuple[int, slice, slice]] = []
    for tap in range(taps):
        pairs = [(output, pixel) for output, met, pixel in meetings if met == tap]
        if pairs:
            by_tap.append((tap, _progression([pair[0] for pair in pairs]), _progression([pair[1] for pair in pairs])))
    return _Axis(
        outputs,
        _grouped(meetings),
        _grouped((pixels - 1 - pixel, tap, outputs - 1 - output) for output, tap, pixel in meetings),
        tuple(by_tap),
    )


def _grouped(meetings: Iterable[tuple[int, int, int]]) -> tuple[_Group, ...]:
    """Group the targets of (target, tap, source) by the taps they meet."""
    met: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for target, tap, source in sorted(meetings):
        met[target].append((tap, source))
    alike: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
    for target, pairs in met.items():
        alike[tuple(tap for tap, _ in pairs)].append((target, pairs[0][1]))
    groups = []
    for taps, members in alike.items():
        targets, sources = zip(*members, strict=True)
        step = sources[1] - sources[0] if len(sources) > 1 else 1
        counts = (len(targets), len(taps))
        groups.append(_Group(_progression(targets), _progression(taps), sources[0], step, counts))
    return tuple(groups)


def _progression(numbers: Sequence[int]) -> slice:
    """The slice of these evenly spaced, rising numbers."""
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
        outputs = _products(
            pixels,
            lambda rows, columns: kernels[:, rows, columns].flatten(1).t(),
            rows.forward,
            columns.forward,
            (rows.outputs, columns.outputs, len(kernels)),
        )
        return outputs.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]  # torch has no hint
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        kernels: Tensor
        pixels, kernels = ctx.saved_tensors
        rows, columns = ctx.axes
        outputs = gradient.permute(0, 2, 3, 1).contiguous()
        for_images = for_weight = None
        if ctx.needs_input_grad[0]:
            turned = kernels.permute(1, 2, 0, 3)
            for_images = _products(
                outputs.flip(1, 2),
                lambda rows, columns: turned[rows, columns].flatten(0, 2),
                rows.backward,
                columns.backward,
                pixels.shape[1:],
            )
            for_images = for_images.flip(1, 2).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            idle = len(rows.by_tap) < kernels.shape[1] or len(columns.by_tap) < kernels.shape[2]
            for_weight = (torch.zeros_like if idle else torch.empty_like)(kernels, dtype=ctx.weight_dtype)
            for row, output_rows, pixel_rows in rows.by_tap:
                for column, output_columns, pixel_columns in columns.by_tap:
                    of_outputs = outputs[:, output_rows, output_columns].flatten(0, 2)
                    of_pixels = pixels[:, pixel_rows, pixel_columns].flatten(0, 2)
                    for_weight[:, row, column] = of_outputs.t() @ of_pixels
            for_weight = for_weight.permute(0, 3, 1, 2)
        return for_images, for_weight, None, None


def _products(
    maps: Tensor,
    matrix: Callable[[slice, slice], Tensor],
    rows: tuple[_Group, ...],
    columns: tuple[_Group, ...],
    size: Sequence[int],
) -> Tensor:
    """Patches of `maps` (n, h, w, channels) times the `matrix` of the taps that they meet: (n, *size)."""
    images, _, _, channels = maps.shape
    image, down, across, channel = maps.stride()
    result = maps.new_zeros(images, *size)
    for row in rows:
        for column in columns:
            patches = maps.as_strided(
                (images, row.counts[0], column.counts[0], row.counts[1], column.counts[1], channels),
                (image, row.step * down, column.step * across, down, across, channel),
                maps.storage_offset() + row.source * down + column.source * across,
            )
            product = patches.flatten(3).flatten(0, 2) @ matrix(row.taps, column.taps)
            result[:, row.targets, column.targets] = product.view(*patches.shape[:3], -1)
    return result
