"""A compact file holds a network's free and private numbers, and gives the same network back."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compact_files import CLASSES, inputs, recipe, small_file, trained
from hypothesis import given, settings
from hypothesis import strategies as st

import rpg_bench
from rpg_bench.compact import container, index
from rpg_bench.compact.encoding import Encoding, decoded, encoded
from rpg_bench.compact.load import loaded
from rpg_bench.compact.parts import fold_statistics, unit_variance
from rpg_bench.compact.write import Storage, compact
from rpg_bench.sharing import dof_report

# Scheme, budget, network, and options of every kind of free parameter.
SCHEMES: list[tuple[str, int | str | None, str, dict[str, Any]]] = [
    ("rpg_global", "5k", "test_resnet", {}),
    ("rpg_global", "5k", "test_resnet", {"block": 16}),
    ("rpg_local", "5k", "test_resnet", {}),
    ("rpg_lors", "20%", "test_vit", {}),
    ("recurrent", "5k", "test_resnet", {}),
    ("hashed", "5k", "test_resnet", {}),
    ("lowrank", "20%", "test_resnet", {}),
    ("lors", None, "test_vit", {"rank": 2}),
    ("lors_adaptive", None, "test_vit", {"rank": 2}),
    ("tied", None, "test_vit", {}),
    ("magnitude", "5k", "test_resnet", {}),
    ("snip", "5k", "test_resnet", {}),
    ("synflow", "5k", "test_resnet", {}),
    ("rigl", "5k", "test_resnet", {}),
    ("none", None, "test_resnet", {}),
    ("none", None, "test_vit", {}),
]


@pytest.mark.parametrize(("scheme", "dof", "network", "options"), SCHEMES)
def test_every_scheme_comes_back_bit_for_bit(
    scheme: str, dof: int | str | None, network: str, options: dict[str, Any], tmp_path: Path
) -> None:
    made = recipe(scheme, dof, network, **options)
    model = trained(made)
    file = compact(model, made)
    path = tmp_path / "file.safetensors"
    path.write_bytes(file.content)
    assert len(file.content) <= file.bound
    report = dof_report(model)
    assert file.total == report.total

    torch.manual_seed(77)
    expected_next = torch.random.get_rng_state()
    found = rpg_bench.load(path)
    assert torch.equal(torch.random.get_rng_state(), expected_next)  # global state is left as it was
    assert not found.training
    assert found.recipe.classes == CLASSES
    with torch.no_grad():
        assert torch.equal(found(inputs()), model(inputs()))
    theirs = dof_report(found)
    assert (theirs.dof, theirs.private, theirs.slot_scalars) == (report.dof, report.private, report.slot_scalars)
    assert dict(found.named_parameters()).keys() == dict(model.named_parameters()).keys()


def test_statistics_that_are_kept_come_back_too() -> None:
    made = recipe()
    model = trained(made)
    file = compact(model, made, Storage(fold=False))
    found = loaded(*container.unpacked(file.content, "file"))
    for name, value in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


def test_a_narrower_network_is_rebuilt_from_its_step() -> None:
    from rpg_bench.compact.build import build

    made = dataclasses.replace(recipe("none", None, "resnet18"), step=40)
    model = trained(made)
    found = loaded(*container.unpacked(compact(model, made).content, "file"))
    with torch.no_grad():
        assert torch.equal(found(inputs()), model(inputs()))
    assert dof_report(found).slot_scalars == dof_report(build(recipe("none", None, "resnet18"))).slot_scalars
    assert dof_report(found).narrowed == dof_report(model).narrowed


def test_survivors_of_a_mask_that_moved_come_back() -> None:
    made = recipe("rigl", "5k")
    model = trained(made)
    sharing: Any = model.sharing
    moved = torch.randperm(sharing.plan.total, generator=torch.Generator().manual_seed(9))[:5000].sort().values
    sharing.move_to(moved)
    file = compact(model, made)
    found = loaded(*container.unpacked(file.content, "file"))
    with torch.no_grad():
        assert torch.equal(found(inputs()), model(inputs()))
    assert 0 < file.index_bytes < sharing.plan.total / 8  # less than a bit for each weight


def test_the_file_is_the_same_for_the_same_network() -> None:
    made = recipe()
    assert compact(trained(made), made).content == small_file()


def test_the_network_stays_as_it_is() -> None:
    made = recipe()
    model = trained(made)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compact(model, made)
    for name, value in model.state_dict().items():
        assert torch.equal(before[name], value), name


def test_a_ring_of_36000_is_within_the_bound() -> None:
    classes = tuple(f"a class called {number}" for number in range(100))
    made = dataclasses.replace(
        recipe(dof="36k", name="resnet18"), classes=classes, channels=3, image_size=32, mean=(0.5,) * 3, std=(0.2,) * 3
    )
    file = compact(trained(made), made)
    assert file.total == 98_628
    assert len(file.content) <= 4 * 98_628 + (16 << 10)


@pytest.mark.parametrize("eps", [1e-5, 1e-3, 1e-6, 1e-8, 1e-2])
def test_folded_statistics_leave_values_as_they_are(eps: float) -> None:
    layer = torch.nn.BatchNorm2d(64, eps=eps).eval()
    with torch.no_grad():
        layer.running_var.fill_(unit_variance(eps))
        values = torch.randn(2, 64, 5, 5)
        assert torch.equal(layer(values), values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_folding_keeps_outputs_bit_for_bit(dtype: torch.dtype, channels_last: bool) -> None:
    torch.manual_seed(0)
    layer = torch.nn.BatchNorm2d(37).eval()
    with torch.no_grad():
        for values in (layer.weight, layer.bias, layer.running_mean):
            values.copy_(torch.randn(37))
        layer.running_var.copy_(torch.rand(37) * 3)
    images = torch.randn(4, 37, 9, 9).to(dtype)
    if channels_last:
        images = images.to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = layer(images)
        fold_statistics(layer)
        assert torch.equal(layer(images), expected)


@given(st.integers(1, 3000), st.floats(0, 1), st.integers(0, 2**32 - 1))
@settings(max_examples=150)
def test_an_index_gives_its_positions_back(universe: int, share: float, seed: int) -> None:
    positions = np.flatnonzero(np.random.RandomState(seed).random_sample(universe) < share).astype(np.int64)
    content = index.encoded(positions, universe)
    assert len(content) == index.size(len(positions), universe) <= -(-universe // 8)
    np.testing.assert_array_equal(index.decoded(content, len(positions), universe, "test"), positions)


def test_an_index_of_few_positions_costs_little_more_than_their_entropy() -> None:
    positions = np.sort(np.random.RandomState(0).choice(11_157_504, 36_000, replace=False)).astype(np.int64)
    share = 36_000 / 11_157_504
    entropy = -11_157_504 * (share * np.log2(share) + (1 - share) * np.log2(1 - share))
    assert 8 * len(index.encoded(positions, 11_157_504)) < 1.1 * entropy


@given(st.sampled_from([32, 8, 4]), st.sampled_from([0, 7, 64]), st.floats(0, 1), st.integers(0, 1000), st.booleans())
@settings(max_examples=150)
def test_encoded_numbers_are_near_what_they_were(
    bits: int, block: int, pruned: float, seed: int, vectors: bool
) -> None:
    random = np.random.RandomState(seed)
    shapes = [(13, 9), (5,), (0,), (40, 3, 3)]
    values = [random.standard_normal(int(np.prod(shape))).astype(np.float32) for shape in shapes]
    for value in values:
        value[random.random_sample(len(value)) < pruned] = 0
    encoding = Encoding(bits, block, 8, clip=False)
    tensors, described, size = encoded("part", values, shapes, encoding, vectors)
    assert sum(tensor.nbytes for tensor in tensors.values()) * 8 - size.total <= 8 * 3  # bits that fill a byte
    found = decoded("part", tensors, described, shapes, vectors)
    for value, own, shape in zip(values, found, shapes, strict=True):
        width = 8 if vectors and len(shape) == 1 else bits
        step = 0 if width == 32 else 1.01 / (2 ** (width - 1) - 1)
        largest = np.abs(value).max(initial=0)
        assert np.abs(own - value).max(initial=0) <= 0.51 * step * largest
        assert (own[value == 0] == 0).all()


def test_pruned_numbers_are_not_stored() -> None:
    random = np.random.RandomState(0)
    values = random.standard_normal(10_000).astype(np.float32)
    values[random.random_sample(10_000) < 0.8] = 0
    tensors, described, size = encoded("part", [values], [(10_000,)], Encoding(8), vectors=False)
    kept = int((values != 0).sum())
    assert described["numbers"] == size.numbers == kept
    assert len(tensors["part.8"]) == kept
    assert 0 < size.masks <= 10_000
    (found,) = decoded("part", tensors, described, [(10_000,)], vectors=False)
    assert ((found != 0) <= (values != 0)).all()


def test_clipping_lowers_the_squared_error() -> None:
    values = np.random.RandomState(0).standard_t(3, 4096).astype(np.float32)

    def error(clip: bool) -> float:
        encoding = Encoding(4, 64, 4, clip)
        tensors, described, _ = encoded("part", [values], [(4096,)], encoding, vectors=False)
        return float(np.square(decoded("part", tensors, described, [(4096,)], False)[0] - values).mean())

    assert error(True) < 0.9 * error(False)


def test_reading_a_header_imports_no_network_library(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(small_file()[:-1])
    code = (
        "import sys, rpg_bench\n"
        "try:\n    rpg_bench.load(sys.argv[1])\n"
        "except rpg_bench.InvalidInput as error:\n    print(error, 'timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120)
    assert "is truncated" in done.stdout, done.stderr
    assert done.stdout.strip().endswith("False")
