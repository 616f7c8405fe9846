"""`share` and `materialize`: a scheme put on a module, and taken off again."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rpg_bench.errors import InvalidInput
from rpg_bench.sharing.scheme import Batches, Budget, Plan, Sharing, get_scheme
from rpg_bench.sharing.slots import find_slots

ATTRIBUTE = "sharing"  # under which a shared model holds its `Sharing`

Model = TypeVar("Model", bound=nn.Module)


def share(
    model: Model,
    scheme: str,
    dof: Budget = None,
    *,
    seed: int = 0,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    batches: Batches | None = None,
    empty: bool = False,
    **options: Any,
) -> Model:
    """Replace the slots of `model` by what `scheme` generates from `dof` free scalars. In place.

    The free parameters live in `model.sharing`; the slots are no parameters any more. Build the
    optimizer, move to DistributedDataParallel and compile after this call.

    A scheme that rearranges itself while it trains (rigl) has to be told of each step. In a loop of your
    own, around the forward and backward passes of optimizer step 0..steps - 1:

        sharing_of(model).before_step(step, steps)
        ...  # forward and backward, once or several times; optimizer.step()
        sharing_of(model).after_step(step, steps, optimizer)

    For every other scheme these calls do nothing, and rigl without them keeps its first connections.

    Args:
        model: any module with convolution or linear layers.
        scheme: a registered name, such as `rpg_global`.
        dof: the budget: 36864, "36k", "18%", or None for the scheme's default.
        seed: of everything that is fixed (allocation, signs) and of the free parameters' start.
        include: globs over parameter names to add to the slots (stem, head, embeddings).
        exclude: globs over parameter names to take out of the slots.
        batches: called for training batches by schemes that look at data (snip, synflow).
        empty: everything is loaded next, so that such schemes need no data.
        options: the scheme's own.

    Returns:
        `model` itself.

    Raises:
        InvalidInput: unknown scheme or option, budget out of range, glob without a match, or a
            model that is shared already. The model is unchanged then.
    """
    if isinstance(getattr(model, ATTRIBUTE, None), Sharing):
        raise InvalidInput("model: it is shared already; call materialize() first")
    if hasattr(model, ATTRIBUTE):
        raise InvalidInput(f"model: it has an attribute {ATTRIBUTE!r} of its own; share a module around it")
    plan = plan_for(model, scheme, dof, seed=seed, include=include, exclude=exclude, **options)
    chosen = get_scheme(scheme, **options)
    sharing = chosen.build_empty(plan, model) if empty else chosen.build(plan, model, batches)
    first = model.get_parameter(plan.slots[0].name)
    sharing.to(device=first.device, dtype=first.dtype)
    if any(_is_channels_last(model.get_parameter(slot.name)) for slot in plan.slots):
        sharing.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has no hint for it
    for number in plan.generated:
        for owner in plan.slots[number].owners:
            module = model.get_submodule(owner.module)
            if parametrize.is_parametrized(module, owner.attribute):
                continue  # the same module under a second name
            parametrize.register_parametrization(module, owner.attribute, _View(sharing, number), unsafe=True)
    for number in sharing.adapted:
        for layer in dict.fromkeys(model.get_submodule(owner.module) for owner in plan.slots[number].owners):
            layer.register_forward_hook(_Adapt(sharing, number), prepend=True, with_kwargs=True)
    model.add_module(ATTRIBUTE, sharing)
    model.register_forward_pre_hook(_begin, prepend=True)
    model.register_forward_hook(_end, always_call=True)
    if sharing.adapted:
        model.register_forward_hook(_verify)
    model.register_load_state_dict_pre_hook(_check_fingerprint)  # type: ignore[no-untyped-call]  # torch has no hint
    return model


def plan_for(
    model: nn.Module,
    scheme: str,
    dof: Budget = None,
    *,
    seed: int = 0,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    **options: Any,
) -> Plan:
    """What `share` with the same arguments would allocate; changes nothing."""
    return get_scheme(scheme, **options).plan(find_slots(model, include, exclude), dof, seed)


def materialize(model: Model) -> Model:
    """Return a copy of a shared model as an ordinary module: same outputs, plain state_dict.

    Raises:
        InvalidInput: the model is not shared, or what its layers do depends on their input (lors_adaptive).
    """
    for number in sharing_of(model).adapted:
        plan = sharing_of(model).plan
        raise InvalidInput(
            f"sharing: {plan.scheme} adds to {plan.slots[number].name} what depends on the layer's input, which "
            "cannot be folded into a weight; use the shared model itself"
        )
    plain = copy.deepcopy(model)
    sharing = sharing_of(plain)
    with torch.no_grad():
        values = [value.clone() for value in sharing.produce()]
    for number, value in zip(sharing.plan.generated, values, strict=True):
        parameter = nn.Parameter(value)
        for owner in sharing.plan.slots[number].owners:
            module = plain.get_submodule(owner.module)
            if not parametrize.is_parametrized(module, owner.attribute):
                continue  # the same module under a second name
            # A deep copy has the class of its original; removal would take the original's property.
            kind = type(module)
            module.__class__ = type(kind.__name__, kind.__bases__, dict(kind.__dict__))
            parametrize.remove_parametrizations(module, owner.attribute)
            # Weights come before biases, as in the module's own order.
            delattr(module, owner.attribute)
            others = dict(module._parameters)
            module._parameters.clear()
            module.register_parameter(owner.attribute, parameter)
            module._parameters.update(others)
    delattr(plain, ATTRIBUTE)
    for hooks in (plain._forward_pre_hooks, plain._forward_hooks, plain._load_state_dict_pre_hooks):
        for key, hook in list(hooks.items()):
            if getattr(hook, "hook", hook) in (_begin, _end, _check_fingerprint):
                del hooks[key]  # type: ignore[attr-defined]
                plain._forward_hooks_always_called.pop(key, None)
    return plain


def sharing_of(model: nn.Module) -> Sharing:
    """Return the `Sharing` of a shared model.

    Raises:
        InvalidInput: the model is not shared.
    """
    sharing = getattr(model, ATTRIBUTE, None)
    if not isinstance(sharing, Sharing):
        raise InvalidInput("model: it is not shared; call share() first")
    return sharing


def _is_channels_last(weight: Tensor) -> bool:
    return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


class _View(nn.Module):
    """The parametrization of one slot: reads it from the model's `Sharing`, holds nothing itself."""

    def __init__(self, sharing: Sharing, number: int) -> None:
        super().__init__()
        # A plain reference: registered as a submodule, the ring would appear under every layer.
        object.__setattr__(self, "source", sharing)
        self.number = number

    def forward(self) -> Tensor:
        source: Sharing = self.source  # type: ignore[assignment]
        return source.read(self.number)

    def right_inverse(self, _: Tensor) -> tuple[()]:
        """No original: the dense weight does not survive as a parameter."""
        return ()


class _Adapt:
    """The forward hook of a layer: what the model's `Sharing` makes of its output.

    An object, not a closure: a deep copy of the model refers to the copied `Sharing`.
    """

    def __init__(self, sharing: Sharing, number: int) -> None:
        self.sharing, self.number = sharing, number

    def __call__(self, layer: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> Tensor:
        features = given[0] if given else named["input"]
        return self.sharing.adapt(self.number, layer, features, output)


def _begin(model: nn.Module, _: Any) -> None:
    sharing_of(model).begin()


def _end(model: nn.Module, _: Any, __: Any) -> None:
    sharing_of(model).end()


def _verify(model: nn.Module, _: Any, __: Any) -> None:
    sharing_of(model).verify()


def _check_fingerprint(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before anything is loaded, strictly or not."""
    sharing_of(model).check_fingerprint(state.get(f"{prefix}{ATTRIBUTE}._extra_state"))
