"""Stacks: slots of equal shape and role in a row of equal layers (LORS, section 3.1)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rpg_bench.sharing.slots import Slot

# A layer's number stands alone between dots (blocks.3) or ends a name after an underscore
# (encoder_layer_3). The digits of conv1, fc2 or layer4 name a role or a stage.
_LAYER_NUMBER = re.compile(r"\d+|.*_\d+")

_ATTENTION = re.compile(r"(^|[._])(attn|attention|self_attn|self_attention|qkv|in_proj_weight|out_proj)([._]|$)")
_MLP = re.compile(r"(^|[._])(mlp|ffn|feed_forward|fc1|fc2|linear1|linear2)([._]|$)")


@dataclass(frozen=True)
class Stack:
    """Slots, by number and in layer order, that can share one weight."""

    role: str  # the slots' name with a star for the layer's number
    slots: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def family(self) -> str:
        """`attn`, `mlp` or `other`: which group pattern applies."""
        if _ATTENTION.search(self.role):
            return "attn"
        return "mlp" if _MLP.search(self.role) else "other"

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of a slot as a matrix: out x (in * k * k)."""
        columns = 1
        for side in self.shape[1:]:
            columns *= side
        return self.shape[0], columns


def find_stacks(slots: Sequence[Slot]) -> tuple[tuple[Stack, ...], tuple[int, ...]]:
    """Group slots into stacks of at least two.

    Where a name has several numbers (stages.2.blocks.5), the one that gives the longer stack counts
    the layers; the innermost of equals.

    Returns:
        The stacks in slot order, and the numbers of the slots that are alone.
    """
    groups: defaultdict[tuple[str, tuple[int, ...]], list[int]] = defaultdict(list)
    for number, slot in enumerate(slots):
        for role in _roles(slot.name):
            groups[role, slot.shape].append(number)
    stacks: dict[str, Stack] = {}
    taken: set[int] = set()
    for number, slot in enumerate(slots):
        if number in taken:
            continue
        candidates = [(role, groups[role, slot.shape]) for role in _roles(slot.name)]
        candidates = [(role, [n for n in members if n not in taken]) for role, members in candidates]
        role, members = max(reversed(candidates), key=lambda c: len(c[1]), default=("", []))
        if len(members) > 1:
            stacks[f"{role} {slot.shape}"] = Stack(role, tuple(members), slot.shape)
            taken.update(members)
    return tuple(stacks.values()), tuple(number for number in range(len(slots)) if number not in taken)


def _roles(name: str) -> list[str]:
    """The name with a star in place of each layer number in turn, outermost first."""
    parts = name.split(".")
    return [
        ".".join([*parts[:position], re.sub(r"\d+$", "*", part), *parts[position + 1 :]])
        for position, part in enumerate(parts)
        if _LAYER_NUMBER.fullmatch(part)
    ]
