"""Adaptive residuals: the definition, sample by sample, and the ways in which layers are called."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from models import images, make
from torch import Tensor, nn

from rpg_bench import InvalidInput, dof_report, materialize, share
from rpg_bench.sharing import plan_for, sharing_of
from rpg_bench.sharing.lors import Lors
from rpg_bench.sharing.lors_adaptive import AdaptivePlan, LorsAdaptiveSharing


def adaptive_of(model: nn.Module) -> LorsAdaptiveSharing:
    sharing = sharing_of(model)
    assert isinstance(sharing, LorsAdaptiveSharing)
    return sharing


def scramble(model: nn.Module) -> nn.Module:
    """Move the residuals away from their start, where they vanish."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "sharing.up" in name or "sharing.generator" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def between(layers: list[nn.Module], **options: Any) -> nn.Module:
    """The layers as a stack, of rank 2, with as many kernels each as they have numbers; no stem, no head."""
    model = nn.Module()
    model.add_module("layers", nn.ModuleList(layers))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in layers:
            layer.reset_parameters()  # type: ignore[operator]
    return scramble(share(model, "lors_adaptive", include="layers.*.weight", **{"rank": 2, **options}))


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 8), (3, 6)),
    "linear on tokens": (lambda: nn.Linear(6, 8, bias=False), (3, 5, 6)),
    "linear on an image": (lambda: nn.Linear(6, 8), (3, 4, 5, 6)),
    "conv1d": (lambda: nn.Conv1d(6, 8, 3), (3, 6, 9)),
    "conv2d": (lambda: nn.Conv2d(6, 8, 3, stride=2, padding=1), (3, 6, 7, 8)),
    "conv2d that wraps": (lambda: nn.Conv2d(6, 8, 3, padding=1, padding_mode="circular"), (3, 6, 5, 5)),
    "conv2d dilated, same": (lambda: nn.Conv2d(6, 8, (3, 5), padding="same", dilation=2, bias=False), (3, 6, 9, 9)),
    "conv2d grouped": (lambda: nn.Conv2d(6, 8, 3, groups=2), (3, 6, 5, 5)),
    "conv2d by channel": (lambda: nn.Conv2d(6, 12, 3, padding=1, groups=6), (3, 6, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(6, 8, 2), (3, 6, 3, 3, 3)),
}


def by_definition(sharing: LorsAdaptiveSharing, number: int, layer: Any, sample: Tensor) -> Tensor:
    """A weight made for this sample: W + sum_k B_k (I + G_k x̄) A_k, for each group of the convolution."""
    linear = isinstance(layer, nn.Linear)
    kernels, rank = sharing._kernels[number], sharing._rank
    shape, key = sharing.plan.slots[number].shape, f"0_{number}"
    up, down, generator = sharing.up[key], sharing.down[key], sharing.generator[key]
    groups = 1 if linear else layer.groups
    pooled = sample.reshape(-1, shape[1]).mean(0)[None] if linear else sample.reshape(groups, shape[1], -1).mean(-1)
    weights = []
    for group, rows in enumerate(sharing.shared[0].chunk(groups)):
        weight = rows
        for kernel in range(kernels):
            part = slice(kernel * rank, (kernel + 1) * rank)
            generated = generator.view(kernels, rank, rank, -1)[kernel] @ pooled[group]
            weight = weight + up.chunk(groups)[group][:, part] @ (torch.eye(rank) + generated) @ down[part]
        weights.append(weight)
    weight = torch.cat(weights).view(shape)
    if linear:
        return nn.functional.linear(sample[None], weight, layer.bias)
    output: Tensor = layer._conv_forward(sample[None], weight, layer.bias)
    return output


@pytest.mark.parametrize("groups", [(1, 1), (2, 3)])
@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS.keys())
def test_the_definition_sample_by_sample(
    layer: Callable[[], nn.Module], shape: tuple[int, ...], groups: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lors, "_pattern", lambda *_: groups)
    model = between([layer(), layer()])
    sharing = adaptive_of(model)
    assert sorted(sharing.adapted) == [0, 1]
    features = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for number in range(2):
        called: Any = model.get_submodule(f"layers.{number}")
        found = called(features)
        expected = torch.cat([by_definition(sharing, number, called, sample) for sample in features])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        # The sample dimension may be missing, the input may be named, and the layout may be another.
        if not isinstance(called, nn.Linear) or len(shape) == 2:  # else its first dimension is taken for the samples
            torch.testing.assert_close(called(features[0]), expected[0], rtol=1e-4, atol=1e-5)
        assert torch.equal(called(input=features), found)
        if len(shape) == 4:
            other = features.contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(called(other), expected, rtol=1e-4, atol=1e-5)


def test_samples_do_not_see_each_other() -> None:
    model = scramble(share(make("vit"), "lors_adaptive", rank=2)).eval()
    torch.testing.assert_close(model(images())[1:2], model(images()[1:2]))


def test_training_starts_as_that_of_lors() -> None:
    model, static = (share(make("vit"), name, rank=3, seed=4).eval() for name in ("lors_adaptive", "lors"))
    torch.testing.assert_close(model(images()), static(images()))
    for shared in (model, static):
        shared(images()).square().sum().backward()
    for name, parameter in static.named_parameters():
        expected, found = parameter.grad, model.get_parameter(name).grad
        assert expected is not None
        assert found is not None
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max() + 1))


def test_the_number_of_degrees_of_freedom() -> None:
    model = timm.create_model("deit_tiny_patch16_224", num_classes=10, img_size=32, patch_size=4)
    plan = plan_for(model, "lors_adaptive", rank=4)
    static = plan_for(model, "lors", rank=4)
    # in x rank x rank for each kernel: 21 in each role, of 192 channels, of 768 in fc2
    assert plan.dof == static.dof + 21 * 16 * (3 * 192 + 768)
    default, papers = plan_for(model, "lors_adaptive").dof, plan_for(model, "lors").dof
    assert 0.8 < default / papers < 1.25
    budget = plan_for(model, "lors_adaptive", "1.5M")
    rank = budget.options["rank"]
    assert budget.dof == plan_for(model, "lors_adaptive", rank=rank).dof <= 1_500_000
    assert plan_for(model, "lors_adaptive", rank=rank + 1).dof > 1_500_000
    groups = {"attn": [1] * 12, "mlp": [0] * 12}
    only = plan_for(model, "lors_adaptive", rank=4, groups=groups)
    assert isinstance(only, AdaptivePlan)
    assert len(only.kernels) == 24


@pytest.mark.parametrize(("name", "options"), [("resnet18", {"zero_init_last": False}), ("convnext_atto", {})])
def test_convolutional_networks_of_timm(name: str, options: dict[str, Any]) -> None:
    dense = timm.create_model(name, num_classes=5, **options)
    plan = plan_for(dense, "lors_adaptive", rank=1)
    model = scramble(share(dense, "lors_adaptive", rank=1))
    sharing = adaptive_of(model)
    assert sorted(sharing.adapted) == sorted(plan.generated)
    assert dof_report(model).dof == plan.dof
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    for title, parameter in sharing.named_parameters():
        assert parameter.grad is not None, title
        assert parameter.grad.count_nonzero() > 0, title


def test_rank_zero_folds() -> None:
    model = share(make("vit"), "lors_adaptive", rank=0).eval()
    assert torch.equal(materialize(model)(images()), model(images()))


class Repeated(nn.Module):
    """Two layers of one stack: one of them used twice and known by two names, both tied to a third."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.again = self.blocks[0]
        self.tied = nn.Linear(6, 6)
        self.tied.weight = self.blocks[1].weight  # type: ignore[assignment]

    def forward(self, features: Tensor) -> Tensor:
        for layer in (self.blocks[0], self.blocks[1], self.again, self.tied):
            features = layer(features).tanh()
        return features


def test_a_layer_used_twice_and_tied_layers() -> None:
    model = scramble(share(Repeated(), "lors_adaptive", rank=2, include="*.weight", exclude=()))
    sharing = adaptive_of(model)
    assert len(sharing.adapted) == 2
    features = torch.randn(3, 6)
    expected = features
    for number, name in ((0, "blocks.0"), (1, "blocks.1"), (0, "again"), (1, "tied")):
        layer = model.get_submodule(name)
        expected = torch.cat([by_definition(sharing, number, layer, sample) for sample in expected]).tanh()
    torch.testing.assert_close(model(features), expected)


class Bypassing(nn.Module):
    """As some transformers of timm do with qkv."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.head = nn.Linear(6, 6)

    def forward(self, features: Tensor) -> Tensor:
        for layer in self.blocks:
            features = nn.functional.linear(self.stem(features), layer.weight, layer.bias)  # type: ignore[arg-type]
        output: Tensor = self.head(features)
        return output


def test_a_weight_that_another_module_reads_is_refused_when_it_is_read() -> None:
    model = share(Bypassing(), "lors_adaptive", rank=2)
    with pytest.raises(InvalidInput, match=r"model: blocks\.0\.weight .*sharing\.exclude=blocks\.0\.weight") as caught:
        model(torch.randn(2, 6))
    assert "\n" not in str(caught.value)


def test_another_error_in_the_first_pass_is_the_one_that_is_shown(recwarn: pytest.WarningsRecorder) -> None:
    model = share(make("vit"), "lors_adaptive", rank=2)
    model.get_submodule("blocks.0.attn").register_forward_pre_hook(lambda _, given: given[0][..., :-1])
    with pytest.raises(RuntimeError, match=r"shape|size"):
        model(images())
    assert not recwarn.list


class OwnPass(nn.Linear):
    """Not what a linear layer computes."""

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.linear(features, self.weight / self.weight.norm(), self.bias)


def test_layers_with_a_forward_pass_of_their_own_keep_the_static_residual() -> None:
    layers = [nn.Linear(6, 6), *(OwnPass(6, 6) for _ in range(2)), nn.Linear(6, 6)]
    model = share(nn.Sequential(*layers), "lors_adaptive", rank=2)
    assert len(adaptive_of(model).adapted) == 1
    scramble(model)
    layer = model[1]
    key = "0_1"
    sharing = adaptive_of(model)
    expected = sharing.shared[0] + sharing.up[key] @ sharing.down[key]
    torch.testing.assert_close(layer.weight, expected)


def attention_network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        return nn.Sequential(encoder, nn.Linear(16, 3))


def test_multihead_attention_is_static_and_no_fast_path_leaves_residuals_out() -> None:
    model = scramble(share(attention_network(), "lors_adaptive", rank=2))
    sharing = adaptive_of(model)
    names = {sharing.plan.slots[number].name.split(".")[-2] for number in sharing.adapted}
    assert names == {"linear1", "linear2"}
    assert len(sharing.plan.generated) == 8
    batch = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    expected = model.train()(batch)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(batch), expected)


def test_sequences_before_samples_are_refused() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32), num_layers=2, enable_nested_tensor=False)
    with pytest.raises(InvalidInput, match=r"0\.layers\.0\.linear1 .*batch_first=True"):
        share(nn.Sequential(encoder, nn.Linear(16, 3)), "lors_adaptive", rank=2)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_refused() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), num_layers=2)
            self.head = nn.Linear(16, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
            output: Tensor = self.head(self.encoder(tokens, src_key_padding_mask=padding))
            return output

    model = share(Padded(), "lors_adaptive", rank=2).eval()
    with torch.no_grad(), pytest.raises(InvalidInput, match=r"enable_nested_tensor=False"):
        model(torch.randn(2, 5, 16))


def gradients_of(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    model(batch).square().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def test_activation_checkpointing_gives_the_same_gradients() -> None:
    model: Any = scramble(share(make("vit"), "lors_adaptive", rank=2))
    expected = gradients_of(model, images())
    model.set_grad_checkpointing(True)
    model.train()
    found = gradients_of(model, images())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5 * float(value.abs().max()), msg=name)


@pytest.mark.parametrize("network", ["vit", "resnet18"])
def test_autocast(network: str) -> None:
    dense = make("vit") if network == "vit" else timm.create_model("resnet18", num_classes=5)
    model = scramble(share(dense, "lors_adaptive", rank=1)).eval()
    batch = images(size=16 if network == "vit" else 64)
    expected = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(batch)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() < 0.1 * expected.norm()
    found.float().square().sum().backward()
    assert {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None} == {torch.float32}


def test_compiled_training_equals_eager() -> None:
    model = scramble(share(make("vit"), "lors_adaptive", rank=2))
    twin = copy.deepcopy(model)
    torch._dynamo.reset()
    compiled: Any = torch.compile(twin, backend="eager", fullgraph=True)
    optimizers = [torch.optim.SGD(each.parameters(), 0.001) for each in (model, twin)]
    for seed in range(3):
        outputs = model(images(seed=seed)), compiled(images(seed=seed))
        torch.testing.assert_close(*outputs)
        for output, optimizer in zip(outputs, optimizers, strict=True):
            output.square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    torch._dynamo.reset()


def test_a_copied_layer_and_a_copied_model_use_their_own_sharing() -> None:
    model = scramble(share(make("vit"), "lors_adaptive", rank=2)).eval()
    twin = copy.deepcopy(model)
    expected = twin(images())
    with torch.no_grad():
        for parameter in adaptive_of(model).parameters():
            parameter.zero_()
    assert torch.equal(twin(images()), expected)
    assert not torch.equal(model(images()), expected)


def test_a_hook_of_the_user_sees_the_whole_output() -> None:
    dense = make("vit")
    seen: list[Tensor] = []
    layer = dense.get_submodule("blocks.0.mlp.fc1")
    layer.register_forward_hook(lambda _, __, output: seen.append(output))
    model = scramble(share(dense, "lors_adaptive", rank=2)).eval()
    features = torch.randn(2, 3, 16)
    assert torch.equal(model.get_submodule("blocks.0.mlp.fc1")(features), seen[0])


def test_networks_without_stacks_are_refused() -> None:
    with pytest.raises(InvalidInput, match="lors_adaptive needs layers of equal shape and role"):
        share(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 4, 3)), "lors_adaptive")
