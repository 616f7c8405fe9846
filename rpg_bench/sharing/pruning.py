"""Pruning at initialisation: a mask that is fixed before training. DoF = surviving weights.

magnitude      the largest initial weights (Han et al. 2015, at initialisation)
random_prune   any weights
snip           those whose removal would change the loss most (Lee et al. 2018, arXiv 1810.02340)
synflow        those that carry the most synaptic flow, found iteratively (Tanaka et al. 2020,
               arXiv 2006.05467)
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rpg_bench.budget import check_range, parse_dof
from rpg_bench.errors import InvalidInput
from rpg_bench.sharing.allocation import random_bits
from rpg_bench.sharing.masked import MaskedSharing
from rpg_bench.sharing.rpg_global import DEFAULT_DOF
from rpg_bench.sharing.scheme import Batches, Budget, Plan, Scheme, Sharing, register
from rpg_bench.sharing.slots import Slot, total_size


@dataclass(frozen=True)
class Pruning(Scheme):
    """Keeps the N slot scalars with the highest score, over all layers together."""

    def table_bytes(self, plan: Plan) -> int:
        return 4 * plan.dof + -(-plan.total // 8)  # the survivors' positions, and the mask

    def plan(self, slots: Sequence[Slot], dof: Budget, seed: int) -> Plan:
        budget = parse_dof(DEFAULT_DOF if dof is None else dof, total_size(slots))
        check_range(budget, *self.range(slots), self.name)
        return Plan(self.name, tuple(slots), budget, seed, self.options(), kept=())

    def build(self, plan: Plan, model: nn.Module, batches: Batches | None = None) -> Sharing:
        scores = self.scores(plan, model, batches)
        return MaskedSharing(plan, flat_slots(plan, model), highest(scores, plan.dof))

    def build_empty(self, plan: Plan, model: nn.Module) -> Sharing:
        return MaskedSharing(plan, flat_slots(plan, model), torch.arange(plan.dof))

    @abstractmethod
    def scores(self, plan: Plan, model: nn.Module, batches: Batches | None) -> Tensor:
        """Return the score of every slot scalar, shape (D,). Must leave `model` as it is."""


@register("magnitude")
@dataclass(frozen=True)
class Magnitude(Pruning):
    """The largest initial weights survive."""

    source = "Han et al., arXiv 1506.02626, at initialisation"

    def scores(self, plan: Plan, model: nn.Module, batches: Batches | None) -> Tensor:
        return flat_slots(plan, model).abs()


@register("random_prune")
@dataclass(frozen=True)
class RandomPrune(Pruning):
    """Survivors are drawn; the least that any other score must beat."""

    source = "the baseline of pruning at initialisation"

    def scores(self, plan: Plan, model: nn.Module, batches: Batches | None) -> Tensor:
        identity = {"seed": plan.seed, "slots": [[slot.name, list(slot.shape)] for slot in plan.slots]}
        words = random_bits(plan.total, "score", identity)
        return torch.from_numpy((words >> np.uint64(11)).astype(np.float64))


@register("snip")
@dataclass(frozen=True)
class Snip(Pruning):
    """Connection sensitivity |w * dL/dw| on one batch of training data (SNIP, equations 4 to 6)."""

    source = "SNIP, arXiv 1810.02340"

    def scores(self, plan: Plan, model: nn.Module, batches: Batches | None) -> Tensor:
        if batches is None:
            raise InvalidInput("sharing: snip scores weights on training data; give share() batches=")
        images, labels = next(iter(batches()))
        probe = _probe(model).train()  # a copy: batch norm must not see this batch twice
        loss = nn.functional.cross_entropy(probe(images).float(), labels)
        weights = _slot_parameters(plan, probe)
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        return torch.cat([_product(w, g) for w, g in zip(weights, gradients, strict=True)])


@register("synflow")
@dataclass(frozen=True)
class SynFlow(Pruning):
    """Synaptic flow w * dR/dw without data, R the summed output of |weights| for an input of ones.

    Pruned in `iterations` steps on the paper's exponential schedule: after step k the share
    (N / D) ** (k / iterations) survives.
    """

    source = "SynFlow, arXiv 2006.05467"

    iterations: int = 100

    def __post_init__(self) -> None:
        if not isinstance(self.iterations, int) or self.iterations < 1:
            raise InvalidInput(f"sharing.iterations: {self.iterations!r} is too small; the least is 1")

    def scores(self, plan: Plan, model: nn.Module, batches: Batches | None) -> Tensor:
        if batches is None:
            raise InvalidInput("sharing: synflow needs the shape of an input; give share() batches=")
        images, _ = next(iter(batches()))
        # Double: the flow is a product over all layers, beyond the range of single precision.
        probe = _probe(model).eval().double()
        with torch.no_grad():
            for value in [*probe.parameters(), *probe.buffers()]:
                if value.is_floating_point():
                    value.abs_()
        ones = torch.ones_like(images[:1], dtype=torch.float64)
        weights = _slot_parameters(plan, probe)
        for step in range(1, self.iterations + 1):
            gradients = torch.autograd.grad(probe(ones).sum(), weights, allow_unused=True)
            scores = torch.cat([_product(w, g) for w, g in zip(weights, gradients, strict=True)])
            if step == self.iterations:
                break
            count = max(plan.dof, round(plan.total * (plan.dof / plan.total) ** (step / self.iterations)))
            threshold = torch.kthvalue(scores, len(scores) - count + 1).values
            pieces = torch.split(scores >= threshold, [slot.size for slot in plan.slots])
            with torch.no_grad():
                for weight, piece in zip(weights, pieces, strict=True):
                    weight.mul_(piece.view(weight.shape))
        return scores


def highest(scores: Tensor, count: int) -> Tensor:
    """Positions of the `count` highest scores, ascending; of equal scores the first ones."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return order[:count].sort().values


def flat_slots(plan: Plan, model: nn.Module) -> Tensor:
    """The slots' present values, shape (D,)."""
    return torch.cat([weight.detach().reshape(-1) for weight in _slot_parameters(plan, model)])


def _probe(model: nn.Module) -> nn.Module:
    """A copy to score on. Norms that start at zero (timm's last one of a residual block) count as one:
    behind them no weight would have a gradient, and the papers' networks do not have them."""
    probe = copy.deepcopy(model)
    for module in probe.modules():
        if "Norm" in type(module).__name__ and isinstance(weight := getattr(module, "weight", None), Tensor):
            with torch.no_grad():
                weight.masked_fill_(weight == 0, 1)
    return probe


def _slot_parameters(plan: Plan, model: nn.Module) -> list[nn.Parameter]:
    return [model.get_parameter(slot.name) for slot in plan.slots]


def _product(weight: Tensor, gradient: Tensor | None) -> Tensor:
    if gradient is None:  # a layer that this input does not reach
        return torch.zeros_like(weight).reshape(-1)
    return (weight.detach() * gradient).abs().reshape(-1)
