"""Which weights are slots, what they are called, and how their layers start them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from models import OddNetwork, make
from torch import Tensor, nn

from rpg_bench.errors import InvalidInput
from rpg_bench.sharing.slots import Slot, find_slots, initial_std, total_size


def names(slots: tuple[Slot, ...]) -> list[str]:
    return [slot.name for slot in slots]


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def timm_model(name: str, **options: Any) -> nn.Module:
    network: nn.Module = timm.create_model(name, **options)
    return network


@pytest.mark.parametrize(
    ("name", "slots", "scalars"),
    [
        ("resnet18", 19, 11_157_504),
        ("resnet34", 35, 21_258_240),
        ("deit_tiny_patch16_224", 48, 5_308_416),
    ],
)
def test_reference_counts(name: str, slots: int, scalars: int) -> None:
    found = find_slots(timm_model(name, num_classes=10))
    assert len(found) == slots
    assert total_size(found) == scalars


def test_counts_do_not_depend_on_classes_or_stem() -> None:
    network = timm_model("resnet18", num_classes=1000)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    assert total_size(find_slots(network)) == 11_157_504
    tiny = timm_model("deit_tiny_patch16_224", num_classes=3, img_size=32, patch_size=4)
    assert total_size(find_slots(tiny)) == 5_308_416


def test_torchvision_and_timm_resnets_have_the_same_slots() -> None:
    ours, theirs = find_slots(timm_model("resnet18")), find_slots(torchvision.models.resnet18())
    assert [(slot.name, slot.shape) for slot in ours] == [(slot.name, slot.shape) for slot in theirs]


def test_slots_follow_the_order_of_the_parameters() -> None:
    network = make("resnet")
    found = names(find_slots(network))
    assert found == [name for name, _ in network.named_parameters() if name in set(found)]
    assert found[0] == "layer1.0.conv1.weight"
    assert "layer4.0.downsample.0.weight" in found


def test_blocks_of_a_timm_vit() -> None:
    roles = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    expected = [f"blocks.{block}.{role}.weight" for block in range(5) for role in roles]
    found = find_slots(make("vit"))
    assert names(found) == expected
    assert {slot.kind for slot in found} == {"linear"}


def test_blocks_of_a_torchvision_vit() -> None:
    network = torchvision.models.VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5
    )
    roles = (
        "self_attention.in_proj_weight",
        "self_attention.out_proj.weight",
        "mlp.0.weight",
        "mlp.3.weight",
    )
    expected = [f"encoder.layers.encoder_layer_{layer}.{role}" for layer in range(2) for role in roles]
    assert names(find_slots(network)) == expected


def weights_of_layers(network: nn.Module) -> set[str]:
    """Every convolution and linear weight: what the definition starts from."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return {f"{path}.weight" for path, module in network.named_modules() if isinstance(module, kinds)}


@pytest.mark.parametrize(
    ("build", "private"),
    [
        (
            lambda: torchvision.models.mobilenet_v3_small(num_classes=5),
            {"features.0.0.weight", "classifier.3.weight"},
        ),
        (lambda: timm_model("convnext_atto", num_classes=5), {"stem.0.weight", "head.fc.weight"}),
        (lambda: timm_model("efficientnet_b0", num_classes=5), {"conv_stem.weight", "classifier.weight"}),
        (
            lambda: timm_model("mobilenetv3_small_050", num_classes=5),
            {"conv_stem.weight", "classifier.weight"},
        ),
        (
            lambda: timm_model("resnet50d", num_classes=5),
            {"conv1.0.weight", "conv1.3.weight", "conv1.6.weight", "fc.weight"},
        ),
        (lambda: make("resnet"), {"conv1.weight", "fc.weight"}),
        (lambda: make("vit"), {"patch_embed.proj.weight", "head.weight"}),
    ],
    ids=["torchvision_mobilenet", "convnext", "efficientnet", "timm_mobilenet", "deep_stem", "resnet", "vit"],
)
def test_all_layers_but_stem_and_head_are_slots(build: Callable[[], nn.Module], private: set[str]) -> None:
    network = build()
    everything = weights_of_layers(network)
    assert private < everything
    assert set(names(find_slots(network))) == everything - private


def test_a_headless_network_shares_every_block() -> None:
    network = timm_model("resnet18", num_classes=0)
    assert total_size(find_slots(network)) == 11_157_504


def test_multihead_attention_within_a_transformer_layer() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), num_layers=1, enable_nested_tensor=False)
    network = nn.Sequential(encoder, nn.Linear(8, 3))
    found = {slot.name: slot for slot in find_slots(network)}
    layer = "0.layers.0"
    assert set(found) == {
        f"{layer}.self_attn.in_proj_weight",
        f"{layer}.self_attn.out_proj.weight",
        f"{layer}.linear1.weight",
        f"{layer}.linear2.weight",
    }
    assert found[f"{layer}.self_attn.in_proj_weight"].shape == (24, 8)


def test_multihead_attention_with_separate_projections() -> None:
    network = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2, kdim=4, vdim=6), "head": nn.Linear(8, 3)})
    assert names(find_slots(network)) == [
        "attention.q_proj_weight",
        "attention.k_proj_weight",
        "attention.v_proj_weight",
        "attention.out_proj.weight",
    ]


def test_convolutions_of_every_dimension() -> None:
    network = nn.Sequential(
        nn.Conv1d(3, 4, 3),
        nn.Conv1d(4, 4, 3),
        nn.Conv3d(4, 6, 3, groups=2),
        nn.ConvTranspose2d(6, 4, 2),
        nn.Bilinear(2, 2, 3),
        nn.Linear(4, 2),
    )
    found = find_slots(network)
    assert [(slot.name, slot.shape, slot.kind) for slot in found] == [
        ("1.weight", (4, 4, 3), "conv"),
        ("2.weight", (6, 2, 3, 3, 3), "conv"),
        ("3.weight", (6, 4, 2, 2), "conv"),
        ("4.weight", (3, 2, 2), "linear"),
    ]


def test_a_network_without_convolutions_has_no_stem() -> None:
    assert names(find_slots(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)))) == [
        "0.weight",
        "1.weight",
    ]


def test_a_convolution_deep_inside_is_the_whole_stem() -> None:
    network = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), nn.Conv2d(4, 4, 3), nn.Linear(4, 2))
    assert names(find_slots(network)) == ["0.1.weight", "1.weight"]


def test_tied_and_repeated_weights_are_one_slot() -> None:
    found = {slot.name: slot for slot in find_slots(OddNetwork())}
    assert set(found) == {"grouped.weight", "first.weight", "mixed.weight"}
    assert [tuple(owner) for owner in found["first.weight"].owners] == [
        ("first", "weight"),
        ("second", "weight"),
    ]
    assert found["grouped.weight"].shape == (8, 2, 3, 3)
    assert total_size(tuple(found.values())) == 8 * 2 * 9 + 12 * 8 + 8 * 12


def test_a_weight_tied_to_the_head_is_private() -> None:
    network = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4), nn.Linear(4, 10, bias=False))
    network[2].weight = network[0].weight
    assert names(find_slots(network)) == ["1.weight"]


def test_frozen_weights_are_left_alone_unless_included() -> None:
    assert "frozen.weight" not in names(find_slots(OddNetwork()))
    assert "frozen.weight" in names(find_slots(OddNetwork(), include=["frozen.weight"]))


def test_include_adds_stem_and_head_and_tables() -> None:
    network = make("vit")
    found = {slot.name: slot for slot in find_slots(network, include=["patch_embed.*", "head.*", "pos_embed"])}
    base = set(names(find_slots(network)))
    assert set(found) - base == {"patch_embed.proj.weight", "head.weight", "pos_embed"}
    assert found["pos_embed"].kind == "other"
    embedding = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    assert names(find_slots(embedding, include="0.weight")) == ["0.weight", "1.weight"]


def test_exclude_removes_and_wins() -> None:
    network = make("resnet")
    found = names(find_slots(network, include=["conv1.weight"], exclude=["*downsample*", "conv1.*"]))
    assert found == [name for name in names(find_slots(network)) if "downsample" not in name]


def test_globs_match_every_name_of_a_tied_weight() -> None:
    assert "first.weight" not in names(find_slots(OddNetwork(), exclude=["second.*"]))
    assert "mixed.weight" not in names(find_slots(OddNetwork(), exclude=["again.*"]))


@pytest.mark.parametrize("field", ["include", "exclude"])
def test_a_glob_without_a_match_names_the_nearest(field: str) -> None:
    with pytest.raises(
        InvalidInput, match=rf"sharing\.{field}: .*'layer1.0.conv3.weight'.*layer1\.0\.conv[12]\.weight"
    ):
        find_slots(make("resnet"), **{field: ["layer1.0.conv3.weight"]})


@pytest.mark.parametrize("glob", ["*.bias", "bn1.*", "cls_*"])
def test_a_glob_for_what_can_be_no_slot_is_refused(glob: str) -> None:
    network = nn.Sequential(make("resnet"))
    network.cls_scale = nn.Parameter(torch.ones(3))
    with pytest.raises(InvalidInput, match="never slots"):
        find_slots(network, include=[glob.replace("bn1", "0.bn1")])


@pytest.mark.parametrize(
    ("network", "options"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2)), {}),
        (nn.BatchNorm2d(4), {}),
        (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), {"exclude": "*"}),
    ],
)
def test_a_network_with_nothing_to_share_is_refused(network: nn.Module, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="no weight is left"):
        find_slots(network, **options)


def test_a_network_of_several_dtypes_is_refused() -> None:
    with pytest.raises(InvalidInput, match="dtypes"):
        find_slots(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).double(), nn.Linear(4, 2)))


def test_a_lazy_network_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not initialised"):
        find_slots(nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)))


def test_a_network_without_values_is_refused() -> None:
    with pytest.raises(InvalidInput, match="meta device"):
        find_slots(nn.Sequential(nn.Linear(4, 4, device="meta"), nn.Linear(4, 2)))


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: timm_model("resnet18"),
    "small_resnet": lambda: make("resnet", seed=int(torch.randint(1000, ()))),
    "vit_tiny": lambda: timm_model("vit_tiny_patch16_224"),
    "convnext_atto": lambda: timm_model("convnext_atto"),
    "efficientnet_b0": lambda: timm_model("efficientnet_b0"),
    "mobilenetv3_small": lambda: timm_model("mobilenetv3_small_050"),
    "torchvision_mobilenet": lambda: torchvision.models.mobilenet_v3_small(),
    "odd": OddNetwork,
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_initial_deviations_are_right_and_do_not_depend_on_the_draw(name: str) -> None:
    answers = []
    for seed in range(3):
        network = seeded(ARCHITECTURES[name], seed)
        slots = find_slots(network)
        answers.append({slot.name: slot.std for slot in slots})
        for slot in slots:
            measured = network.get_parameter(slot.name).std(correction=0).item()
            # A few hundred values measure a deviation to some per cent only.
            assert 1 / math.sqrt(2) < slot.std / measured < math.sqrt(2), (slot, measured)
    assert answers[0] == answers[1] == answers[2]


def kaiming_fan_out(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


@pytest.mark.parametrize(
    ("initialise", "kind", "shape", "expected"),
    [
        (kaiming_fan_out, "conv", (64, 32, 3, 3), math.sqrt(2 / (64 * 9))),
        (nn.init.xavier_uniform_, "linear", (64, 256), math.sqrt(2 / 320)),
        (lambda weight: nn.init.kaiming_uniform_(weight, a=math.sqrt(5)), "linear", (64, 48), 1 / 12),
        (nn.init.zeros_, "conv", (64, 32, 3, 3), math.sqrt(2 / (64 * 9))),
        (nn.init.zeros_, "linear", (64, 48), 1 / 12),
        (nn.init.normal_, "other", (200, 50), 1.0),
        (lambda weight: nn.init.trunc_normal_(weight, std=0.02), "linear", (100, 200), 0.02),
        (lambda weight: nn.init.normal_(weight, std=0.25), "linear", (200, 200), 0.25),
    ],
)
def test_the_initialiser_is_recognised(
    initialise: Callable[[Tensor], Any], kind: str, shape: tuple[int, ...], expected: float
) -> None:
    weight = torch.empty(shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        initialise(weight)
    assert initial_std(weight, kind) == pytest.approx(expected, rel=0.03)


def test_a_grouped_convolution_started_per_group_is_recognised() -> None:
    weight = torch.empty(64, 2, 3, 3)
    expected = math.sqrt(2 / (64 // 16 * 9))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nn.init.normal_(weight, std=expected)
    assert initial_std(weight, "conv", groups=16) == pytest.approx(expected)
