"""Parameter groups by name, the optimizer, and the learning rate as a function of time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rpg_bench.config import OptimizerConfig, ScheduleConfig
from rpg_bench.errors import InvalidInput, unknown
from rpg_bench.sharing.api import ATTRIBUTE

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_TOKENS = ("cls_token", "dist_token", "reg_token", "class_token", "mask_token")
_POSITIONS = ("pos_embed", "pos_embedding", "position_embedding", "relative_position_bias_table")


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a weight decay."""

    title: str
    weight_decay: float
    parameters: tuple[tuple[str, Tensor], ...]

    @property
    def scalars(self) -> int:
        return sum(parameter.numel() for _, parameter in self.parameters)


def parameter_kind(name: str, owner: nn.Module) -> str:
    """Name what a parameter is: slot, norm, bias, token, position or weight.

    By name and owner, never by number of dimensions: a ring has one dimension and must decay.
    """
    first, last = name.split(".", 1)[0], name.rpartition(".")[2]
    if first == ATTRIBUTE:
        return "slot"
    if isinstance(owner, _NORMS) or "Norm" in type(owner).__name__:
        return "norm"
    if last in _TOKENS:
        return "token"
    if last in _POSITIONS:
        return "position"
    return "bias" if last.endswith("bias") else "weight"


def parameter_groups(model: nn.Module, weight_decay: float, no_decay: Sequence[str]) -> list[ParameterGroup]:
    """Split the trained parameters into those that decay and those of the `no_decay` kinds."""
    decayed: list[tuple[str, Tensor]] = []
    spared: list[tuple[str, Tensor]] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            owner = model.get_submodule(name.rpartition(".")[0])
            (spared if parameter_kind(name, owner) in no_decay else decayed).append((name, parameter))
    groups = [
        ParameterGroup("weight decay", weight_decay, tuple(decayed)),
        ParameterGroup("no weight decay", 0.0, tuple(spared)),
    ]
    return [group for group in groups if group.parameters]


def create_optimizer(config: OptimizerConfig, groups: Sequence[ParameterGroup], batch_size: int) -> Optimizer:
    """Build timm's optimizer of that name over the groups, at its peak learning rate.

    Raises:
        InvalidInput: unknown name, or an option that it does not have.
    """
    from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers

    if config.name not in list_optimizers():
        raise unknown("optimizer.name", config.name, list_optimizers())
    if get_optimizer_info(config.name).second_order:
        raise InvalidInput(f"optimizer.name: {config.name} needs second derivatives, which are not computed here")
    parameters = [
        {"params": [parameter for _, parameter in group.parameters], "weight_decay": group.weight_decay}
        for group in groups
    ]
    try:
        optimizer = create_optimizer_v2(
            parameters, opt=config.name, lr=peak_rate(config, batch_size), weight_decay=0.0, **config.options
        )
    except (AssertionError, ImportError) as error:
        raise InvalidInput(f"optimizer.name: {config.name} cannot be used here: {error}") from None
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"optimizer.options: {config.name} refuses them: {error}") from None
    assert isinstance(optimizer, Optimizer)
    return optimizer


def peak_rate(config: OptimizerConfig, batch_size: int) -> float:
    """The learning rate that the schedule's factors apply to."""
    if config.lr_reference_batch is None:
        return config.lr
    return config.lr * batch_size / config.lr_reference_batch


def rate_factor(schedule: ScheduleConfig, epochs: int, steps_per_epoch: int) -> Callable[[int], float]:
    """Return the factor on the learning rate at each optimizer step 0..epochs * steps_per_epoch - 1."""
    steps = epochs * steps_per_epoch
    warmup = round(schedule.warmup_epochs * steps_per_epoch)

    def decayed(step: int) -> float:
        epoch = step // steps_per_epoch
        if schedule.name == "multistep":
            return schedule.gamma ** sum(epoch >= milestone for milestone in schedule.milestones)
        if schedule.name == "exponential":
            return float(schedule.gamma ** (epoch / schedule.decay_epochs))
        if schedule.name == "cosine":
            return _cosine(1.0, schedule.final, (step - warmup) / max(1, steps - warmup))
        if schedule.name == "one_cycle":
            top = schedule.peak * steps
            if step < top:
                return _cosine(1 / 25, 1.0, step / top)
            return _cosine(1.0, schedule.final, (step - top) / max(1.0, steps - top))
        return 1.0

    def factor(step: int) -> float:
        return (step + 1) / (warmup + 1) * (decayed(warmup) if warmup else 1) if step < warmup else decayed(step)

    return factor


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class AveragedModel:
    """An exponential moving average of a model's weights (EMA); buffers are copied."""

    def __init__(self, averaged: nn.Module, decay: float) -> None:
        self.model = averaged.requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average one step towards `model`."""
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - self.decay)
        # By state_dict, not by buffers(): fixed tables are no part of it and never change.
        ours, theirs = self.model.state_dict(), model.state_dict()
        for name, _ in model.named_buffers():
            if name in ours:
                ours[name].copy_(theirs[name])


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
