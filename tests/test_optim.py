"""Which parameters decay, how the learning rate moves, and the average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import timm
import torch
from models import make
from runner import configured
from torch import nn

from rpg_bench import InvalidInput, share
from rpg_bench.config import OptimizerConfig, ScheduleConfig
from rpg_bench.optim import (
    AveragedModel,
    create_optimizer,
    parameter_groups,
    peak_rate,
    rate_factor,
    set_rate,
)

ALL_KINDS = ("norm", "bias", "token", "position")
EPOCHS, STEPS = 10, 20  # of every schedule below
LAST = EPOCHS * STEPS - 1


def tiny_vit() -> nn.Module:
    network: nn.Module = timm.create_model("test_vit", num_classes=5, img_size=16, patch_size=8, in_chans=1)
    return network


def decays(model: nn.Module, spared: tuple[str, ...]) -> dict[str, bool]:
    """Whether each trained parameter decays, by name."""
    return {
        name: group.weight_decay > 0 for group in parameter_groups(model, 0.1, spared) for name, _ in group.parameters
    }


@pytest.mark.parametrize("scheme", ["rpg_global", "rpg_local"])
def test_the_ring_decays_though_it_has_one_dimension(scheme: str) -> None:
    model = share(make("resnet"), scheme, 100)
    assert decays(model, ALL_KINDS)["sharing.ring"]


def test_norms_biases_tokens_and_positions_are_spared_when_asked() -> None:
    names = decays(share(tiny_vit(), "rpg_global", 100), ALL_KINDS)
    spared = {name for name, decaying in names.items() if not decaying}
    assert {"cls_token", "pos_embed", "norm.weight", "norm.bias", "head.bias", "patch_embed.proj.bias"} <= spared
    assert "blocks.0.norm1.weight" in spared
    assert "blocks.0.attn.qkv.bias" in spared
    assert {name for name, decaying in names.items() if decaying} == {
        "sharing.ring",
        "patch_embed.proj.weight",
        "head.weight",
    }


@pytest.mark.parametrize(
    ("kind", "example"),
    [
        ("norm", "blocks.0.norm1.weight"),
        ("bias", "head.bias"),
        ("token", "cls_token"),
        ("position", "pos_embed"),
    ],
)
def test_each_kind_is_spared_by_its_own_name_only(kind: str, example: str) -> None:
    model = tiny_vit()
    assert not decays(model, (kind,))[example]
    others = tuple(other for other in ALL_KINDS if other != kind)
    assert decays(model, others)[example]


def test_the_parameters_of_every_norm_are_norms() -> None:
    model = nn.Sequential(
        nn.BatchNorm1d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4), timm.layers.LayerNorm2d(4), timm.layers.RmsNorm(4)
    )
    assert not any(decays(model, ("norm",)).values())


def test_everything_decays_by_default_and_frozen_parameters_are_left_out() -> None:
    model = make("odd")
    (group,) = parameter_groups(model, 0.1, ())
    names = [name for name, _ in group.parameters]
    assert "frozen.weight" not in names
    assert group.scalars == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert len({id(parameter) for _, parameter in group.parameters}) == len(names)


def test_every_trained_parameter_is_in_exactly_one_group() -> None:
    model = share(tiny_vit(), "rpg_local", 100)
    listed = [name for group in parameter_groups(model, 0.1, ALL_KINDS) for name, _ in group.parameters]
    assert sorted(listed) == sorted(name for name, p in model.named_parameters() if p.requires_grad)


def test_the_optimizer_has_the_decay_and_the_rate_of_each_group() -> None:
    model = share(tiny_vit(), "rpg_global", 100)
    groups = parameter_groups(model, 0.05, ALL_KINDS)
    config = OptimizerConfig(name="adamw", lr=0.2, lr_reference_batch=512, options={"betas": [0.8, 0.9]})
    optimizer = create_optimizer(config, groups, batch_size=128)
    found = {
        id(parameter): (group["weight_decay"], group["lr"], tuple(group["betas"]))
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found[id(model.sharing.ring)] == (0.05, pytest.approx(0.05), (0.8, 0.9))
    assert found[id(model.pos_embed)] == (0.0, pytest.approx(0.05), (0.8, 0.9))
    set_rate(optimizer, 0.7)
    assert {group["lr"] for group in optimizer.param_groups} == {0.7}


@pytest.mark.parametrize(("optimizer", "nesterov"), [("sgd", False), ("sgd_nesterov", True)])
def test_momentum_is_nesterov_where_the_configuration_says_so(optimizer: str, nesterov: bool) -> None:
    config = configured(f"optimizer={optimizer}").optimizer
    built = create_optimizer(config, parameter_groups(make("resnet"), 0.0, ()), 128)
    assert isinstance(built, torch.optim.SGD)
    assert [(group["nesterov"], group["momentum"]) for group in built.param_groups] == [(nesterov, 0.9)]


@pytest.mark.parametrize("name", ["adamv", "fusedadam", "bnbadam8bit", "adahessian"])
def test_an_optimizer_that_cannot_be_used_is_refused(name: str) -> None:
    if name != "adamv" and torch.cuda.is_available():
        pytest.skip("may be usable with CUDA")
    with pytest.raises(InvalidInput, match=rf"optimizer.*{name}"):
        create_optimizer(OptimizerConfig(name=name), parameter_groups(make("resnet"), 0.0, ()), 128)


def test_an_option_that_the_optimizer_lacks_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"optimizer\.options.*no_such"):
        create_optimizer(
            OptimizerConfig(name="adamw", options={"no_such": 1}), parameter_groups(make("resnet"), 0.0, ()), 128
        )


def test_the_rate_scales_with_the_batch_where_it_has_a_reference() -> None:
    assert peak_rate(OptimizerConfig(lr=1e-3, lr_reference_batch=1024), 256) == pytest.approx(2.5e-4)
    assert peak_rate(OptimizerConfig(lr=1e-3), 256) == 1e-3


def factors(schedule: ScheduleConfig) -> list[float]:
    """The factor at every step."""
    factor = rate_factor(schedule, EPOCHS, STEPS)
    return [factor(step) for step in range(EPOCHS * STEPS)]


def test_constant() -> None:
    assert factors(ScheduleConfig(name="constant")) == [1.0] * (EPOCHS * STEPS)


@pytest.mark.parametrize("name", ["constant", "cosine", "multistep", "exponential"])
def test_warm_up_is_linear_and_reaches_the_schedule(name: str) -> None:
    warm = factors(ScheduleConfig(name=name, warmup_epochs=2, milestones=[5], decay_epochs=5))
    rises = [after - before for before, after in pairwise(warm[: 2 * STEPS + 1])]
    assert min(rises) > 0
    assert max(rises) == pytest.approx(min(rises))
    assert warm[0] == pytest.approx(rises[0])  # as if it had started from zero, one step before
    assert max(warm) == warm[2 * STEPS]
    if name != "exponential":
        assert warm[2 * STEPS] == 1.0


def test_half_an_epoch_of_warm_up() -> None:
    warm = factors(ScheduleConfig(name="constant", warmup_epochs=0.5))
    assert warm[STEPS // 2 - 1] < 1.0
    assert warm[STEPS // 2] == 1.0


def test_cosine_falls_from_one_to_its_end() -> None:
    cosine = factors(ScheduleConfig(name="cosine", final=0.01))
    assert cosine[0] == 1.0
    assert cosine[EPOCHS * STEPS // 2] == pytest.approx((1 + 0.01) / 2)
    assert cosine[EPOCHS * STEPS // 4] == pytest.approx(0.01 + 0.99 * (1 + math.cos(math.pi / 4)) / 2)
    assert cosine[LAST] == pytest.approx(0.01, abs=1e-3)
    assert all(after < before for before, after in pairwise(cosine))


def test_cosine_begins_after_the_warm_up() -> None:
    cosine = factors(ScheduleConfig(name="cosine", warmup_epochs=2, final=0.0))
    halfway = (2 * STEPS + EPOCHS * STEPS) // 2
    assert cosine[halfway] == pytest.approx(0.5)


def test_multistep_falls_by_its_factor_at_each_milestone() -> None:
    steps = factors(ScheduleConfig(name="multistep", milestones=[3, 6], gamma=0.1))
    assert steps[: 3 * STEPS] == [1.0] * (3 * STEPS)
    assert steps[3 * STEPS : 6 * STEPS] == pytest.approx([0.1] * (3 * STEPS))
    assert steps[6 * STEPS :] == pytest.approx([0.01] * (4 * STEPS))


def test_exponential_falls_by_its_factor_every_decay_epochs() -> None:
    falls = factors(ScheduleConfig(name="exponential", gamma=0.1, decay_epochs=4))
    assert falls[0] == 1.0
    assert falls[STEPS - 1] == 1.0  # by epoch, as the official code
    assert falls[4 * STEPS] == pytest.approx(0.1)
    assert falls[6 * STEPS] == pytest.approx(0.1**1.5)


@pytest.mark.parametrize("peak", [0.25, 0.5, 0.0, 1.0])
def test_one_cycle_is_highest_at_its_peak(peak: float) -> None:
    cycle = factors(ScheduleConfig(name="one_cycle", peak=peak, final=0.0))
    top = min(round(peak * EPOCHS * STEPS), LAST)
    assert cycle.index(max(cycle)) == top
    assert cycle[top] == pytest.approx(1.0, abs=1e-3)
    if peak > 0:
        assert cycle[0] == pytest.approx(1 / 25)
    if peak < 1:
        assert cycle[LAST] < 1e-3
    assert all(after > before for before, after in pairwise(cycle[: top + 1]))
    assert all(after < before for before, after in pairwise(cycle[top:]))


@pytest.mark.parametrize("recipe", ["digits", "cpu", "rpg_cifar", "rpg_imagenet", "rpg_imagenet_code", "lors_cifar"])
def test_every_recipe_has_a_rate_at_every_step_that_peaks_at_one(recipe: str) -> None:
    config = configured("dataset=cifar100", f"recipe={recipe}").recipe
    factor = rate_factor(config.schedule, config.epochs, 7)
    rates = [factor(step) for step in range(config.epochs * 7)]
    assert min(rates) > 0
    assert max(rates) == pytest.approx(1.0, abs=0.01)


def test_the_published_rates_of_the_recipes() -> None:
    lors = configured("recipe=lors_cifar").recipe
    factor = rate_factor(lors.schedule, 300, 48)
    assert factor(20 * 48) == 1.0
    assert factor(300 * 48 - 1) == pytest.approx(0.01, abs=1e-4)
    code = configured("recipe=rpg_imagenet_code").recipe
    assert rate_factor(code.schedule, 90, 10)(45 * 10) == pytest.approx(0.1)
    paper = configured("recipe=rpg_imagenet").recipe
    assert rate_factor(paper.schedule, 300, 10)(150 * 10 - 1) == pytest.approx(0.1)


@pytest.mark.parametrize("build", [lambda: make("resnet"), lambda: share(make("resnet"), "rpg_global", 100)])
def test_the_average_equals_one_computed_by_hand(build: Callable[[], nn.Module]) -> None:
    model, decay = build(), 0.8
    average = AveragedModel(copy.deepcopy(model), decay)
    by_hand = {name: p.detach().clone().double() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
            for name, buffer in model.named_buffers():
                if name.endswith("running_mean"):
                    buffer.add_(1.0)
        average.update(model)
        by_hand = {
            name: decay * by_hand[name] + (1 - decay) * p.detach().double() for name, p in model.named_parameters()
        }
    for name, parameter in average.model.named_parameters():
        torch.testing.assert_close(parameter.double(), by_hand[name], rtol=1e-5, atol=1e-6)
        assert not parameter.requires_grad
    running = [name for name in model.state_dict() if name.endswith("running_mean")]
    assert running
    for name in running:
        assert torch.equal(average.model.state_dict()[name], model.state_dict()[name])


def test_a_shared_average_is_generated_from_its_own_ring() -> None:
    model = share(make("resnet"), "rpg_global", 100)
    average = AveragedModel(copy.deepcopy(model), 0.5)
    before = average.model.get_submodule("layer1.0.conv1").weight.detach().clone()
    with torch.no_grad():
        model.sharing.ring.mul_(3.0)
    average.update(model)
    after = average.model.get_submodule("layer1.0.conv1").weight
    torch.testing.assert_close(after, 2 * before)
