"""Convolutions over small maps as matrix products: the same values and gradients as torch's own."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rpg_bench import share
from rpg_bench.small_maps import LARGEST_MAP, SmallMapConv2d, _PatchProduct, use_matrix_products
from tests.models import small_resnet


def gradients(layer: nn.Module, images: Tensor) -> list[Tensor]:
    """Output, and the gradients of a fixed function of it by the images and the parameters."""
    images = images.clone().requires_grad_()
    output = layer(images)
    weights = torch.linspace(-1, 1, output.numel()).view(output.shape)
    return [output, *torch.autograd.grad((output * weights).sum(), [images, *layer.parameters()])]


@given(
    st.integers(0, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.booleans(),
    st.integers(1, 5), st.booleans(),
)  # fmt: skip
def test_values_and_gradients_are_those_of_a_convolution(
    count: int, height: int, width: int, stride: int, padding: int, bias: bool, kernel: int, channels_last: bool
) -> None:
    if min(height, width) + 2 * padding < kernel:
        return
    plain = nn.Conv2d(3, 5, kernel, stride, padding, bias=bias).double().float()
    ours = copy.deepcopy(plain)
    use_matrix_products(ours)
    assert isinstance(ours, SmallMapConv2d)
    images = torch.randn(count, 3, height, width)
    if channels_last:
        images = images.to(memory_format=torch.channels_last)
        ours.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for expected, found in zip(gradients(plain, images), gradients(ours, images), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_small_maps_are_products_and_large_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    apply = _PatchProduct.apply

    def watched(images: Tensor, *others: object) -> object:
        seen.append(images.shape[-1])
        return apply(images, *others)

    monkeypatch.setattr(_PatchProduct, "apply", watched)
    layer = SmallMapConv2d(3, 4, 3, padding=1)
    for side in (2, 4, 5):
        layer(torch.randn(1, 3, side, side))
    assert seen == [2, 4]
    assert LARGEST_MAP == 16


@pytest.mark.parametrize(
    ("side", "stride", "met"),
    # Products per axis: 2 outputs meet 2 pixels each; 4 meet 2, 3, 3 and 2; with stride 2, 4 meet 2, 3, 3 and 3.
    [(1, 1, 1), (2, 1, 4), (4, 1, 10), (8, 2, 11)],
)
def test_padding_is_not_multiplied(side: int, stride: int, met: int) -> None:
    layer = SmallMapConv2d(6, 7, 3, stride, padding=1, bias=False)
    images = torch.randn(5, 6, side, side, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        layer(images).sum().backward()
    forward = 2 * 5 * 6 * 7 * met * met
    assert counter.get_total_flops() == 3 * forward


def test_autocast_computes_in_bfloat16_and_gives_float32_gradients() -> None:
    layer = SmallMapConv2d(8, 8, 3, padding=1)
    images = torch.randn(2, 8, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(images)
        expected = nn.functional.conv2d(images, layer.weight, layer.bias, padding=1)
    assert output.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(output, expected, rtol=2e-2, atol=2e-2)
    output.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


def test_a_strided_kernel_over_one_pixel_has_defined_bfloat16_gradients() -> None:
    # oneDNN's convolution leaves the idle taps' gradient unset here.
    layer = SmallMapConv2d(16, 16, 3, stride=2, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(4, 16, 1, 1)).float().sum().backward()
    assert layer.weight.grad is not None
    idle = layer.weight.grad.clone()
    idle[:, :, 1, 1] = 0
    assert not idle.any()


def test_only_plain_convolutions_are_replaced() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 4, 3),
    )
    use_matrix_products(network)
    assert [type(layer) is SmallMapConv2d for layer in network] == [False, False, False, False, True]


def test_a_shared_network_learns_the_same_with_and_without() -> None:
    images = torch.randn(3, 3, 16, 16)
    outputs = []
    for products in (False, True):
        torch.manual_seed(0)
        network = small_resnet()
        if products:
            use_matrix_products(network)
        share(network, "rpg_global", 400).eval()  # batch norm of few images would magnify rounding
        output = network(images)
        output.square().sum().backward()
        outputs.append((output, network.get_parameter("sharing.ring").grad))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-3, atol=1e-4)
