"""`rpg_local`: several rings, each for its own part of the network (RPG, arXiv 2107.07110, section 3.2)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from rpg_bench.budget import check_range, divide, parse_dof
from rpg_bench.errors import InvalidInput, unknown
from rpg_bench.sharing.ring import Ring, RingPlan, RingScheme
from rpg_bench.sharing.rpg_global import DEFAULT_DOF
from rpg_bench.sharing.scheme import Budget, register
from rpg_bench.sharing.slots import Slot, total_size

# What a ring is given: a number of DoF or a share of the budget.
Amounts = dict[str, str | int | float]

_NUMBERED = re.compile(r".*?\d+(?=\.|$)")


@register("rpg_local")
@dataclass(frozen=True)
class RpgLocal(RingScheme):
    """One ring per stage, or as `rings` says.

    `rings` maps the name of each ring to the globs of its slots (one or a list), or to
    `{slots: globs, dof: amount}` with an amount or a share of the whole budget; rings without an
    amount divide what is left in proportion to their slots' sizes.
    """

    source = "Recurrent Parameter Generators, arXiv 2107.07110"

    rings: Mapping[str, Any] | None = None

    def range(self, slots: Sequence[Slot]) -> tuple[int, int]:
        return len(self._parts(slots)[0]), total_size(slots)

    def _parts(self, slots: Sequence[Slot]) -> tuple[dict[str, list[int]], Amounts]:
        return (stages(slots), Amounts()) if self.rings is None else _user_rings(self.rings, slots)

    def plan(self, slots: Sequence[Slot], dof: Budget, seed: int) -> RingPlan:
        parts, amounts = self._parts(slots)
        total = total_size(slots)
        if dof is None and parts.keys() == amounts.keys() and not any(str(a).endswith("%") for a in amounts.values()):
            budget = sum(parse_dof(amount, total, f"sharing.rings.{name}") for name, amount in amounts.items())
        else:
            budget = parse_dof(DEFAULT_DOF if dof is None else dof, total)
        check_range(budget, *self.range(slots), f"{self.name} with {len(parts)} rings")
        sizes = {name: sum(slots[number].size for number in numbers) for name, numbers in parts.items()}
        budgets = _budgets(sizes, amounts, budget)
        rings = [Ring(name, tuple(numbers), budgets[name]) for name, numbers in parts.items()]
        return self.plan_rings(slots, rings, seed)


def stages(slots: Sequence[Slot]) -> dict[str, list[int]]:
    """Group slots by the network's own stages (ResNet: layer1..layer4).

    A stack of equal blocks (ViT), or a network of more than eight parts, becomes four groups of
    consecutive parts. Slots outside of any numbered part, and parts of one slot (a stem that was
    included), join the part before them, or the first one.
    """
    names = [match.group() if (match := _NUMBERED.match(slot.name)) else "" for slot in slots]
    sizes = Counter(names)
    numbered = [name for name in dict.fromkeys(names) if name and (sizes[name] > 1 or max(sizes.values()) == 1)]
    if not numbered:
        return {"all": list(range(len(slots)))}
    contents = Counter(
        tuple(sorted(slot.shape for slot, own in zip(slots, names, strict=True) if own == name)) for name in numbered
    )
    most_equal = 2 * contents.most_common(1)[0][1] > len(numbered)
    groups = [[name] for name in numbered]
    if len(numbered) > 8 or (most_equal and len(numbered) > 4):
        groups = [list(group) for group in np.array_split(numbered, 4)]
    titles = {name: _title(group) for group in groups for name in group}
    parts: dict[str, list[int]] = {title: [] for title in titles.values()}
    current = titles[numbered[0]]
    for number, name in enumerate(names):
        current = titles.get(name, current)
        parts[current].append(number)
    return parts


def _title(group: Sequence[str]) -> str:
    """`blocks.0-2` for blocks.0, blocks.1 and blocks.2."""
    return group[0] if len(group) == 1 else f"{group[0]}-{group[-1].rpartition('.')[2]}"


def _user_rings(rings: Mapping[str, Any], slots: Sequence[Slot]) -> tuple[dict[str, list[int]], Amounts]:
    if not isinstance(rings, Mapping) or not rings:
        raise InvalidInput(
            "sharing.rings: it maps names to globs, for example {early: 'layer[12].*', late: 'layer[34].*'}"
        )
    parts: dict[str, list[int]] = {}
    amounts: Amounts = {}
    owner: dict[int, str] = {}
    for name, value in rings.items():
        field = f"sharing.rings.{name}"
        if isinstance(value, Mapping):
            for key in value:
                if key not in ("slots", "dof"):
                    raise unknown(f"{field}.{key}", key, ("slots", "dof"))
            globs = value.get("slots")
            if value.get("dof") is not None:
                amounts[str(name)] = value["dof"]
        else:
            globs = value
        globs = [globs] if isinstance(globs, str) else list(globs or [])
        numbers = []
        for glob in globs:
            hits = [n for n, slot in enumerate(slots) if any(fnmatchcase(a, glob) for a in _names(slot))]
            if not hits:
                raise InvalidInput(
                    f"{field}: {glob!r} matches no slot; the slots are {slots[0].name} … {slots[-1].name}"
                )
            numbers += hits
        if not numbers:
            raise InvalidInput(f"{field}: it names no slots")
        for number in numbers:
            if owner.setdefault(number, str(name)) != str(name):
                raise InvalidInput(f"{field}: overlaps with ring {owner[number]!r} in {slots[number].name}")
        parts[str(name)] = sorted(set(numbers))
    missing = [slot.name for number, slot in enumerate(slots) if number not in owner]
    if missing:
        raise InvalidInput(
            f"sharing.rings: no ring owns {missing[0]} ({len(missing)} slots in all); exclude or add them"
        )
    # By their slots, not as they were written: the same rings make the same network.
    parts = dict(sorted(parts.items(), key=lambda part: part[1][0]))
    return parts, {name: amounts[name] for name in parts if name in amounts}


def _names(slot: Slot) -> list[str]:
    return [".".join(part for part in alias if part) for alias in slot.owners]


def _budgets(sizes: Mapping[str, int], amounts: Amounts, budget: int) -> dict[str, int]:
    """Each ring's DoF: as stated, the rest in proportion to size; they add up to `budget`."""
    budgets = {}
    for name, amount in amounts.items():
        field = f"sharing.rings.{name}.dof"
        budgets[name] = parse_dof(amount, budget, field)
        check_range(budgets[name], 1, sizes[name], f"ring {name!r}", field)
    rest = {name: size for name, size in sizes.items() if name not in amounts}
    left = budget - sum(budgets.values())
    # Shares are rounded down: the last stated one takes the scalars lost to rounding.
    if not rest and 0 < left < len(amounts) and any(str(amount).endswith("%") for amount in amounts.values()):
        last = [name for name, amount in amounts.items() if str(amount).endswith("%")][-1]
        budgets[last] += left
        left = 0
    if (not rest and left) or (rest and not len(rest) <= left <= sum(rest.values())):
        stated = budget - left
        raise InvalidInput(
            f"sharing.rings: the stated dof add up to {stated}, which does not fit the budget of {budget}"
        )
    if rest:
        budgets.update(zip(rest, divide(left, list(rest.values())), strict=True))
    return budgets
