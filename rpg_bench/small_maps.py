"""Convolutions over small feature maps on a CPU, as one matrix product each.

A direct convolution kernel has little to run over on maps of 4x4 or 2x2 pixels, the last stages of a
ResNet at 32x32: oneDNN spends half of ResNet18's training step there. Written as a product of
patches and kernels (im2col; Chellapilla et al. 2006) the same layers take a half to a sixth of the time
(`python -m rpg_bench.benchmarks small_maps`; results/benchmarks/small_maps.json).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

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
        weight = self.weight.to(kind)
        output: Tensor = _PatchProduct.apply(input.to(kind), weight, self.stride, self.padding)
        return output if self.bias is None else output + self.bias.to(kind)[:, None, None]

    def _output_size(self, images: Tensor) -> tuple[int, int]:
        return self._outputs(images.shape[2], 0), self._outputs(images.shape[3], 1)

    def _outputs(self, size: int, axis: int) -> int:
        padding = self.padding[axis]
        assert isinstance(padding, int)
        return max(0, (size + 2 * padding - self.kernel_size[axis]) // self.stride[axis] + 1)


class _PatchProduct(torch.autograd.Function):
    """patches (n h' w', k k in) times kernels (k k in, out); all maps channels last."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        down, across = stride
        above, left = padding
        out, channels, rows, columns = weight.shape
        padded = functional.pad(images.permute(0, 2, 3, 1), (0, 0, left, left, above, above)).contiguous()
        count, tall, wide, _ = padded.shape
        height, width = (tall - rows) // down + 1, (wide - columns) // across + 1
        image, row, column, channel = padded.stride()
        patches = padded.as_strided(
            (count, height, width, rows, columns, channels), (image, row * down, column * across, row, column, channel)
        ).reshape(count * height * width, rows * columns * channels)
        kernels = weight.permute(0, 2, 3, 1).reshape(out, -1)
        ctx.save_for_backward(patches, kernels)
        ctx.sizes = (padded.shape, weight.shape, (height, width), stride, padding)
        return (patches @ kernels.t()).view(count, height, width, out).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]  # torch has no hint
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        patches, kernels = ctx.saved_tensors
        (count, tall, wide, channels), shape, (height, width), (down, across), (above, left) = ctx.sizes
        out, _, rows, columns = shape
        outputs = gradient.permute(0, 2, 3, 1).reshape(-1, out)
        for_weight = for_images = None
        if ctx.needs_input_grad[1]:
            for_weight = (outputs.t() @ patches).view(out, rows, columns, channels).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[0]:
            of_patches = (outputs @ kernels).view(count, height, width, rows, columns, channels)
            padded = gradient.new_zeros(count, tall, wide, channels)
            for row in range(rows):
                for column in range(columns):
                    touched = padded[:, row : row + down * height : down, column : column + across * width : across]
                    touched += of_patches[:, :, :, row, column]
            for_images = padded[:, above : tall - above, left : wide - left].permute(0, 3, 1, 2)
        return for_images, for_weight, None, None
