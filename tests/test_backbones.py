"""Networks that fit the images: stems, patch sizes, channels and classes."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from rpg_bench import InvalidInput
from rpg_bench.backbones import create_backbone, default_patch_size, idle_taps
from rpg_bench.config import BackboneConfig


def create(name: str, size: int, recipe_stem: str | None = None, channels: int = 3, **options: object) -> nn.Module:
    backbone = BackboneConfig(name=name, **options)  # type: ignore[arg-type]
    return create_backbone(backbone, classes=7, channels=channels, image_size=size, recipe_stem=recipe_stem)


def sides(model: nn.Module, size: int, channels: int = 3) -> tuple[int, ...]:
    """Side of the feature maps after each of a ResNet's stages."""
    found: list[int] = []
    hooks = [
        model.get_submodule(stage).register_forward_hook(lambda _, __, output: found.append(output.shape[-1]))
        for stage in ("layer1", "layer2", "layer3", "layer4")
    ]
    with torch.no_grad():
        model.eval()(torch.zeros(1, channels, size, size))
    for hook in hooks:
        hook.remove()
    return tuple(found)


@pytest.mark.parametrize(
    ("stem", "expected"),
    [("imagenet", (8, 4, 2, 1)), ("half", (16, 8, 4, 2)), ("cifar", (32, 16, 8, 4))],
)
def test_the_stem_decides_the_feature_maps(stem: str, expected: tuple[int, ...]) -> None:
    model = create("test_resnet", 32, stem=stem)
    assert sides(model, 32) == expected
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    ("asked", "recipe", "size", "expected"),
    [
        (None, None, 32, 32),  # small images: cifar
        (None, None, 96, 24),  # large ones: imagenet
        (None, "half", 96, 48),
        ("cifar", "half", 32, 32),  # what is asked for wins
        ("imagenet", None, 32, 8),
    ],
)
def test_the_stem_is_the_one_asked_for_else_the_recipes_else_by_size(
    asked: str | None, recipe: str | None, size: int, expected: int
) -> None:
    assert sides(create("test_resnet", size, recipe, stem=asked), size)[0] == expected


def test_a_replaced_stem_starts_like_the_rest_of_the_network() -> None:
    torch.manual_seed(0)
    stem = create("resnet18", 32, stem="cifar").get_submodule("conv1")
    assert stem.weight.shape == (64, 3, 3, 3)
    assert float(stem.weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


@pytest.mark.parametrize("name", ["resnet26d", "resnet50_gn", "resnet18", "seresnet18"])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_every_kind_of_resnet_has_a_stem(name: str, stem: str) -> None:
    if name not in timm.list_models():
        pytest.skip(f"this timm has no {name}")
    assert sides(create(name, 32, stem=stem), 32)[0] == (32 if stem == "cifar" else 8)


def test_slots_of_a_resnet_do_not_depend_on_the_stem() -> None:
    counts = {
        stem: sum(p.numel() for name, p in create("resnet18", 32, stem=stem).named_parameters() if "layer" in name)
        for stem in ("imagenet", "half", "cifar")
    }
    assert len(set(counts.values())) == 1


@pytest.mark.parametrize(
    ("stem", "idle", "scalars"),
    [("imagenet", 6_946_816, 11_166_912), ("half", 0, 11_159_232), ("cifar", 0, 11_159_232)],
)
def test_idle_taps_of_resnet18_on_cifar(stem: str, idle: int, scalars: int) -> None:
    model = create("resnet18", 32, stem=stem)
    assert idle_taps(model, 3, 32) == (idle, scalars)
    assert model.training


def test_idle_taps_are_those_without_a_gradient() -> None:
    """The count against the definition: a weight that no input reaches has no gradient."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(4, 4, 7, stride=4, padding=3, groups=2, bias=False),
        nn.Conv2d(4, 6, 5, padding=4, dilation=2),
        nn.Conv2d(6, 6, (1, 3), padding=(0, 1)),
    )
    kernels = [layer.weight for layer in model if isinstance(layer, nn.Conv2d)]
    reached = [torch.zeros_like(kernel, dtype=torch.bool) for kernel in kernels]
    for seed in range(3):  # a gradient may be zero by chance
        torch.manual_seed(seed)
        model.zero_grad()
        model(torch.randn(4, 3, 6, 6)).square().sum().backward()
        for kernel, hit in zip(kernels, reached):
            assert kernel.grad is not None
            hit |= kernel.grad != 0
    unreached = sum(int((~hit).sum()) for hit in reached)
    assert unreached > 0
    assert idle_taps(model, 3, 6) == (unreached, sum(kernel.numel() for kernel in kernels))


def test_counting_idle_taps_changes_nothing() -> None:
    model = create("test_resnet", 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    idle_taps(model, 3, 16)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("size", "patch"), [(8, 1), (16, 2), (28, 2), (32, 4), (64, 8), (96, 12), (224, 16), (384, 16)]
)
def test_patches_are_an_eighth_of_the_image_and_divide_it(size: int, patch: int) -> None:
    assert default_patch_size(size) == patch
    assert size % patch == 0


@pytest.mark.parametrize(("size", "asked", "patches"), [(32, None, 64), (32, 8, 16), (16, None, 64)])
def test_a_vit_has_patches_that_suit_the_images(size: int, asked: int | None, patches: int) -> None:
    model = create("deit_tiny_patch16_224", size, patch_size=asked)
    assert model.get_parameter("pos_embed").shape == (1, patches + 1, 192)
    assert model(torch.zeros(1, 3, size, size)).shape == (1, 7)


def test_deit_tiny_at_224_is_the_published_one() -> None:
    ours = create("deit_tiny_patch16_224", 224)
    theirs = timm.create_model("deit_tiny_patch16_224", num_classes=7)
    assert {n: p.shape for n, p in ours.named_parameters()} == {n: p.shape for n, p in theirs.named_parameters()}


@pytest.mark.parametrize(
    "name", ["test_efficientnet", "test_convnext", "test_vit", "test_nfnet", "mobilenetv3_small_050", "resnet34"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_any_network_of_timm_follows_the_images_and_classes(name: str, channels: int) -> None:
    model = create(name, 32, channels=channels).eval()
    assert model(torch.zeros(2, channels, 32, 32)).shape == (2, 7)


def test_options_are_passed_on() -> None:
    assert create("test_resnet", 16, options={"drop_rate": 0.3}).drop_rate == 0.3


@pytest.mark.parametrize(
    ("name", "size", "options", "message"),
    [
        ("resnet81", 32, {}, r"backbone\.name: .*resnet81.*did you mean 'resnet"),
        ("deit_tiny_patch16_224", 32, {"stem": "half"}, r"backbone\.stem: 'half' .*ResNet"),
        ("resnet18", 32, {"patch_size": 4}, r"backbone\.patch_size: .*resnet18"),
        ("test_vit", 32, {"patch_size": 5}, r"patch_size: 5"),
        ("test_vit", 32, {"patch_size": 64}, r"patch_size: 64"),
        ("test_vit", 32, {"patch_size": 0}, r"patch_size: 0"),
        ("test_resnet", 32, {"options": {"no_such": 1}}, r"backbone\.options: .*no_such"),
        ("test_vit", 32, {"options": {"no_such": 1}}, r"backbone\.options: .*no_such"),
    ],
)
def test_what_a_network_does_not_have_is_refused(
    name: str, size: int, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        create(name, size, **options)
