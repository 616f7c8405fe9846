"""Which numbers of a network are stored, in which order, and what is folded so that there are few of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from rpg_bench.sharing import sharing_of
from rpg_bench.sharing.masked import MaskedSharing
from rpg_bench.sharing.report import trained_parameters

FREE, PRIVATE, BUFFERS = "free", "private", "buffers"
PARTS = (FREE, PRIVATE, BUFFERS)
CONSTANT = 1e-3  # times eps: a variance below it moves a channel by at most 3 % of its weight
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Parts:
    """The stored tensors of a shared network by part and name; they are the network's own."""

    floats: dict[str, dict[str, Tensor]]  # free, private, and buffers with frozen parameters
    integers: dict[str, Tensor]
    masked: MaskedSharing | None  # whose mask is stored as the positions of its survivors

    def shapes(self, part: str) -> list[tuple[int, ...]]:
        return [tuple(tensor.shape) for tensor in self.floats[part].values()]

    def count(self, part: str) -> int:
        return sum(tensor.numel() for tensor in self.floats[part].values())

    def layout(self) -> str:
        """A digest of names and shapes."""
        groups = [*self.floats.items(), ("integers", self.integers)]
        listed = [[part, [[name, *tensor.shape] for name, tensor in tensors.items()]] for part, tensors in groups]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]


def parts_of(model: nn.Module, folded: bool) -> Parts:
    """The parts of a network that `share` was applied to.

    folded: without the statistics of batch norms, which `fold_statistics` made constant.
    """
    free, private = trained_parameters(model)
    stored = {*free, *private}
    constant = {f"{name}.{statistic}" for name, _ in foldable(model) for statistic in _STATISTICS} if folded else set()
    sharing = sharing_of(model)
    masked = sharing if isinstance(sharing, MaskedSharing) else None
    buffers: dict[str, Tensor] = {}
    integers: dict[str, Tensor] = {}
    persistent = set(model.state_dict())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in stored or name in constant or name not in persistent:
            continue
        if masked is not None and tensor is masked.mask:
            continue
        (buffers if tensor.is_floating_point() else integers)[name] = tensor
    return Parts({FREE: dict(free), PRIVATE: dict(private), BUFFERS: buffers}, integers, masked)


def foldable(model: nn.Module) -> list[tuple[str, _BatchNorm]]:
    """The batch norms whose statistics can be folded into a scale and a shift of their own."""
    found = []
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm) and layer.affine and layer.track_running_stats:
            own = layer.weight is layer._parameters.get("weight") and layer.bias is layer._parameters.get("bias")
            if own and layer.weight.requires_grad and layer.bias.requires_grad:
                found.append((name, layer))
    return found


@torch.no_grad()
def silence_constant_channels(model: nn.Module) -> None:
    """Scale by zero what batch norms have never seen vary, in a sparse network most channels. In place.

    Such a channel gives its shift in any case. Its folded scale, 1 / sqrt(eps) times the weight, would be hundreds of
    times those of others, which it shares a step with when they are quantised.
    """
    for _, layer in foldable(model):
        assert layer.running_var is not None
        layer.weight[layer.running_var < CONSTANT * layer.eps] = 0.0


@torch.no_grad()
def fold_statistics(model: nn.Module) -> None:
    """Fold the statistics of batch norms into their weights and biases. In place.

    y = (x - mean) / sqrt(var + eps) * w + b  is  y = x * w' + b'  at inference. Torch computes it so on a CPU, where
    the outputs stay the same bit for bit; elsewhere up to rounding. In training mode the network is another one then.
    """
    for _, layer in foldable(model):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        zeros = torch.zeros_like(layer.running_mean)

        def outputs(value: float, mean: Tensor, bias: Tensor, layer: _BatchNorm = layer) -> Tensor:
            images = torch.full((1, layer.num_features, 1), value)
            return functional.batch_norm(images, mean, layer.running_var, layer.weight, bias, eps=layer.eps)[0, :, 0]

        scale = outputs(1.0, zeros, zeros)
        shift = outputs(0.0, layer.running_mean, layer.bias)
        layer.weight.copy_(scale)
        layer.bias.copy_(shift)
    reset_statistics(model)


@torch.no_grad()
def reset_statistics(model: nn.Module) -> None:
    """Statistics that leave every value as it is. In place."""
    for _, layer in foldable(model):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.zero_()
        layer.running_var.fill_(unit_variance(layer.eps))
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.zero_()


def unit_variance(eps: float) -> float:
    """The float32 v for which sqrt(v + eps) is 1 in float32."""
    one, small = np.float32(1), np.float32(eps)
    guess = one - small
    for value in (guess, np.nextafter(guess, one), np.nextafter(guess, np.float32(0))):
        if one / np.sqrt(value + small) == one:
            return float(value)
    raise ValueError(f"eps {eps} of a batch norm is too large")
