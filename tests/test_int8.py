"""8-bit weights and activations of a plain network, compiled."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from rpg_bench import InvalidInput
from rpg_bench.compact import int8


@pytest.mark.skipif(not int8.available() or not shutil.which("g++"), reason="torchao or a C++ compiler is missing")
@pytest.mark.filterwarnings("ignore")
def test_the_quantised_network_is_near_the_plain_one() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    ).eval()
    images = torch.randn(16, 3, 8, 8)
    found = int8.quantised_network(plain, [images[:8], images[8:]])(images)
    expected = plain(images).detach()
    assert not torch.equal(found, expected)
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "available", lambda: False)
    with pytest.raises(InvalidInput, match=r"int8: needs torchao; pip install 'rpg-bench\[int8\]'"):
        int8.quantised_network(nn.Linear(1, 1), [])
