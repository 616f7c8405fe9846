"""`lors_adaptive`: stacked layers share one weight; each adds a residual that its input shapes (LORS, adaptive).

    W_i(x) = W + sum_k B_ik E_ik(x) A_ik            (arXiv 2403.04303, section 3.3)

E_ik(x) is a rank x rank kernel, one for each sample x of a batch, generated from the layer's pooled input
x̄ by a linear map G_ik:

    E_ik(x) = I + G_ik x̄
    x̄      linear layer: mean over all dimensions (tokens) between the first (samples) and the last (channels)
            convolution: mean over the image; each group of a grouped convolution is a layer of its own

G starts at zero, so that training starts as that of `lors`: from plain sharing, with B at zero. The
identity costs no expressiveness: a free constant term in its place could be moved into B and G.

The residual is computed as B (E (A x)), beside the layer's own product W x: no weight is ever made for a
sample. So it needs a layer that is called with its input. Weights that are read in other ways keep the
static residual B A of `lors`: those of `nn.MultiheadAttention`, of transposed convolutions, and of layers
with a forward pass of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from rpg_bench.errors import InvalidInput
from rpg_bench.sharing.lors import Lors, LorsSharing, StackPlan
from rpg_bench.sharing.scheme import Batches, Plan, Sharing, register
from rpg_bench.sharing.slots import Slot
from rpg_bench.sharing.stacks import Stack


@dataclass(frozen=True)
class AdaptivePlan(StackPlan):
    """Which layers' residuals are generated from their input, and the rank of their kernels."""

    base_rank: int
    kernels: tuple[tuple[int, int], ...]  # of each adaptive slot: its number, and how many kernels it has


@register("lors_adaptive")
@dataclass(frozen=True)
class LorsAdaptive(Lors):
    """One weight per stack, and for each layer as many generated kernels of `rank` as its group says.

    Options as for `lors`. A kernel costs rank x (out + in k k) for its pair of factors and rank x rank x in
    for its generator. The default rank gives a DeiT about as many DoF as the static residuals of rank 32.
    """

    source = "LORS, arXiv 2403.04303, adaptive"
    default_rank: ClassVar[int] = 8

    def _planned(
        self,
        slots: Sequence[Slot],
        seed: int,
        stacks: tuple[Stack, ...],
        patterns: Sequence[Sequence[int]],
        alone: tuple[int, ...],
        base: int,
    ) -> AdaptivePlan:
        static = super()._planned(slots, seed, stacks, patterns, alone, base)
        kernels = tuple(
            (number, group)
            for stack, pattern in zip(stacks, patterns, strict=True)
            for number, group in zip(stack.slots, pattern, strict=True)
            if base * group and slots[number].in_layers
        )
        generated = sum(count * base**2 * slots[number].shape[1] for number, count in kernels)
        return AdaptivePlan(
            self.name, static.slots, static.dof + generated, seed, static.options, alone, stacks, static.ranks,
            base, kernels,
        )  # fmt: skip

    def build(self, plan: Plan, model: nn.Module, batches: Batches | None = None) -> Sharing:
        assert isinstance(plan, AdaptivePlan)
        for number, _ in plan.kernels:
            for owner in plan.slots[number].owners:
                check_batch_first(model, owner.module)
        return LorsAdaptiveSharing(plan)


class LorsAdaptiveSharing(LorsSharing):
    """As of `lors`, and `generator.s_i`: G (kernels x rank x rank, in) of layer i in stack s."""

    def __init__(self, plan: AdaptivePlan) -> None:
        super().__init__(plan)
        self.generator = nn.ParameterDict()
        self._kernels = dict(plan.kernels)
        self._rank = plan.base_rank
        for number, count in plan.kernels:
            generated = torch.zeros(count * plan.base_rank**2, plan.slots[number].shape[1])
            self.generator[self._key(number)] = nn.Parameter(generated)
        # Slots whose layers have not been seen to be called; of these, the ones read in this pass.
        self._unseen = set(self._kernels)
        self._read: set[int] = set()

    @property
    def adapted(self) -> Collection[int]:
        return tuple(self._kernels)

    def produce_slot(self, number: int) -> Tensor:
        if number not in self._kernels:
            return super().produce_slot(number)
        shared: Tensor = self.shared[self._layers[number][0]]
        return shared.view(self.plan.slots[number].shape)

    def read(self, number: int) -> Tensor:
        if number in self._unseen:
            self._read.add(number)
        return super().read(number)

    def begin(self) -> None:
        super().begin()
        self._read.clear()

    def verify(self) -> None:
        """Raises InvalidInput where a weight was read in this pass, but its layer not called."""
        missed = sorted(self._read & self._unseen)
        if missed:
            name = self.plan.slots[missed[0]].name
            raise InvalidInput(
                f"model: {name} is read by another module than its layer, where an adaptive residual cannot be added; "
                f"use sharing.exclude={name}"
            )

    def adapt(self, number: int, layer: nn.Module, features: Tensor, output: Tensor) -> Tensor:
        """Add B E(x) A x. Linear: (batch, ..., in) to (batch, ..., out). Convolution: (batch, in, ...) likewise."""
        self._unseen.discard(number)
        if features.is_nested:
            raise InvalidInput(
                f"model: {self.plan.slots[number].name} is applied to a nested tensor, which an adaptive residual "
                "cannot pool; use nn.TransformerEncoder(enable_nested_tensor=False)"
            )
        if isinstance(layer, nn.Linear):
            return self._linear(number, features, output)
        unbatched = features.dim() == len(self.plan.slots[number].shape) - 1
        residual = self._convolution(number, layer, features[None] if unbatched else features)
        return output + (residual[0] if unbatched else residual)

    def _linear(self, number: int, features: Tensor, output: Tensor) -> Tensor:
        key = self._key(number)
        samples = features.reshape(len(features) if features.dim() > 1 else 1, -1, features.shape[-1])
        kernels = self._generated(number, samples.mean(1))
        low = functional.linear(samples, self.down[key])
        parts = low.view(*low.shape[:2], *kernels.shape[1:3]).transpose(1, 2) @ kernels.mT
        low = parts.transpose(1, 2).reshape(-1, low.shape[-1])
        return torch.addmm(output.reshape(len(low), -1), low, self.up[key].t()).view(output.shape)

    def _convolution(self, number: int, layer: Any, features: Tensor) -> Tensor:
        key, groups = self._key(number), layer.groups
        shape = self.plan.slots[number].shape
        pooled = features.flatten(2).mean(2).view(len(features) * groups, -1)
        kernels = self._generated(number, pooled)
        down = self.down[key].view(-1, *shape[1:])
        # By the layer's own stride, padding and dilation.
        low = layer._conv_forward(features, torch.cat([down] * groups), None)
        low = (kernels @ low.reshape(*kernels.shape[:3], -1)).view(low.shape)
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[len(shape) - 3]
        up: Tensor = self.up[key]
        return convolve(low, up.view(*up.shape, *(1 for _ in shape[2:])), groups=groups)

    def _generated(self, number: int, pooled: Tensor) -> Tensor:
        """E for pooled inputs of shape (n, in): (n, kernels, rank, rank)."""
        generated = functional.linear(pooled, self.generator[self._key(number)])
        generated = generated.view(-1, self._kernels[number], self._rank, self._rank)
        return generated + torch.eye(self._rank, dtype=generated.dtype, device=generated.device)

    def _key(self, number: int) -> str:
        key = self._layers[number][1]
        assert key is not None
        return key


def check_batch_first(model: nn.Module, path: str) -> None:
    """Raise InvalidInput if the layer at `path` is in one of PyTorch's transformer layers that takes sequences first.

    The mean over its tokens would be one over samples.
    """
    parts = path.split(".")
    for length in range(len(parts)):
        attention = getattr(model.get_submodule(".".join(parts[:length])), "self_attn", None)
        if isinstance(attention, nn.MultiheadAttention) and not attention.batch_first:
            raise InvalidInput(
                f"model: {path} gets sequences before samples, which an adaptive residual would mix; "
                "use batch_first=True"
            )
