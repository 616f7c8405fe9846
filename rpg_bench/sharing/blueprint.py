"""A network before it is built, for schemes that decide how it is built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

from torch import nn

from rpg_bench.sharing.slots import Slot, find_slots

# Returns a network, given further arguments of timm's model function; none: the full network.
Build = Callable[[Mapping[str, Any]], nn.Module]


class Blueprint:
    """How a network is built, at its full size or narrower, and which of its weights are slots."""

    def __init__(self, build: Build, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        self.build, self.include, self.exclude = build, tuple(include), tuple(exclude)

    @cached_property
    def full(self) -> nn.Module:
        """The network at its full size; built once."""
        return self.build({})

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """The slots of the full network; they hold D scalars."""
        return self.slots_of(self.full)

    def slots_of(self, network: nn.Module) -> tuple[Slot, ...]:
        """The slots of a network of this blueprint."""
        return find_slots(network, self.include, self.exclude)
