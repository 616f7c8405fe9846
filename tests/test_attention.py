"""Attention written out: the same values and gradients as the fused kernel's."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from runner import TINY, composed
from torch.nn import functional

from rpg_bench.attention import use_plain_attention
from rpg_bench.train import train


def test_values_and_gradients_are_those_of_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    fused = timm.create_model("test_vit", img_size=16, patch_size=4, num_classes=5)
    plain = copy.deepcopy(fused)
    use_plain_attention(plain)
    images, weights = torch.randn(2, 3, 16, 16), torch.randn(2, 5)
    found = []
    for network in (fused, plain):
        output = network(images)
        found.append([output, *torch.autograd.grad((output * weights).sum(), list(network.parameters()))])
    for ours, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the fused kernel was called")

    monkeypatch.setattr(functional, "scaled_dot_product_attention", refused)
    plain(images)
    with pytest.raises(AssertionError, match="fused"):
        fused(images)


@pytest.mark.parametrize(("precision", "fused"), [("bf16", False), ("fp32", True)])
def test_the_trainer_chooses_by_precision(monkeypatch: pytest.MonkeyPatch, precision: str, fused: bool) -> None:
    calls: list[int] = []
    original = functional.scaled_dot_product_attention

    def counted(*given: object, **named: object) -> object:
        calls.append(1)
        return original(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(functional, "scaled_dot_product_attention", counted)
    transformer = ("backbone.name=test_vit", "backbone.patch_size=4", "recipe.epochs=1", "dof=1k")
    train(composed(*TINY, *transformer, f"recipe.precision={precision}"))
    assert bool(calls) is fused
