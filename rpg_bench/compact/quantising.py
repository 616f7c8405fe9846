"""A network as it will be once its numbers are stored in few bits: for calibration, and while it trains on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from rpg_bench.compact.encoding import Encoding, dequantised, quantised
from rpg_bench.compact.pruning import Masks, apply_masks
from rpg_bench.compact.write import Storage
from rpg_bench.sharing.report import trained_parameters


def stored(model: nn.Module, storage: Storage) -> dict[str, Tensor]:
    """The values that will be read back, of each parameter that is quantised.

    Norms and biases are left as they are: they are stored after batch norms' statistics are folded into them.
    """
    free, private = trained_parameters(model)
    found = {name: _rounded(parameter, storage.free) for name, parameter in free.items() if storage.free.bits < 32}
    for name, parameter in private.items():
        if parameter.dim() > 1 and storage.private.bits < 32:
            found[name] = _rounded(parameter, storage.private)
    return found


@contextlib.contextmanager
def as_stored(model: nn.Module, storage: Storage) -> Iterator[None]:
    """Within this block the network has the values that will be read back."""
    rounded = stored(model, storage)
    before = {name: model.get_parameter(name).detach().clone() for name in rounded}
    _set(model, rounded)
    try:
        yield
    finally:
        _set(model, before)


class StraightThrough:
    """Between the optimizer's steps a network has masked and quantised values; the steps are taken on the exact ones.

    The straight-through estimator (Bengio et al. 2013, arXiv 1308.3432): the gradient at the rounded values is used as
    if it were that at the exact ones.
    """

    def __init__(self, model: nn.Module, masks: Masks, storage: Storage, optimizer: Optimizer) -> None:
        self._model, self._masks, self._storage = model, masks, storage
        self._exact: dict[str, Tensor] = {}
        self._hooks = [
            optimizer.register_step_pre_hook(lambda *_: self.leave()),
            optimizer.register_step_post_hook(lambda *_: self.enter()),
        ]
        self.enter()

    def enter(self) -> None:
        apply_masks(self._model, self._masks)
        rounded = stored(self._model, self._storage)
        self._exact = {name: self._model.get_parameter(name).detach().clone() for name in rounded}
        _set(self._model, rounded)

    def leave(self) -> None:
        _set(self._model, self._exact)

    def close(self) -> None:
        """Give the network its exact values, masked, and let go of the optimizer."""
        self.leave()
        for hook in self._hooks:
            hook.remove()


@torch.no_grad()
def estimate_statistics(
    model: nn.Module, network: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]
) -> bool:
    """Measure the batch norms' statistics anew, as the mean over these training batches. In place.

    network: runs `model` on images.

    Returns:
        Whether there are any.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not layers:
        return False
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    for images, _ in batches:
        network(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
    return True


def _rounded(parameter: Tensor, encoding: Encoding) -> Tensor:
    """As `encoding.encoded` stores it: a pruned tensor's survivors only."""
    flat = parameter.detach().cpu().contiguous().reshape(-1)
    values: Any = flat.numpy().copy()
    kept = values != 0
    if kept.any():
        codes, scales = quantised(values[kept], encoding.bits, encoding.block, encoding.clip)
        values[kept] = dequantised(codes, scales, encoding.block)
    return torch.from_numpy(values).view(parameter.shape).to(parameter.device)


@torch.no_grad()
def _set(model: nn.Module, values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        model.get_parameter(name).copy_(value)
