"""Which weights of a network a scheme may generate (design: "which weights are slots")."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import Tensor, nn

from rpg_bench.errors import InvalidInput, unknown
from rpg_bench.small_maps import SmallMapConv2d

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

# A first convolution inside one of these top-level children makes the whole child the stem
# ("deep" stems have three convolutions).
STEM_NAMES = ("conv1", "stem", "patch_embed")

# The forward passes of layers that multiply by their weight and do nothing else with it.
_LAYER_PASSES = {layer.forward for layer in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, SmallMapConv2d)}

ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


class Owner(NamedTuple):
    """Where a slot's tensor is read: parameter `attribute` of the submodule named `module`."""

    module: str
    attribute: str


@dataclass(frozen=True)
class Slot:
    """One weight tensor of the network; tied weights are one slot with several owners."""

    name: str
    shape: tuple[int, ...]
    kind: str  # "conv", "linear" or "other" (an embedding or table that the user included)
    std: float  # standard deviation at which the layer's own initialiser starts it
    owners: tuple[Owner, ...]
    in_layers: bool = False  # whether each owner is a linear layer or convolution that applies it in its own forward

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of the slot as a matrix: out x (in * k * k)."""
        return self.shape[0], math.prod(self.shape[1:])


def find_slots(model: nn.Module, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> tuple[Slot, ...]:
    """List the slots of `model` in the order of its parameters.

    By default every convolution and linear weight (the projections of `nn.MultiheadAttention`
    included) except the stem or patch embedding, the classifier head and frozen weights. `include`
    adds and `exclude` removes parameters by globs over their names; `exclude` wins.

    Raises:
        InvalidInput: a glob matches nothing, or nothing is left to share.
    """
    names = _names_by_parameter(model)
    parameters: dict[str, Tensor] = {aliases[0]: parameter for parameter, aliases in names.values()}
    for name, parameter in parameters.items():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise InvalidInput(f"model: {name} is not initialised yet; run one batch through the model first")
        if parameter.is_meta:
            raise InvalidInput(f"model: {name} is on the meta device and has no values; build the model on a real one")
    aliases_of = {aliases[0]: aliases for _, aliases in names.values()}
    kinds = _weight_kinds(model)

    private = _stem_weights(model) | _head_weights(model)
    chosen = {
        name
        for name, aliases in aliases_of.items()
        if parameters[name].requires_grad and any(alias in kinds for alias in aliases) and not private & set(aliases)
    }
    shareable = {name: aliases for name, aliases in aliases_of.items() if parameters[name].dim() >= 2}
    chosen |= _matching("sharing.include", include, shareable, aliases_of)
    chosen -= _matching("sharing.exclude", exclude, shareable, aliases_of)
    if not chosen:
        raise InvalidInput("sharing.include / sharing.exclude: no weight is left to share")

    slots = []
    for name, aliases in aliases_of.items():
        if name not in chosen:
            continue
        parameter = parameters[name]
        if not parameter.is_floating_point():
            raise InvalidInput(f"model: {name} has dtype {parameter.dtype}; only floating-point weights are shared")
        kind, groups = next((kinds[alias] for alias in aliases if alias in kinds), ("other", 1))
        slots.append(
            Slot(
                name=name,
                shape=tuple(parameter.shape),
                kind=kind,
                std=initial_std(parameter, kind, groups),
                owners=tuple(Owner(*_split(alias)) for alias in aliases),
                in_layers=all(_is_layer_weight(model, *_split(alias)) for alias in aliases),
            )
        )
    if len({parameters[slot.name].dtype for slot in slots}) > 1:
        raise InvalidInput("model: its weights have several dtypes; call model.float() before share()")
    return tuple(slots)


def initial_std(weight: Tensor, kind: str, groups: int = 1) -> float:
    """Return the standard deviation of the initialiser that most likely made `weight`.

    The answer is a rule evaluated on the shape, not the measured value, so that it does not depend
    on the random draw: rules closer to each other than the draw can tell apart count as the first
    of them. A constant weight gets the first rule of its kind: Kaiming fan-out for a convolution
    (He et al. 2015; the papers' rule), PyTorch's default for a linear layer.
    """
    shape = weight.shape
    receptive = math.prod(shape[2:])
    fan_out, fan_in = shape[0] * receptive, math.prod(shape[1:])
    kaiming_fan_out = math.sqrt(2 / fan_out)
    torch_default = math.sqrt(1 / (3 * fan_in))
    others = [
        math.sqrt(2 * groups / fan_out),  # Kaiming fan-out counted per group (EfficientNet, MobileNet)
        0.02,  # ViT, ConvNeXt
        math.sqrt(2 / fan_in),
        math.sqrt(1 / fan_in),
        math.sqrt(2 / (fan_in + fan_out)),  # Xavier
        1.0,  # nn.Embedding
    ]
    rules = [kaiming_fan_out, torch_default] if kind == "conv" else [torch_default, kaiming_fan_out]
    values = weight.detach().float()
    measured = float(values.std(correction=0)) if weight.numel() > 1 else 0.0
    if measured < 1e-8 or not math.isfinite(measured):
        return rules[0]
    resolution = 0.04 + 8 / math.sqrt(2 * weight.numel())
    distinct: list[float] = []
    for rule in rules + others:
        if all(abs(math.log(rule / kept)) > resolution for kept in distinct):
            distinct.append(rule)
    nearest = min(distinct, key=lambda rule: abs(math.log(measured / rule)))
    if abs(math.log(measured / nearest)) > math.log(1.5):
        return 2.0 ** round(math.log2(measured))
    return nearest


def _names_by_parameter(model: nn.Module) -> dict[int, tuple[Tensor, list[str]]]:
    """Map each distinct parameter to itself and all its names, first name first."""
    names: dict[int, tuple[Tensor, list[str]]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), (parameter, []))[1].append(name)
    return names


def _weight_kinds(model: nn.Module) -> dict[str, tuple[str, int]]:
    """Map the name of every convolution and linear weight to its kind and number of groups."""
    kinds: dict[str, tuple[str, int]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        if isinstance(module, CONVOLUTIONS):
            kinds[f"{prefix}weight"] = ("conv", module.groups)
        elif isinstance(module, (nn.Linear, nn.Bilinear)):
            kinds[f"{prefix}weight"] = ("linear", 1)
        elif isinstance(module, nn.MultiheadAttention):
            kinds.update({f"{prefix}{attribute}": ("linear", 1) for attribute in ATTENTION_WEIGHTS})
    return kinds


def _is_layer_weight(model: nn.Module, path: str, attribute: str) -> bool:
    """Whether it is the weight of a layer that does what its base class does, and is called to do so."""
    layer = model.get_submodule(path)
    if isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return False  # of nn.MultiheadAttention, which reads its weight
    return attribute == "weight" and type(layer).forward in _LAYER_PASSES


def _stem_weights(model: nn.Module) -> set[str]:
    """Names of the weights of the first convolution, or of the whole stem that contains it."""
    for path, module in model.named_modules():
        if isinstance(module, CONVOLUTIONS):
            top = path.split(".")[0]
            stem = model.get_submodule(top) if top in STEM_NAMES else module
            prefix = top if top in STEM_NAMES else path
            return {f"{prefix}.{name}" if prefix else name for name, _ in stem.named_parameters()}
    return set()


def _head_weights(model: nn.Module) -> set[str]:
    """Names of the classifier's weights: timm's own answer, else the last convolution or linear layer."""
    classifier = getattr(model, "get_classifier", None)
    if callable(classifier):
        heads = classifier()
        heads = heads.values() if isinstance(heads, dict) else heads
        heads = list(heads) if isinstance(heads, Iterable) and not isinstance(heads, nn.Module) else [heads]
        owned = {id(p) for head in heads if isinstance(head, nn.Module) for p in head.parameters()}
        return {name for name, p in model.named_parameters(remove_duplicate=False) if id(p) in owned}
    last = [path for path, module in model.named_modules() if isinstance(module, (*CONVOLUTIONS, nn.Linear)) and path]
    return {f"{last[-1]}.weight"} if last else set()


def _matching(
    field: str,
    globs: Iterable[str],
    shareable: dict[str, list[str]],
    everything: dict[str, list[str]],
) -> set[str]:
    """Names in `shareable` that one of `globs` matches by any of their aliases."""
    if isinstance(globs, str):
        globs = [globs]
    matched: set[str] = set()
    for glob in globs:
        hits = {name for name, aliases in shareable.items() if any(fnmatchcase(a, glob) for a in aliases)}
        if not hits:
            if any(fnmatchcase(alias, glob) for aliases in everything.values() for alias in aliases):
                raise InvalidInput(f"{field}: {glob!r} matches only biases, norms or scalars, which are never slots")
            raise _no_match(field, glob, shareable)
        matched |= hits
    return matched


def _no_match(field: str, glob: str, names: Iterable[str]) -> InvalidInput:
    message = str(unknown(field, glob, names)).replace("unknown", "no weight matches", 1)
    return InvalidInput(message)


def _split(name: str) -> tuple[str, str]:
    module, _, attribute = name.rpartition(".")
    return module, attribute


def total_size(slots: Sequence[Slot]) -> int:
    """D: the number of scalars in all slots together."""
    return sum(slot.size for slot in slots)
