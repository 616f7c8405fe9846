"""A plain network with 8-bit weights and activations that runs faster on a CPU: torchao's static quantisation.

Weights are symmetric with a scale per channel, activations have ranges observed on calibration images; the graph is
exported by `torch.export` and compiled, where convolutions and linear layers become oneDNN's 8-bit kernels.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rpg_bench.compact.formats import quietly
from rpg_bench.compact.source import evaluation_batches
from rpg_bench.errors import InvalidInput
from rpg_bench.sharing import materialize

if TYPE_CHECKING:
    from rpg_bench.compact.recipe import Recipe

CALIBRATION_IMAGES = 512  # of the training set, that ranges of activations are observed on


def available() -> bool:
    """Whether torchao is installed."""
    return importlib.util.find_spec("torchao") is not None


def in_8_bits(model: nn.Module, recipe: Recipe, root: str) -> Callable[[Tensor], Tensor]:
    """The ordinary network of a shared one in 8 bits, ranges from training images. `model` stays as it is.

    root: folder of the data sets.

    Raises:
        InvalidInput: torchao is not installed, the data set is not there, or the scheme has no ordinary network.
    """
    images = evaluation_batches(recipe, root, train=True, images=CALIBRATION_IMAGES, batch_size=64)
    return quantised_network(materialize(model), [batch for batch, _ in images])


def quantised_network(plain: nn.Module, calibration: Iterable[Tensor]) -> Callable[[Tensor], Tensor]:
    """The network in 8 bits, compiled at its first call for each size of batch.

    Args:
        plain: an ordinary network in evaluation mode, on the CPU; stays as it is.
        calibration: batches of training images of one shape, float32 (n, c, h, w).

    Raises:
        InvalidInput: torchao is not installed.
    """
    if not available():
        raise InvalidInput("int8: needs torchao; pip install 'rpg-bench[int8]'")
    batches = list(calibration)
    with quietly():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        batch = torch.export.Dim("batch")
        graph = torch.export.export(plain.eval(), (batches[0],), dynamic_shapes=({0: batch},)).module()
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(graph, quantizer)
        with torch.no_grad():
            for images in batches:
                prepared(images)
        return compiled(convert_pt2e(prepared))


def compiled(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network compiled for inference, its weights constants of the program."""
    import torch._inductor.config as settings

    function = torch.compile(network, dynamic=False)

    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        with quietly(), settings.patch(freezing=True):  # read when it compiles, at the first call
            outputs: Tensor = function(images)
        return outputs

    return run
