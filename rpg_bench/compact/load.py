"""A network from a compact file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rpg_bench.compact import container, index
from rpg_bench.compact.encoding import decoded
from rpg_bench.compact.recipe import Recipe
from rpg_bench.errors import InvalidInput
from rpg_bench.sharing.scheme import SCHEMES

LARGEST_NETWORK = 1 << 30  # weights that a file may unpack into, unless more is allowed
BYTES_WHILE_BUILT = 20  # of memory for each, at most; measured on ViT-B: a ring takes 10, `hashed` 20
RECIPE = "recipe"  # attribute of a loaded network


def load(path: str | Path, *, largest: int | None = None) -> nn.Module:
    """Rebuild the network of a compact file, without its configuration and without executing anything in it.

    Args:
        path: what `python -m rpg_bench.export format=compact` wrote.
        largest: weights that it may unpack into; each takes four bytes, and up to 20 while it is built. By default
            2^30, or fewer where this machine has not the memory.

    Returns:
        The network in evaluation mode on the CPU, its weights still generated: `rpg_bench.materialize` makes an
        ordinary network of it. Its attribute `recipe` has the classes' names, the size of images and their
        normalisation. The weights are those that were stored, bit for bit.

    Raises:
        InvalidInput: the file is damaged, truncated, of something else or of a later version, or what it describes is
            not the network that its recipe builds here.
    """
    return loaded(*container.read(Path(path)), largest=largest)


def largest_here() -> int:
    """The weights of the largest network that is loaded on this machine unless more is allowed."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # a system that does not say
        return LARGEST_NETWORK
    return min(LARGEST_NETWORK, memory // BYTES_WHILE_BUILT)


def checked(description: dict[str, Any], largest: int) -> Recipe:
    """The recipe of a file's description, as far as it can be checked without building anything.

    Raises:
        InvalidInput: a field is missing, of another type, or out of range.
    """
    recipe = Recipe.from_dict(description.get("recipe"))
    if recipe.sharing.name not in SCHEMES:
        raise InvalidInput(f"file: it was made by the scheme {recipe.sharing.name[:40]!r}, which is unknown here")
    counts, weights = description.get("counts"), description.get("weights")
    if not isinstance(counts, dict) or sorted(counts) != ["buffers", "free", "private"]:
        raise InvalidInput("file: it does not state how many numbers its network has")
    for count in (*counts.values(), weights):
        if type(count) is not int or not 0 <= count <= largest:
            shown = str(count)[:20]
            raise InvalidInput(f"file: its network has {shown} numbers; allowed: 0 to {largest:,} (largest=)")
    for name, kind in (("fingerprint", dict), ("parts", dict), ("layout", str), ("folded", bool)):
        if not isinstance(description.get(name), kind):
            raise InvalidInput(f"file: it has no {name}")
    return recipe


def loaded(description: dict[str, Any], tensors: dict[str, NDArray[Any]], *, largest: int | None = None) -> nn.Module:
    """The network of what `container.unpacked` returned; see `load`."""
    recipe = checked(description, largest_here() if largest is None else largest)
    # The file may be small for what it unpacks into; a part that is in the file is as large as it says.
    counts = description["counts"]
    for part in ("free", "private", "buffers"):
        stated = description["parts"].get(part)
        if not isinstance(stated, dict) or (stated.get("numbers") != counts[part] and not stated.get("index")):
            raise InvalidInput(f"file: it does not hold the {counts[part]:,} {part} numbers of its network")
    from rpg_bench.compact.parts import PARTS, PRIVATE, parts_of, reset_statistics

    model = _built(recipe, description["weights"], sum(counts.values()), description["fingerprint"])
    parts = parts_of(model, description["folded"])
    if parts.layout() != description["layout"] or any(parts.count(part) != counts[part] for part in PARTS):
        raise InvalidInput(
            "file: the parameters of its network are not those that its recipe builds here; another version of "
            "timm, or a damaged file"
        )
    if description["folded"]:
        reset_statistics(model)
    with torch.no_grad():
        for part in PARTS:
            stored = decoded(part, tensors, description["parts"][part], parts.shapes(part), vectors=part == PRIVATE)
            for tensor, values in zip(parts.floats[part].values(), stored, strict=True):
                tensor.copy_(torch.from_numpy(values).view(tensor.shape))
        _load_integers(parts.integers, tensors.get("integers", np.zeros(0, np.int64)))
        if parts.masked is not None:
            plan, content = parts.masked.plan, tensors.get("survivors", np.zeros(0, np.uint8))
            parts.masked.move_to(torch.from_numpy(index.decoded(content, plan.dof, plan.total, "its survivors")))
    setattr(model, RECIPE, recipe)
    return model.eval()


def _built(recipe: Recipe, weights: int, numbers: int, fingerprint: dict[str, Any]) -> nn.Module:
    from rpg_bench.lazy import without_collection, without_wandb

    with without_wandb(), without_collection():
        import timm  # noqa: F401  (it takes seconds)
    from rpg_bench.compact.build import build
    from rpg_bench.compact.ration import rationed
    from rpg_bench.sharing import sharing_of

    try:
        with rationed(weights + numbers):
            model = build(recipe, weights)
    except InvalidInput as error:
        raise InvalidInput(str(error) if str(error).startswith("file: ") else f"file: {error}") from None
    except (ArithmeticError, AttributeError, IndexError, KeyError, MemoryError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidInput(f"file: its network cannot be built: {type(error).__name__}: {reason}") from None
    except RuntimeError as error:
        raise InvalidInput(f"file: its network cannot be built: {' '.join(str(error).split())[:200]}") from None
    ours = json.loads(json.dumps(sharing_of(model).fingerprint()))
    for key in {**ours, **fingerprint}:
        if ours.get(key) != fingerprint.get(key):
            raise InvalidInput(
                f"file: its fingerprint says {key} {str(fingerprint.get(key))[:80]}, what is built here has "
                f"{str(ours.get(key))[:80]}; it was made by another version, or is damaged"
            )
    return model


def _load_integers(integers: dict[str, torch.Tensor], stored: NDArray[Any]) -> None:
    if stored.dtype != np.int64 or len(stored) != sum(tensor.numel() for tensor in integers.values()):
        raise InvalidInput("file: its whole numbers are not those of its network; it is damaged")
    start = 0
    for tensor in integers.values():
        values = torch.from_numpy(stored[start : start + tensor.numel()].copy())
        tensor.copy_(values.view(tensor.shape))
        start += tensor.numel()
