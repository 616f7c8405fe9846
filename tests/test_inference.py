"""A materialised network is an ordinary one: it compiles, exports, and gives the shared network's outputs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from models import images, make
from torch import Tensor, nn

from rpg_bench import materialize, share
from rpg_bench.small_maps import use_matrix_products

TOLERANCE = 1e-4  # of any output
NETWORKS = pytest.mark.parametrize("network", ["resnet", "vit"])


def shared(network: str, scheme: str = "rpg_global") -> nn.Module:
    """As the training command leaves it: on a CPU with matrix products for small maps."""
    model = make(network)
    use_matrix_products(model)
    return share(model, scheme, "30%").eval()


def assert_agrees(outputs: Tensor, model: nn.Module, batch: Tensor) -> None:
    with torch.no_grad():
        assert float((outputs - model(batch)).abs().max()) < TOLERANCE


@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler")
def test_a_materialised_network_compiles() -> None:
    # A few layers only: every one of them is seconds of a C++ compiler.
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.Flatten(),
        nn.Linear(256, 5),
    )
    use_matrix_products(model)
    share(model, "rpg_global", "30%").eval()
    compiled: Any = torch.compile(materialize(model), fullgraph=True)
    with torch.no_grad():
        assert_agrees(compiled(images()), model, images())


@NETWORKS
def test_a_materialised_network_is_exported(network: str) -> None:
    model = shared(network)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(materialize(model), (images(2),), dynamic_shapes=({0: batch},))
    for count in (2, 5):
        assert_agrees(program.module()(images(count)), model, images(count))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@NETWORKS
def test_a_materialised_network_is_exported_to_onnx(network: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = shared(network)
    path = tmp_path / "model.onnx"
    torch.onnx.export(materialize(model), (images(2),), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = [entry.name for entry in session.get_inputs()]
    (outputs,) = session.run(None, {name: images(2).numpy()})
    assert_agrees(torch.from_numpy(outputs), model, images(2))
