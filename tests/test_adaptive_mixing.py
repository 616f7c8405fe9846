"""The adaptive mixing operator: recorded outputs of the official implementation, and what sharing promises."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rpg_bench import InvalidInput
from rpg_bench.sharing.adaptive_mixing import AdaptiveMixing, AdaptiveMixingStack, MixingShape

RECORDED = Path(__file__).resolve().parents[2] / "shared" / "parity" / "lors_adaptive_mixing.npz"
SHAPE = MixingShape(channels=12, points=4, groups=3, query_channels=10, out_points=5)


def stack(seed: int = 0) -> AdaptiveMixingStack:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AdaptiveMixingStack(SHAPE, ranks=[2, 3, 0], kernels=[1, 2, 1], projection_ranks=[2, 0, 1])


def scrambled() -> AdaptiveMixingStack:
    """No parameter at its start, where the low-rank parts vanish."""
    made = stack()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return made


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, 7, 3, 4, 4, generator=generator), torch.randn(2, 7, 10, generator=generator)


@pytest.mark.skipif(not RECORDED.is_file(), reason="the recorded numbers are not beside this checkout")
def test_outputs_of_the_official_implementation() -> None:
    recorded = np.load(RECORDED)

    def values(name: str) -> Tensor:
        return torch.from_numpy(recorded[name])

    stages = int(recorded["num_stages"])
    sizes = [int(recorded[key]) for key in ("in_dim", "in_points", "n_groups", "query_dim", "out_points")]
    lists = [recorded[key].tolist() for key in ("kernel_sizes", "kernel_groups", "mix_out_proj_ranks")]
    ours = AdaptiveMixingStack(MixingShape(*sizes), *lists)
    state = {
        "shared.generator.weight": values("param:common_parameter_generator/weight"),
        "shared.generator.bias": values("param:common_parameter_generator/bias"),
        "shared.projection": values("param:base_out_proj/weight"),
    }
    names = {
        "channel_left": "ml_parameters/{}",
        "channel_right": "mr_parameters/{}",
        "point_left": "sl_parameters/{}",
        "point_right": "sr_parameters/{}",
        "generator.weight": "private_parameter_generator/{}/weight",
        "generator.bias": "private_parameter_generator/{}/bias",
        "up": "out_weight_add_B/{}",
        "down": "out_weight_add_A/{}",
        "bias": "out_weight_bias/{}",
        "norm.weight": "out_norm/{}/weight",
        "norm.bias": "out_norm/{}/bias",
    }
    for stage in range(stages):
        state |= {f"stages.{stage}.{name}": values("param:" + path.format(stage)) for name, path in names.items()}
    ours.load_state_dict(state)
    assert len(state) == sum(name.startswith("param:") for name in recorded.files)
    for stage, mixing in enumerate(ours):
        found = mixing(values("x"), values("query"))
        torch.testing.assert_close(found, values(f"out_{stage}"), rtol=1e-4, atol=1e-5)


def test_the_definition_query_by_query() -> None:
    """Written out with loops, from the papers' formulas."""
    mixing = scrambled()[1]
    features, query = inputs()
    found = mixing(features, query)
    width, rank = SHAPE.width, mixing.rank
    for batch in range(2):
        for number in range(7):
            q = query[batch, number]
            shared, own = mixing.shared.generator(q), mixing.generator(q).view(2, SHAPE.groups, mixing.kernels, -1)
            mixed = []
            for group in range(SHAPE.groups):
                channel, point = shared.view(SHAPE.groups, -1)[group].split([width**2, 5 * 4])
                channel, point = channel.view(width, width), point.view(5, 4)
                for kernel in range(mixing.kernels):
                    part = group * mixing.kernels + kernel
                    e, f = (own[which, group, kernel].view(rank, rank) for which in (0, 1))
                    channel = channel + mixing.channel_left[part] @ e @ mixing.channel_right[part]
                    point = point + mixing.point_left[part] @ f @ mixing.point_right[part]
                x = features[batch, number, group] @ channel
                x = nn.functional.layer_norm(x, x.shape).relu()
                x = point @ x
                mixed.append(nn.functional.layer_norm(x, x.shape).relu())
            moved = (mixing.shared.projection + mixing.up @ mixing.down) @ torch.cat(mixed).flatten() + mixing.bias
            expected = nn.functional.layer_norm(q + moved, q.shape, mixing.norm.weight, mixing.norm.bias)
            torch.testing.assert_close(found[batch, number], expected, rtol=1e-4, atol=1e-5)


def test_training_starts_from_plain_sharing() -> None:
    outputs = [mixing(*inputs()) for mixing in stack()]
    assert outputs[0].shape == (2, 7, 10)
    for output in outputs[1:]:
        assert torch.equal(output, outputs[0])


def test_what_is_shared_is_held_and_trained_once() -> None:
    made = stack()
    names = [name for name in made.state_dict() if "shared" in name]
    assert names == ["shared.projection", "shared.generator.weight", "shared.generator.bias"]
    assert len(list(made.parameters())) == len(made.state_dict())
    optimizer = torch.optim.SGD(made.parameters(), 0.1)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    for _ in range(3):
        features, query = inputs()
        for mixing in made:
            query = mixing(features, query)
        query.pow(3).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    held = {name: value for name, value in made.state_dict().items() if value.numel()}
    assert [name for name, value in held.items() if torch.equal(value, before[name])] == []


def test_a_deep_copy_is_independent_and_a_state_dict_restores_it() -> None:
    made = scrambled()
    expected = made[1](*inputs())
    twin, other = copy.deepcopy(made), stack(seed=3)
    with torch.no_grad():
        made.shared.projection.zero_()
    assert torch.equal(twin[1](*inputs()), expected)
    other.load_state_dict(twin.state_dict())
    assert torch.equal(other[1](*inputs()), expected)


def test_a_stage_by_itself_has_a_shared_part_of_its_own() -> None:
    alone = AdaptiveMixing(SHAPE, rank=2, kernels=1, projection_rank=2)
    state = {name.removeprefix("stages.0."): value for name, value in scrambled().state_dict().items()}
    alone.load_state_dict({name: state[name] for name in alone.state_dict()})
    torch.testing.assert_close(alone(*inputs()), scrambled()[0](*inputs()))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"groups": 5}, "groups: 5 does not divide"),
        ({"points": 0}, "points: 0"),
        ({"ranks": [2, -1]}, "rank: -1"),
        ({"kernels": [1]}, "kernels: 1 numbers.* 2 stages"),
        ({"kernels": [1, 0]}, "kernels: 0"),
        ({"projection_ranks": [1, 2, 3]}, "projection_ranks: 3 numbers"),
    ],
)
def test_bad_sizes_are_named(wrong: dict[str, Any], named: str) -> None:
    sizes = {"channels": 12, "points": 4, "groups": 3, "query_channels": 10, "out_points": 5}
    lists: dict[str, Any] = {"ranks": [2, 2], "kernels": [1, 1], "projection_ranks": [2, 2]}
    with pytest.raises(InvalidInput, match=named):
        AdaptiveMixingStack(
            MixingShape(**{key: wrong.get(key, value) for key, value in sizes.items()}),
            **{key: wrong.get(key, value) for key, value in lists.items()},
        )
