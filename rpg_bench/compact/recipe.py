"""What a network is rebuilt from: everything of a run's configuration that its weights do not say."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rpg_bench.config import STEMS, BackboneConfig, SharingConfig
from rpg_bench.errors import InvalidInput

# Of timm's model function: they read other files, or make something else of the network than a classifier.
REFUSED_OPTIONS = ("pretrained", "checkpoint", "cache", "feature", "out_indices", "scriptable", "exportable", "no_jit")
LARGEST_NUMBER = 1 << 16  # of an option of the network
LARGEST_IMAGE = 4096  # side, pixels
LONGEST_TEXT = 400
MOST_ITEMS = 20_000


@dataclass(frozen=True)
class Recipe:
    """How to rebuild a network, and what its inputs and outputs mean."""

    backbone: BackboneConfig  # its stem decided
    sharing: SharingConfig  # its seed decided
    dof: int | str | None  # as asked for; None of a narrower network, which has a step
    step: int | None  # of a narrower network: see rpg_bench/sharing/narrower.py
    data: str  # name of the data set
    classes: tuple[str, ...]
    channels: int
    image_size: int  # side of the square, pixels
    mean: tuple[float, ...]  # per channel, of pixels in [0, 1]
    std: tuple[float, ...]
    run: str | None = None  # hash

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: object) -> Recipe:
        """Read what `to_dict` wrote, in a file that may be hostile.

        Raises:
            InvalidInput: a field is missing, of another type, or out of range.
        """
        fields = _fields(cls, values, "recipe")
        backbone = BackboneConfig(**_fields(BackboneConfig, fields["backbone"], "recipe.backbone"))
        sharing = SharingConfig(**_fields(SharingConfig, fields["sharing"], "recipe.sharing"))
        recipe = cls(
            **{**fields, "backbone": backbone, "sharing": sharing},
        )
        _check(recipe)
        return dataclasses.replace(
            recipe, classes=tuple(recipe.classes), mean=tuple(recipe.mean), std=tuple(recipe.std)
        )


def _fields(kind: type[Any], values: object, where: str) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(values, dict) or sorted(values) != sorted(names):
        raise InvalidInput(f"file: its {where} does not have the fields {', '.join(names)}")
    return {**values}


def _check(recipe: Recipe) -> None:
    backbone, sharing = recipe.backbone, recipe.sharing
    _text("backbone.name", backbone.name)
    if backbone.stem not in (None, *STEMS):
        raise _wrong("backbone.stem", backbone.stem)
    if backbone.patch_size is not None:
        _whole("backbone.patch_size", backbone.patch_size, 1, LARGEST_IMAGE)
    _options("backbone.options", backbone.options, LARGEST_NUMBER)
    for option in backbone.options:
        if option.startswith(REFUSED_OPTIONS):
            raise InvalidInput(f"file: its recipe.backbone.options.{option[:40]} is not allowed in a file")
    _text("sharing.name", sharing.name)
    _whole("sharing.seed", sharing.seed, 0, 2**63 - 1)
    for name in ("include", "exclude"):
        globs = getattr(sharing, name)
        _list(f"sharing.{name}", globs, 0, 1000)
        for glob in globs:
            _text(f"sharing.{name}", glob)
    _options("sharing.options", sharing.options, 2**40)
    if isinstance(recipe.dof, str):
        _text("dof", recipe.dof)
    elif recipe.dof is not None:
        _whole("dof", recipe.dof, 1, 2**40)
    if recipe.step is not None:
        _whole("step", recipe.step, 1, LARGEST_NUMBER)
    _text("data", recipe.data)
    _list("classes", recipe.classes, 1, MOST_ITEMS)
    for name in recipe.classes:
        _text("classes", name)
    _whole("channels", recipe.channels, 1, 64)
    _whole("image_size", recipe.image_size, 1, LARGEST_IMAGE)
    for name in ("mean", "std"):
        numbers = getattr(recipe, name)
        _list(name, numbers, recipe.channels, recipe.channels)
        for number in numbers:
            finite = type(number) in (int, float) and math.isfinite(number)
            if not finite or (name == "std" and number <= 0):
                raise _wrong(name, number)
    if recipe.run is not None:
        _text("run", recipe.run)


def _wrong(field: str, value: object) -> InvalidInput:
    shown = repr(value)
    return InvalidInput(f"file: its recipe.{field} cannot be {shown if len(shown) <= 60 else shown[:60] + '...'}")


def _text(field: str, value: object) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_TEXT or not value.isprintable():
        raise _wrong(field, value)


def _whole(field: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise _wrong(field, value)


def _list(field: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, (list, tuple)) or not least <= len(value) <= most:
        raise _wrong(field, value)


def _options(field: str, value: object, largest: int, depth: int = 0) -> None:
    """Plain values in lists and mappings, not deep and not large."""
    if isinstance(value, Mapping) and depth < 4 and len(value) <= 1000:
        for key, item in value.items():
            if not isinstance(key, str) or not 1 <= len(key) <= 100 or not key.isprintable():
                raise _wrong(field, key)
            _options(f"{field}.{key}", item, largest, depth + 1)
    elif isinstance(value, (list, tuple)) and 0 < depth < 4 and len(value) <= 1000:
        for item in value:
            _options(field, item, largest, depth + 1)
    elif depth == 0 or not (value is None or isinstance(value, (bool, int, float, str))):
        raise _wrong(field, value)
    elif isinstance(value, str):
        if len(value) > LONGEST_TEXT:
            raise _wrong(field, value)
    elif isinstance(value, (int, float)) and not abs(value) <= largest:
        raise _wrong(field, value)
