"""Training starts where the dense network's would: each layer's output varies as much, or the scheme says why not."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from rpg_bench import share
from rpg_bench.budget import parse_dof
from rpg_bench.sharing import SCHEMES, get_scheme, sharing_of
from rpg_bench.sharing.slots import Slot, find_slots, total_size

FACTOR = 2.0
# Masks take weights away, and the papers do not scale up what survives: with a share of all weights, about
# that share of the variance is left. Behind a norm it makes no difference.
LOWERED = {"magnitude", "random_prune", "snip", "synflow", "rigl"}
BUDGETS = ("2%", "10%", None)


def resnet() -> nn.Module:
    widths: Any = (32, 32, 64, 64)
    network: nn.Module = ResNet(
        BasicBlock, [2, 1, 1, 2], num_classes=5, channels=widths, stem_width=16, stem_type="deep"
    )
    return network


def vit() -> nn.Module:
    network: nn.Module = VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=4, num_heads=2, num_classes=5)
    return network


NETWORKS = {"resnet": resnet, "vit": vit}


def dense(network: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NETWORKS[network]()


def images() -> Tensor:
    return torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def output_variances(model: nn.Module, slots: tuple[Slot, ...], noise: bool) -> dict[str, float]:
    """Variance of what the weight of each slot adds to its layer's output, for random images.

    noise: whether each layer is fed white noise, so that it is judged alone.
    """
    found: dict[str, float] = {}

    def feed(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        generator = torch.Generator().manual_seed(2)
        return tuple(torch.randn(x.shape, generator=generator) for x in inputs) if noise else None

    def measure(name: str, layer: Any) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            bias = 0.0 if layer.bias is None else layer.bias
            if output.dim() == 4 and isinstance(bias, Tensor):
                bias = bias[:, None, None]
            found[name] = (output - bias).var().item()

        return hook

    hooks = []
    for slot in slots:
        layer = model.get_submodule(slot.owners[0].module)
        hooks += [layer.register_forward_pre_hook(feed), layer.register_forward_hook(measure(slot.name, layer))]
    with torch.no_grad():
        model.train()(images())
    for handle in hooks:
        handle.remove()
    return found


def ratios(network: str, scheme: str, dof: str | None, noise: bool) -> dict[str, float]:
    """Variance over the dense network's, by slot."""
    model = dense(network)
    slots = find_slots(model)
    expected = output_variances(model, slots, noise)
    measured = output_variances(shared(scheme, model, dof), slots, noise)
    assert expected.keys() == measured.keys() == {slot.name for slot in slots}
    return {name: measured[name] / expected[name] for name in expected}


def shared(scheme: str, model: nn.Module, dof: str | None) -> nn.Module:
    """A shared copy of `model`, at the budget or at the nearest that the scheme has."""

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        yield images(), torch.arange(16) % 5

    slots = find_slots(model)
    least, most = get_scheme(scheme).range(slots)
    budget = None if dof is None else min(max(parse_dof(dof, total_size(slots)), least), most)
    return share(copy.deepcopy(model), scheme, budget, batches=batches)


@pytest.mark.parametrize("noise", [True, False], ids=["each layer alone", "within the network"])
@pytest.mark.parametrize("dof", BUDGETS)
@pytest.mark.parametrize("network", list(NETWORKS))
@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - LOWERED))
def test_each_layer_starts_with_the_dense_variance(scheme: str, network: str, dof: str | None, noise: bool) -> None:
    if scheme == "lowrank" and not noise:
        pytest.skip("what few directions pass on depends on how they lie to the inputs' mean, as its docstring says")
    for name, ratio in ratios(network, scheme, dof, noise).items():
        assert 1 / FACTOR <= ratio <= FACTOR, f"{name}: {ratio:.3f}"


@pytest.mark.parametrize("network", list(NETWORKS))
def test_random_pruning_lowers_the_variance_by_its_density(network: str) -> None:
    found = ratios(network, "random_prune", "10%", noise=True)
    assert sum(found.values()) / len(found) == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_a_scheme_that_starts_otherwise_says_why(scheme: str) -> None:
    sharing = sharing_of(shared(scheme, dense("vit"), None))
    assert bool(sharing.start_differs) == (scheme in LOWERED)
