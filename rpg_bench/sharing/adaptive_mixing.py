"""The adaptive mixing operator of the AdaMixer decoder, its stages sharing through LORS.

AdaMixer (Gao et al. 2022, arXiv 2203.16507, section 3.3) mixes the features that were sampled for a
query by two matrices that are generated from that query, first over channels, then over points:

    M(q), S(q) = generator(q)
    x <- relu(norm(x M(q)))        x <- relu(norm(S(q) x))        q <- norm(q + projection(x))

LORS (arXiv 2403.04303, section 3.3) lets the stages of a decoder share generator and projection. What
stage i adds of its own is low-rank, and adaptive where the shared part is:

    M_i(q) = M(q) + sum_k L_ik E_ik(q) R_ik    likewise S_i(q)    projection_i = projection + B_i A_i

with L (channels, rank), E (rank, rank), R (rank, channels), and E generated from the query.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from rpg_bench.errors import InvalidInput


@dataclass(frozen=True)
class MixingShape:
    """Sizes of an adaptive mixing operator.

    Args:
        channels: of the sampled features, all groups together.
        points: sampled for each query and group.
        groups: that are mixed independently.
        query_channels: of a query.
        out_points: after spatial mixing.

    Raises:
        InvalidInput: a size below 1, or channels that do not divide into the groups.
    """

    channels: int
    points: int
    groups: int
    query_channels: int
    out_points: int

    def __post_init__(self) -> None:
        for field in fields(self):
            check_least(field.name, getattr(self, field.name), 1)
        if self.channels % self.groups:
            raise InvalidInput(
                f"groups: {self.groups} does not divide the {self.channels} channels; allowed: a divisor"
            )

    @property
    def width(self) -> int:
        """Channels of one group."""
        return self.channels // self.groups

    @property
    def mixed(self) -> int:
        """Scalars for each query behind both mixings, which the projection reads."""
        return self.out_points * self.channels


class SharedMixing(nn.Module):
    """What all stages share: the generator of their mixing matrices, and the projection's weight.

    `generator`: query_channels -> for each group width x width, then out_points x points.
    `projection`: (query_channels, out_points * channels).
    """

    def __init__(self, shape: MixingShape) -> None:
        super().__init__()
        generated = shape.groups * (shape.width**2 + shape.out_points * shape.points)
        self.generator = generator(shape.query_channels, generated)
        self.projection = nn.Parameter(torch.empty(shape.query_channels, shape.mixed))
        nn.init.kaiming_uniform_(self.projection, a=math.sqrt(5))


class AdaptiveMixing(nn.Module):
    """One stage. With B and L at zero, as they start, it is the shared operator alone.

    Args:
        shape: sizes.
        rank: of the generated kernels E, 0 for a stage whose mixing matrices are the shared ones.
        kernels: how many low-rank parts (k above) each group's matrices get.
        projection_rank: of the projection's residual, 0 for none.
        shared: of an `AdaptiveMixingStack`, which registers it; None: a `SharedMixing` of its own.

    Raises:
        InvalidInput: a rank below 0, or fewer than one kernel.
    """

    def __init__(
        self, shape: MixingShape, rank: int, kernels: int, projection_rank: int, shared: SharedMixing | None = None
    ) -> None:
        super().__init__()
        check_least("rank", rank, 0)
        check_least("kernels", kernels, 1)
        check_least("projection_rank", projection_rank, 0)
        self.shape, self.rank, self.kernels = shape, rank, kernels
        self.shared: SharedMixing
        if shared is None:
            self.shared = SharedMixing(shape)
        else:
            # A plain reference: registered here too, it would appear under every stage.
            object.__setattr__(self, "shared", shared)
        parts = shape.groups * kernels
        if rank:
            self.generator = generator(shape.query_channels, parts * 2 * rank**2)
            self.channel_left = nn.Parameter(torch.zeros(parts, shape.width, rank))
            self.channel_right = nn.Parameter(_uniform(parts, rank, shape.width))
            self.point_left = nn.Parameter(torch.zeros(parts, shape.out_points, rank))
            self.point_right = nn.Parameter(_uniform(parts, rank, shape.points))
        self.up = nn.Parameter(torch.zeros(shape.query_channels, projection_rank))
        self.down = nn.Parameter(_uniform(projection_rank, shape.mixed))
        self.bias = nn.Parameter(torch.zeros(shape.query_channels))
        self.norm = nn.LayerNorm(shape.query_channels)

    def forward(self, features: Tensor, query: Tensor) -> Tensor:
        """Mix.

        Args:
            features: (batch, queries, groups, points, channels / groups).
            query: (batch, queries, query_channels).

        Returns:
            The next query, (batch, queries, query_channels).
        """
        channel, point = self._matrices(query)
        mixed = _normalized(features @ channel)
        mixed = _normalized(point @ mixed)
        weight: Tensor = self.shared.projection
        if self.up.shape[1]:
            weight = torch.addmm(weight, self.up, self.down)
        moved: Tensor = self.norm(query + nn.functional.linear(mixed.flatten(-3), weight, self.bias))
        return moved

    def _matrices(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """M: (batch, queries, groups, width, width). S: (batch, queries, groups, out_points, points)."""
        shape, rank, leading = self.shape, self.rank, query.shape[:-1]
        generated = self.shared.generator(query).unflatten(-1, (shape.groups, -1))
        channel, point = generated.split([shape.width**2, shape.out_points * shape.points], -1)
        channel = channel.reshape(*leading, shape.groups, shape.width, shape.width)
        point = point.reshape(*leading, shape.groups, shape.out_points, shape.points)
        if rank:
            kernels = self.generator(query).reshape(*leading, 2, shape.groups * self.kernels, rank, rank)
            over_channels, over_points = kernels.unbind(-4)
            parts = (shape.groups, self.kernels)
            residual = self.channel_left @ over_channels @ self.channel_right
            channel = channel + residual.unflatten(-3, parts).sum(-3)
            residual = self.point_left @ over_points @ self.point_right
            point = point + residual.unflatten(-3, parts).sum(-3)
        return channel, point


class AdaptiveMixingStack(nn.Module):
    """The stages of one decoder, with one `SharedMixing`.

    Register the stack in the decoder and call `stack[i](features, query)` in its layer i: so what is
    shared is one set of parameters, under one name in a state_dict.

        stack = AdaptiveMixingStack(shape, ranks=[8] * 6, kernels=[1, 1, 2, 2, 3, 3], projection_ranks=[8] * 6)

    Args:
        shape: sizes, the same for all stages.
        ranks: of the generated kernels, for each stage.
        kernels: low-rank parts, for each stage.
        projection_ranks: of the projection's residual, for each stage.

    Raises:
        InvalidInput: lists of different lengths, or what `AdaptiveMixing` refuses.
    """

    def __init__(
        self, shape: MixingShape, ranks: Sequence[int], kernels: Sequence[int], projection_ranks: Sequence[int]
    ) -> None:
        super().__init__()
        for name, values in (("kernels", kernels), ("projection_ranks", projection_ranks)):
            if len(values) != len(ranks):
                raise InvalidInput(f"{name}: {len(values)} numbers; allowed: one for each of the {len(ranks)} stages")
        self.shared = SharedMixing(shape)
        self.stages = nn.ModuleList(
            AdaptiveMixing(shape, *sizes, shared=self.shared)
            for sizes in zip(ranks, kernels, projection_ranks, strict=True)
        )

    def __len__(self) -> int:
        return len(self.stages)

    def __getitem__(self, stage: int) -> AdaptiveMixing:
        found = self.stages[stage]
        assert isinstance(found, AdaptiveMixing)
        return found

    def __iter__(self) -> Iterator[AdaptiveMixing]:
        return (self[stage] for stage in range(len(self)))


def generator(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that starts, as AdaMixer's, by generating the same for every query: its bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    return layer


def check_least(name: str, value: int, least: int) -> None:
    """Raise InvalidInput unless `value` is a whole number and at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidInput(f"{name}: {value!r} is no size; allowed: a whole number, {least} or more")


def _normalized(mixed: Tensor) -> Tensor:
    """Over the last two dimensions, points and channels of one group, without parameters."""
    return nn.functional.layer_norm(mixed, mixed.shape[-2:]).relu()


def _uniform(*shape: int) -> Tensor:
    """Kaiming-uniform over the last dimension."""
    bound = 1 / math.sqrt(shape[-1])
    return torch.empty(shape).uniform_(-bound, bound)
