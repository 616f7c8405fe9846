"""What a scheme is: a pure plan, and a module that owns the free parameters and produces the slots."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rpg_bench.errors import InvalidInput, unknown
from rpg_bench.sharing.slots import Slot, total_size

Budget = str | int | float | None


@dataclass(frozen=True)
class Plan:
    """What a scheme will allocate: everything that is fixed, nothing that is trained."""

    scheme: str
    slots: tuple[Slot, ...]
    dof: int  # achieved, at most the budget asked for
    seed: int
    options: Mapping[str, Any]

    @property
    def total(self) -> int:
        """D, the scalars in all slots."""
        return total_size(self.slots)

    def identity(self) -> dict[str, Any]:
        """Everything that the fixed part depends on, as JSON values."""
        slots = [[slot.name, *slot.shape, f"{slot.std:.6g}"] for slot in self.slots]
        digest = hashlib.sha256(json.dumps(slots).encode()).hexdigest()[:16]
        return {
            "scheme": self.scheme,
            "dof": self.dof,
            "seed": self.seed,
            "options": dict(self.options),
            "slots": f"{len(slots)} of {self.total} scalars, {digest}",
        }


class Sharing(nn.Module, ABC):
    """Owns the free parameters of a scheme and produces all slots in one go.

    A root module's forward pass is bracketed by `begin` and `end`: between them every slot is read
    from what `begin` produced. Outside of a pass (a submodule is called by itself) a slot is
    produced when it is read.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self._produced: Sequence[Tensor] | None = None

    @property
    def in_place(self) -> bool:
        """Whether the slots stay ordinary parameters of their own modules (dense)."""
        return False

    @abstractmethod
    def produce(self) -> Sequence[Tensor]:
        """Return every slot, in the plan's order and shapes."""

    @abstractmethod
    def produce_slot(self, number: int) -> Tensor:
        """Return one slot; the same values and gradients as in `produce`."""

    def checksum(self) -> str:
        """A digest of the tables that the plan was turned into; part of the fingerprint."""
        return ""

    def begin(self) -> None:
        self._produced = None if self.in_place else self.produce()

    def end(self) -> None:
        self._produced = None

    def read(self, number: int) -> Tensor:
        return self.produce_slot(number) if self._produced is None else self._produced[number]

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint states about the plan, so that another plan refuses it."""
        return {**self.plan.identity(), "checksum": self.checksum()}

    def get_extra_state(self) -> Tensor:
        """The fingerprint as JSON bytes: a tensor, so that any format can hold it."""
        text = json.dumps(self.fingerprint(), sort_keys=True)
        return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Checked in `check_fingerprint` before anything is loaded; nothing to restore."""

    def check_fingerprint(self, state: Tensor | None) -> None:
        """Raise InvalidInput, naming what differs, unless `state` is this plan's fingerprint."""
        if state is None:
            raise InvalidInput(
                f"checkpoint: it has no fingerprint of {self.plan.scheme}; it was not saved from a shared model"
            )
        try:
            theirs = dict(json.loads(bytes(state.cpu().tolist())))
        except (AttributeError, TypeError, ValueError):
            raise InvalidInput("checkpoint: its fingerprint is damaged") from None
        ours = json.loads(json.dumps(self.fingerprint()))
        for key in {**ours, **theirs}:  # in order: the checksum, which says least, comes last
            if ours.get(key) != theirs.get(key):
                raise InvalidInput(
                    f"checkpoint: its {key} is {theirs.get(key)!r} but this model's is {ours.get(key)!r}; "
                    "call share() with the checkpoint's values"
                )


class Scheme(ABC):
    """A way to produce slots from DoF. A subclass is a frozen dataclass whose fields are its options."""

    name: ClassVar[str]
    source: ClassVar[str]

    @abstractmethod
    def plan(self, slots: Sequence[Slot], dof: Budget, seed: int) -> Plan:
        """Decide, without any tensor, what is allocated for a budget. Raises InvalidInput."""

    @abstractmethod
    def build(self, plan: Plan) -> Sharing:
        """Make the module that owns the free parameters of `plan`, initialised, on the CPU."""

    def options(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload,no-any-return]


SCHEMES: dict[str, type[Scheme]] = {}


def register(name: str) -> Callable[[type[Scheme]], type[Scheme]]:
    """Register a scheme under the name that `share` and the command line use."""

    def add(scheme: type[Scheme]) -> type[Scheme]:
        if name in SCHEMES:
            raise ValueError(f"scheme {name!r} is registered twice")
        scheme.name = name
        SCHEMES[name] = scheme
        return scheme

    return add


def get_scheme(name: str, **options: Any) -> Scheme:
    """Return the registered scheme with its options set.

    Raises:
        InvalidInput: no such scheme or option.
    """
    if name not in SCHEMES:
        raise unknown("sharing", name, SCHEMES)
    known = [field.name for field in dataclasses.fields(SCHEMES[name])]  # type: ignore[arg-type]
    for option in options:
        if option not in known:
            raise unknown(f"sharing.{option}", option, known)
    return SCHEMES[name](**options)
