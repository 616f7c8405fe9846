"""Shared models behave like any other PyTorch model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from models import images, make
from torch import Tensor, nn

from rpg_bench import materialize, share
from rpg_bench.sharing import sharing_of
from rpg_bench.sharing.ring import RingPlan

NETWORKS = pytest.mark.parametrize("network", ["resnet", "vit", "odd"])
SCHEMES = pytest.mark.parametrize("scheme", ["rpg_global", "rpg_local"])


def shared(network: str = "vit", scheme: str = "rpg_global", dof: int | str = "30%", seed: int = 0) -> nn.Module:
    return share(make(network), scheme, dof, seed=seed)


def ring_of(model: nn.Module) -> nn.Parameter:
    return model.get_parameter("sharing.ring")


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Gradients of all parameters, which are cleared."""
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def gradients_of(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    model(batch).square().sum().backward()
    return gradients(model)


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    """Compare relative to the largest value of each tensor."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = value.abs().max().clamp(min=1e-12)
        assert (found[name] - value).abs().max() <= tolerance * scale, name


@SCHEMES
@NETWORKS
def test_the_gradient_of_a_ring_is_the_sum_over_its_positions(network: str, scheme: str) -> None:
    model = shared(network, scheme).double().eval()
    plain = materialize(model)
    batch = images().double()
    found = gradients_of(model, batch)
    plain(batch).square().sum().backward()
    plan = sharing_of(model).plan
    assert isinstance(plan, RingPlan)
    index = plan.signed_index()
    expected = np.zeros(plan.dof)
    start = 0
    for slot, scale in zip(plan.slots, plan.scales(), strict=True):
        gradient = plain.get_parameter(slot.name).grad
        assert gradient is not None
        for position, value in zip(index[start : start + slot.size], gradient.flatten().tolist(), strict=True):
            expected[position % plan.dof] += scale * value * (-1 if position >= plan.dof else 1)
        start += slot.size
    np.testing.assert_allclose(found.pop("sharing.ring").numpy(), expected, rtol=1e-10, atol=1e-12)
    private = gradients(plain)
    assert_close(found, {name: private[name] for name in found}, 1e-12)


def test_channels_last_gradients_are_the_same() -> None:
    model = shared("resnet").eval()
    expected = gradients_of(model, images())
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert_close(gradients_of(model, images().to(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("options", [{}, {"block": 16}])
def test_the_memory_format_is_the_same_before_sharing_and_after(before: bool, options: dict[str, Any]) -> None:
    model = make("resnet")
    if before:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    share(model, "rpg_global", "30%", **options)
    if not before:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    kernels = [slot for slot in sharing_of(model).produce() if slot.dim() == 4]
    assert kernels
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


@SCHEMES
def test_two_halves_accumulate_to_one_batch(scheme: str) -> None:
    model = shared("vit", scheme)
    expected = gradients_of(model, images())
    for half in images().chunk(2):
        model(half).square().sum().backward()
    assert_close(gradients(model), expected)


def test_two_passes_before_one_backward() -> None:
    model = shared()
    first, second = images().chunk(2)
    expected = gradients_of(model, images())
    (model(first).square().sum() + model(second).square().sum()).backward()
    assert_close(gradients(model), expected)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@NETWORKS
def test_evaluation_between_training_steps(network: str, context: Callable[[], Any]) -> None:
    model = shared(network).eval()
    expected, outputs = gradients_of(model, images()), model(images())
    with context():
        assert torch.equal(model(images()), outputs)
        assert not model(images()).requires_grad
    assert_close(gradients_of(model, images()), expected)


def test_double_precision() -> None:
    model = shared().eval()
    single = model(images())
    model.to(torch.float64)
    double = model(images().double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_back(dtype: torch.dtype) -> None:
    model = shared().eval()
    expected = model(images())
    gradient = gradients_of(model, images())["sharing.ring"]
    model.to(dtype)
    assert model(images().to(dtype)).dtype == dtype
    low = gradients_of(model, images().to(dtype))["sharing.ring"]
    assert low.dtype == dtype
    assert (low.float() - gradient).norm() < 0.1 * gradient.norm()
    model.float()
    torch.testing.assert_close(model(images()), expected, rtol=0.05, atol=0.05)


def test_a_submodule_called_directly() -> None:
    model = shared("resnet").eval()
    plain = materialize(model)
    layer = model.get_submodule("layer2.0.conv2")
    batch = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    output = layer(batch)
    assert torch.equal(output, plain.get_submodule("layer2.0.conv2")(batch))
    output.square().sum().backward()
    gradient = ring_of(model).grad
    assert gradient is not None
    assert gradient.count_nonzero() > 0
    # It follows the ring: nothing is left over from an earlier pass.
    with torch.no_grad():
        model(images())
        ring_of(model).mul_(2)
    torch.testing.assert_close(layer(batch), 2 * output)


@pytest.mark.parametrize("network", ["resnet", "vit"])
def test_features_of_a_timm_model_called_directly(network: str) -> None:
    model = shared(network).eval()
    plain: Any = materialize(model)
    ours: Any = model
    assert torch.equal(ours.forward_features(images()), plain.forward_features(images()))
    expected = gradients_of(model, images())
    ours.forward_head(ours.forward_features(images())).square().sum().backward()
    assert_close(gradients(model), expected)


def test_two_models_do_not_disturb_each_other() -> None:
    first, second = shared(seed=0), shared(seed=1)
    expected = gradients_of(first, images()), gradients_of(second, images())
    outputs = first(images()), second(images())
    assert not torch.equal(*outputs)
    (outputs[0].square().sum() + outputs[1].square().sum()).backward()
    assert_close(gradients(first), expected[0])
    assert_close(gradients(second), expected[1])


def test_an_exception_in_a_forward_pass_leaves_the_model_usable() -> None:
    model = shared("resnet").eval()
    expected = gradients_of(model, images())
    layer = model.get_submodule("layer1.0.conv1")
    weight: Any = layer.weight

    def fail(*_: Any) -> None:
        raise KeyError("test")

    hook = model.get_submodule("layer3").register_forward_hook(fail)
    with pytest.raises(KeyError, match="test"):
        model(images())
    hook.remove()
    with torch.no_grad():
        ring_of(model).mul_(2)
    torch.testing.assert_close(layer.weight, 2 * weight)
    with torch.no_grad():
        ring_of(model).div_(2)
    assert_close(gradients_of(model, images()), expected)


def test_a_shared_model_within_a_bigger_one() -> None:
    inner = shared("vit").eval()
    alone = gradients_of(inner, images())
    outer = nn.Sequential(nn.Identity(), inner)
    assert_close(gradients_of(outer, images()), {f"1.{name}": value for name, value in alone.items()})
    both = nn.Sequential(shared("vit"), shared("vit", "rpg_local")).eval()
    assert [name for name, _ in both.named_parameters() if name.endswith("ring")] == [
        "0.sharing.ring",
        "1.sharing.ring",
    ]


@NETWORKS
@SCHEMES
def test_all_slots_are_produced_once_per_pass(monkeypatch: pytest.MonkeyPatch, network: str, scheme: str) -> None:
    model = shared(network, scheme)
    sharing = sharing_of(model)
    calls = {"produce": 0, "produce_slot": 0}

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(sharing, name)

        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return original(*arguments)

        return call

    for name in calls:
        monkeypatch.setattr(sharing, name, counted(name))
    for passes in range(1, 3):
        model(images()).sum().backward()
        assert calls == {"produce": passes, "produce_slot": 0}


@pytest.mark.parametrize("make_optimizer", [torch.optim.SGD, torch.optim.AdamW])
@NETWORKS
def test_optimizers_reduce_the_loss(network: str, make_optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    model = shared(network).eval()
    optimizer = make_optimizer([ring_of(model)], lr=1e-3)
    targets = torch.arange(4)
    losses = []
    for _ in range(10):
        loss = nn.functional.cross_entropy(model(images()), targets)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("network", ["resnet", "vit"])
@SCHEMES
def test_compiled_training_equals_eager(network: str, scheme: str) -> None:
    model = shared(network, scheme)
    # Values and gradients come from the same kernels with this backend.
    twin = copy.deepcopy(model)
    torch._dynamo.reset()
    compiled: Any = torch.compile(twin, backend="eager", fullgraph=True)
    optimizers = [torch.optim.SGD(each.parameters(), 0.01) for each in (model, twin)]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in range(3):
            outputs = model(images(seed=seed)), compiled(images(seed=seed))
            assert torch.equal(*outputs)
            for output in outputs:
                output.square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()
            assert_close(gradients(twin), gradients(model), 1e-6)
    torch._dynamo.reset()


@NETWORKS
def test_autocast_keeps_the_gradient_of_the_ring_in_float32(network: str) -> None:
    model = shared(network).eval()
    # The bf16 kernel for the weights of a stride-2 convolution on 1 x 1 maps, which a ResNet has at 16 x 16,
    # returns uninitialised memory for the taps that meet no data (seen with torch 2.14 on the CPU).
    batch = images(size=32 if network == "resnet" else 16)
    expected = gradients_of(model, batch)["sharing.ring"]
    with torch.autocast("cpu", torch.bfloat16):
        output = model(batch)
    output.float().square().sum().backward()
    found = gradients(model)["sharing.ring"]
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 0.05 * expected.norm()


@SCHEMES
def test_activation_checkpointing_gives_the_same_gradients(scheme: str) -> None:
    model: Any = shared("vit", scheme)
    expected = gradients_of(model, images())
    model.set_grad_checkpointing(True)
    model.train()
    assert_close(gradients_of(model, images()), expected)


def test_activation_checkpointing_of_the_whole_model() -> None:
    model = shared("vit")
    expected = gradients_of(model, images())
    for reentrant in (False, True):
        batch = images().requires_grad_()
        output = torch.utils.checkpoint.checkpoint(model, batch, use_reentrant=reentrant)
        torch.autograd.backward(output.square().sum())
        assert_close(gradients(model), expected)


def test_second_derivatives() -> None:
    model = shared("odd", dof=50).double()
    (gradient,) = torch.autograd.grad(model(images().double()).square().sum(), ring_of(model), create_graph=True)
    (curvature,) = torch.autograd.grad(gradient.square().sum(), ring_of(model))
    step = 1e-6 * torch.ones_like(ring_of(model))
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            ring_of(model).add_(step, alpha=sign)
        (moved,) = torch.autograd.grad(model(images().double()).square().sum(), ring_of(model))
        values.append(moved.square().sum().item())
        with torch.no_grad():
            ring_of(model).sub_(step, alpha=sign)
    assert curvature.sum().item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4)


def test_a_sequential_model_at_the_root() -> None:
    layers = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(800, 5)]
    model = share(nn.Sequential(*layers), "rpg_global", 100)
    plain = materialize(model)
    assert len(plain) == 5
    assert torch.equal(model(images()), plain(images()))


def attention_network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        return nn.Sequential(encoder, nn.Linear(16, 3))


def test_multihead_attention_when_training() -> None:
    model = share(attention_network(), "rpg_global", 500).train()
    plain = materialize(model)
    batch = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(batch), plain(batch))
    found, expected = gradients_of(model, batch), gradients_of(plain, batch)
    assert found.pop("sharing.ring").count_nonzero() == 500
    assert_close(found, {name: expected[name] for name in found})


def test_the_fast_path_of_multihead_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    model = share(attention_network(), "rpg_global", 500).eval()
    plain = materialize(model)
    batch = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    calls = []
    fast = torch._transformer_encoder_layer_fwd

    def counted(*arguments: Any, **options: Any) -> Tensor:
        calls.append(1)
        return fast(*arguments, **options)

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", counted)
    with torch.no_grad():
        found = model(batch)
        assert len(calls) == 2, "the fast path was not taken"
        assert torch.equal(found, plain(batch))
    torch.testing.assert_close(found, model(batch).detach())
