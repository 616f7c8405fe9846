"""Outputs and gradients of the official implementation, reproduced from recordings of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rpg_bench import dof_report, share
from rpg_bench.sharing import sharing_of
from rpg_bench.sharing.ring import RING_STD, RingPlan

RECORDED = Path(__file__).resolve().parents[2] / "shared" / "parity" / "rpg_ring.npz"
LAYERS = range(3)

pytestmark = pytest.mark.skipif(
    not RECORDED.is_file(), reason="the recordings of the official code (shared/parity) are not beside the checkout"
)


@pytest.fixture(scope="module")
def recorded() -> dict[str, NDArray[Any]]:
    with np.load(RECORDED) as file:
        return dict(file)


class ThreeLayers(nn.Module):
    """The recorded convolutions side by side."""

    def __init__(self, recorded: dict[str, NDArray[Any]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for layer in LAYERS:
            out_channels, in_channels, size, _ = (int(length) for length in recorded[f"shape_{layer}"])
            stride = int(recorded[f"stride_{layer}"][0])
            conv = nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            self.layers.append(conv)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [layer(each) for layer, each in zip(self.layers, inputs, strict=True)]


@pytest.fixture
def model(recorded: dict[str, NDArray[Any]], monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The layers shared by this package, with the recorded allocation and ring."""
    ring = torch.from_numpy(recorded["ring"])
    dof = ring.numel()
    # (w, -w): an entry with a negative sign is found N further.
    index = np.concatenate(
        [
            recorded[f"index_{layer}"].astype(np.int32) + np.where(recorded[f"sign_{layer}"] < 0, dof, 0)
            for layer in LAYERS
        ]
    ).astype(np.int32)
    monkeypatch.setattr(RingPlan, "signed_index", lambda _: index)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shared = share(ThreeLayers(recorded), "rpg_global", dof, include="layers.*")
    assert dof_report(shared).slots == len(LAYERS)
    with torch.no_grad():
        shared.get_parameter("sharing.ring").copy_(ring)
    return shared


def test_scales(recorded: dict[str, NDArray[Any]], model: nn.Module) -> None:
    plan = sharing_of(model).plan
    assert isinstance(plan, RingPlan)
    for layer, scale in zip(LAYERS, plan.scales(), strict=True):
        out_channels, _, size, _ = recorded[f"shape_{layer}"].tolist()
        assert scale == pytest.approx(float(recorded[f"scale_{layer}"]), rel=1e-6)
        assert scale == pytest.approx(math.sqrt(4608 / (out_channels * size * size)), rel=1e-9)
    assert pytest.approx(math.sqrt(2 / 4608)) == RING_STD


@pytest.mark.parametrize("directly", [False, True])
def test_outputs_and_gradients(recorded: dict[str, NDArray[Any]], model: nn.Module, directly: bool) -> None:
    inputs = [torch.from_numpy(recorded[f"x_{layer}"]) for layer in LAYERS]
    layers = [model.get_submodule(f"layers.{layer}") for layer in LAYERS]
    outputs = [layers[layer](inputs[layer]) for layer in LAYERS] if directly else model(inputs)
    ring = model.get_parameter("sharing.ring")
    total = torch.zeros_like(ring)
    for layer in LAYERS:
        expected = torch.from_numpy(recorded[f"y_{layer}"])
        torch.testing.assert_close(outputs[layer], expected, rtol=1e-4, atol=1e-4 * expected.std().item())
        output_gradient = torch.from_numpy(recorded[f"gy_{layer}"])
        (gradient,) = torch.autograd.grad(outputs[layer], ring, output_gradient, retain_graph=True)
        expected = torch.from_numpy(recorded[f"gring_{layer}"])
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4 * expected.std().item())
        total += expected
    torch.autograd.backward(outputs, [torch.from_numpy(recorded[f"gy_{layer}"]) for layer in LAYERS])
    assert ring.grad is not None
    torch.testing.assert_close(ring.grad, total, rtol=1e-4, atol=1e-4 * total.std().item())
