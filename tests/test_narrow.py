"""`none` with a budget: a narrower network of the same family."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runner import assert_same_result, checkpoints, only_record, train_tiny
from test_resume import stopping_after
from torch import nn

from rpg_bench import InvalidInput, dof_report, materialize, narrow, share
from rpg_bench.sharing import get_scheme
from rpg_bench.sharing.blueprint import Blueprint
from rpg_bench.sharing.slots import find_slots, total_size
from rpg_bench.signals import Interrupted

FAMILIES = ("test_resnet", "test_vit", "test_convnext")


def full(name: str) -> Any:
    import timm

    return timm.create_model(name)


def blueprint(name: str) -> Blueprint:
    import timm

    return Blueprint(lambda widths: timm.create_model(name, **widths))


def widths(model: Any) -> list[int]:
    """Output channels of a ResNet's stem and stages."""
    return [model.bn1.num_features] + [info["num_chs"] for info in model.feature_info[1:]]


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=5)
@given(share_of_d=st.floats(0.002, 1))
def test_the_slots_hold_at_most_the_budget(name: str, share_of_d: float) -> None:
    total = total_size(find_slots(full(name)))
    budget = max(1, int(share_of_d * total))
    if budget < get_scheme("none").range_of(blueprint(name))[0]:
        return
    model = share(narrow(name, budget), "none")
    report = dof_report(model)
    assert report.dof <= budget
    assert report.dof > 0.55 * budget or share_of_d < 0.05, "a step of the widths below, at most"
    assert report.total == sum(p.numel() for p in model.parameters())
    assert model.eval()(torch.zeros(1, 3, 160, 160)).shape == (1, 1000)


def test_the_widest_that_fits_is_taken() -> None:
    model = narrow("resnet18", "36k")
    assert dof_report(share(model, "none")).dof == 35_218
    assert widths(model) == [4, 4, 7, 14, 29]
    more = dof_report(share(narrow("resnet18", 36_600), "none"))
    assert more.dof <= 36_600


def test_every_width_shrinks_and_nothing_else() -> None:
    dense, model = full("resnet18"), narrow("resnet18", "25%", num_classes=7)
    assert widths(model) == [width // 2 for width in widths(dense)]
    assert dof_report(share(copy.deepcopy(model), "none")).dof == 11_157_504 // 4
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in dense.named_parameters()]
    stem = model.get_submodule("conv1")
    assert isinstance(stem, nn.Conv2d)
    assert (stem.kernel_size, stem.stride, stem.padding) == ((7, 7), (2, 2), (3, 3))
    assert stem.weight.std().item() == pytest.approx(dense.conv1.weight.std().item() * 2**0.5, rel=0.1)
    assert model.get_submodule("fc").weight.shape == (7, 256)


def test_a_vit_keeps_its_heads() -> None:
    model: Any = narrow("deit_tiny_patch16_224", "25%")
    assert model.embed_dim == 96
    assert model.blocks[0].attn.num_heads == full("deit_tiny_patch16_224").blocks[0].attn.num_heads
    assert dof_report(share(model, "none")).dof == 5_308_416 // 4


def test_the_report_refers_to_the_full_network() -> None:
    dense = dof_report(share(full("resnet18"), "none"))
    report = dof_report(share(narrow("resnet18", "36k"), "none"))
    assert (report.slot_scalars, report.dense) == (dense.slot_scalars, dense.dense) == (11_157_504, 11_689_512)
    assert report.ratio == report.slot_scalars / report.dof
    assert report.total == report.dof + report.private < dense.total
    assert report.to_dict()["narrowed"] == {"channels": [4, 7, 14, 29]}
    assert "11,157,504" in str(report)
    assert "channels [4, 7, 14, 29]" in str(report)
    assert "narrowed" not in dense.to_dict()


def test_all_of_d_is_the_full_network() -> None:
    report = dof_report(share(narrow("test_resnet", "100%"), "none"))
    assert report.to_dict() == dof_report(share(full("test_resnet"), "none")).to_dict()


def test_the_same_seed_builds_the_same_network() -> None:
    torch.manual_seed(0)
    first = narrow("test_resnet", "20%").state_dict()
    torch.manual_seed(0)
    second = narrow("test_resnet", "20%").state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_narrower_network_is_an_ordinary_one() -> None:
    model = share(narrow("test_resnet", "20%"), "none")
    twin = share(narrow("test_resnet", "20%"), "none")
    twin.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    expected = model.eval()(images)
    for other in (twin.eval(), materialize(model), copy.deepcopy(model)):
        assert torch.equal(other(images), expected)


def test_slots_that_the_user_chose_are_counted() -> None:
    model = share(narrow("test_resnet", "20k", exclude=["layer4.*"]), "none", exclude=["layer4.*"])
    assert dof_report(model).dof <= 20_000
    assert dof_report(model).slot_scalars == total_size(find_slots(full("test_resnet"), exclude=["layer4.*"]))


@pytest.mark.parametrize(
    ("name", "dof", "named"),
    [
        ("test_resnet", 5, r"dof: 5 is outside the range of none, \d+\.\.363264"),
        ("test_resnet", "1M", r"dof: 1000000 is outside the range of none, \d+\.\.363264; nearest: 363264"),
        ("test_resnet", "many", "'many' is not a budget"),
        ("resnet81", "36k", "did you mean 'resnet"),
        ("resnext50_32x4d", "36k", "ResNet with groups .*; supported: ResNet without groups, Vision"),
        ("vgg11", "36k", "VGG cannot be narrowed"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(name: str, dof: str | int, named: str) -> None:
    with pytest.raises(InvalidInput, match=named) as caught:
        narrow(name, dof)
    assert "\n" not in str(caught.value)


def test_a_network_that_is_built_says_how_to_get_a_narrower_one() -> None:
    with pytest.raises(InvalidInput, match=r"dof: 36000 .* 11157504\.\.11157504; .*rpg_bench\.narrow\(") as caught:
        share(full("resnet18"), "none", "36k")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_stated_range_is_the_range(name: str) -> None:
    network = blueprint(name)
    least, most = get_scheme("none").range_of(network)
    for dof in (least, most):
        model, left = get_scheme("none").network(network, dof)
        assert left is None
        assert dof_report(share(model, "none")).dof == dof
    with pytest.raises(InvalidInput, match=f"{least}..{most}"):
        get_scheme("none").network(network, least - 1)


@pytest.mark.parametrize("stem", ["imagenet", "half", "cifar"])
def test_a_run_trains_and_records_it(stem: str) -> None:
    train_tiny("sharing=none", "dof=10%", f"backbone.stem={stem}", "recipe.epochs=1")
    record = only_record(Path())
    assert record["dof"]["dof"] <= 36_326
    assert record["dof"]["slot_scalars"] == 363_264
    assert record["dof"]["total"] == record["dof"]["dof"] + record["dof"]["private"]
    assert list(record["dof"]["narrowed"]) == ["channels"]
    (path,) = checkpoints(Path())
    assert path.stat().st_size < 4 * 3 * record["dof"]["dense"]


def test_a_run_is_resumed_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("sharing=none", "dof=10%")
    for name in ("whole", "twice"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    train_tiny(*arguments)
    monkeypatch.chdir(tmp_path / "twice")
    with stopping_after(monkeypatch, 11), pytest.raises(Interrupted):
        train_tiny(*arguments)
    train_tiny(*arguments)
    assert len(only_record(tmp_path / "twice")["starts"]) == 2
    assert_same_result(tmp_path / "whole", tmp_path / "twice")
