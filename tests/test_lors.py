"""LORS: the official implementation's outputs, the papers' counts, and solving a budget for a rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from rpg_bench import InvalidInput, dof_report, materialize, share
from rpg_bench.sharing import plan_for
from rpg_bench.sharing.slots import find_slots
from rpg_bench.sharing.stacks import find_stacks

RECORDED = Path(__file__).resolve().parents[2] / "shared" / "parity" / "lors_static.npz"
ROLES = ("qkv", "proj", "fc1", "fc2")


def deit() -> nn.Module:
    return timm.create_model("deit_tiny_patch16_224", num_classes=100, img_size=32, patch_size=4)


@pytest.mark.parametrize(
    ("rank", "encoder"),
    [(4, 730_368), (8, 988_416), (16, 1_504_512), (32, 2_536_704), (48, 3_568_896), (64, 4_601_088)],
)
def test_the_papers_encoder_counts(rank: int, encoder: int) -> None:
    model = deit()
    dof = plan_for(model, "lors", rank=rank).dof
    slots = {slot.name for slot in find_slots(model)}
    private = sum(p.numel() for name, p in model.named_parameters() if name.startswith("blocks.") and name not in slots)
    assert dof + private == encoder


def test_the_papers_configuration_is_the_default() -> None:
    plan = plan_for(deit(), "lors")
    assert plan.dof == 442_368 + 2_064_384
    assert plan_for(deit(), "tied").dof == 442_368


@pytest.mark.parametrize("budget", [442_368, 442_369, 500_000, "20%", "47%", 5_308_416])
def test_a_budget_is_solved_for_the_largest_rank_that_fits(budget: int | str) -> None:
    model = deit()
    plan = plan_for(model, "lors", budget)
    asked = budget if isinstance(budget, int) else int(budget[:-1]) * 5_308_416 // 100
    rank = plan.options["rank"]
    assert plan.dof <= asked < plan_for(model, "lors", rank=rank + 1).dof
    assert plan.dof == plan_for(model, "lors", rank=rank).dof


@pytest.mark.parametrize(
    ("options", "dof", "named"),
    [
        ({}, 442_367, "442368..5308416"),
        ({}, "36k", "nearest: 442368"),
        ({"rank": 4}, "1M", "sharing.rank"),
        ({"rank": -1}, None, "sharing.rank"),
        ({"groups": {"attn": [1, 2]}}, None, "sharing.groups.attn"),
        ({"groups": {"mpl": [1] * 12}}, None, "did you mean 'mlp'"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], dof: int | str | None, named: str) -> None:
    with pytest.raises(InvalidInput, match=named.replace(".", r"\.")):
        plan_for(deit(), "lors", dof, **options)


def test_training_starts_from_plain_sharing() -> None:
    """B is zero: the outputs are those of `tied` with the same shared weights."""
    lors, tied = share(deit(), "lors", seed=3).eval(), share(deit(), "tied", seed=3).eval()
    state = {name: value for name, value in lors.state_dict().items() if not name.startswith("sharing.")}
    tied.load_state_dict({**state, **{k: v for k, v in tied.state_dict().items() if k.startswith("sharing.")}})
    with torch.no_grad():
        for ours, theirs in zip(lors.sharing.shared, tied.sharing.shared, strict=True):
            theirs.copy_(ours)
        images = torch.randn(2, 3, 32, 32)
        assert torch.equal(lors(images), tied(images))


def test_the_residual_of_a_layer_changes_that_layer_only() -> None:
    model = share(deit(), "lors")
    before = [block.attn.qkv.weight.detach().clone() for block in model.blocks]
    with torch.no_grad():
        model.sharing.up["0_5"].normal_()
    changed = [not torch.equal(b, block.attn.qkv.weight) for b, block in zip(before, model.blocks, strict=True)]
    assert changed == [layer == 5 for layer in range(12)]


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet34", "convnext_atto", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"]
)
def test_stacks_are_layers_of_one_role_and_shape(name: str) -> None:
    slots = find_slots(timm.create_model(name))
    stacks, alone = find_stacks(slots)
    assert sorted([*alone, *(n for stack in stacks for n in stack.slots)]) == list(range(len(slots)))
    for stack in stacks:
        assert len(stack.slots) > 1
        prefix, suffix = stack.role.split("*")
        for number in stack.slots:
            slot = slots[number]
            assert slot.shape == stack.shape
            assert slot.name.startswith(prefix)
            assert slot.name.endswith(suffix)


def test_a_slot_alone_in_its_shape_stays_free() -> None:
    model = share(timm.create_model("resnet18"), "lors")
    names = dict(model.named_parameters())
    assert "layer2.0.conv1.weight" in names
    assert "layer1.0.conv1.weight" not in names
    assert (
        dof_report(model).dof
        == sum(
            p.numel()
            for name, p in names.items()
            if name.startswith("sharing.") or name.endswith(("conv1.weight", "0.weight"))
        )
        - model.conv1.weight.numel()
    )


def test_a_network_without_stacks_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 4, 3))
    with pytest.raises(InvalidInput, match="equal shape and role"):
        share(model, "lors")


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded numbers are not beside this checkout")
def test_outputs_of_the_official_implementation() -> None:
    recorded = np.load(RECORDED)

    def values(name: str) -> Tensor:
        return torch.from_numpy(recorded[name])

    layers, width, heads = (int(recorded[key]) for key in ("num_layers", "embed_dim", "num_heads"))
    model = timm.models.VisionTransformer(
        img_size=8,
        patch_size=4,
        embed_dim=width,
        depth=layers,
        num_heads=heads,
        mlp_ratio=int(recorded["mlp_dim"]) / width,
        num_classes=3,
    )
    attn, mlp = (recorded[f"{family}_ranks"].tolist() for family in ("attn", "mlp"))
    share(model, "lors", rank=1, groups={"attn": attn, "mlp": mlp})
    sharing = model.sharing
    with torch.no_grad():
        for number, role in enumerate(ROLES):
            sharing.shared[number].copy_(values(f"shared_{role}"))
            for layer in range(layers):
                sharing.down[f"{number}_{layer}"].copy_(values(f"down_{role}_{layer}"))
                sharing.up[f"{number}_{layer}"].copy_(values(f"up_{role}_{layer}"))
        for layer, block in enumerate(model.blocks):
            for role, module in zip(
                ROLES, (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2), strict=True
            ):
                module.bias.copy_(values(f"bias_{role}_{layer}"))
        for shown in (model.eval(), materialize(model)):
            for layer, block in enumerate(shown.blocks):
                for part, module in (("attn", block.attn), ("mlp", block.mlp)):
                    torch.testing.assert_close(module(values("x")), values(f"{part}_out_{layer}"), rtol=1e-4, atol=1e-5)
