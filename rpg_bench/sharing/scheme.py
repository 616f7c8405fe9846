"""What a scheme is: a pure plan, and a module that owns the free parameters and produces the slots."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer

from rpg_bench.errors import InvalidInput, unknown
from rpg_bench.sharing.blueprint import Blueprint
from rpg_bench.sharing.slots import Slot, total_size

Budget = str | int | float | None
Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]  # images and labels


@dataclass(frozen=True)
class Plan:
    """What a scheme will allocate: everything that is fixed, nothing that is trained."""

    scheme: str
    slots: tuple[Slot, ...]
    dof: int  # achieved, at most the budget asked for
    seed: int
    options: Mapping[str, Any]
    kept: tuple[int, ...]  # numbers of the slots that stay ordinary parameters of their own modules

    @property
    def generated(self) -> tuple[int, ...]:
        """Numbers of the slots that the scheme produces."""
        kept = set(self.kept)
        return tuple(number for number in range(len(self.slots)) if number not in kept)

    def generator(self, purpose: str) -> torch.Generator:
        """A generator for the start of the free parameters."""
        digest = hashlib.sha256(f"{purpose} {self.seed}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))

    @property
    def total(self) -> int:
        """D, the scalars in all slots."""
        return total_size(self.slots)

    @property
    def seeded(self) -> bool:
        """Whether the seed decides anything that is fixed, beyond the free parameters' start."""
        return False

    def identity(self) -> dict[str, Any]:
        """Everything that the fixed part depends on, as JSON values."""
        slots = [[slot.name, *slot.shape, f"{slot.std:.6g}"] for slot in self.slots]
        digest = hashlib.sha256(json.dumps(slots).encode()).hexdigest()[:16]
        return {
            "scheme": self.scheme,
            "dof": self.dof,
            **({"seed": self.seed} if self.seeded else {}),
            "options": dict(self.options),
            "slots": f"{len(slots)} of {self.total} scalars, {digest}",
        }


class Sharing(nn.Module, ABC):
    """Owns the free parameters of a scheme and produces all slots in one go.

    A root module's forward pass is bracketed by `begin` and `end`: between them every slot is read
    from what `begin` produced. Outside of a pass (a submodule is called by itself) a slot is
    produced when it is read.
    """

    # Why a layer's output starts with another variance than the dense network's; empty: it does not.
    start_differs: ClassVar[str] = ""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self._produced: dict[int, Tensor] | None = None
        self._tables: list[str] = []
        self._in_layers = all(slot.in_layers for slot in plan.slots)
        self._full_dtype: torch.dtype | None = None  # where slots are produced in autocast's

    def add_table(self, name: str, table: Tensor) -> None:
        """Hold a fixed tensor as an attribute that moves with the module.

        Not as a buffer: averaging a model's buffers, or broadcasting them in every step as
        DistributedDataParallel does, is wrong or wasteful for what never changes.
        """
        self._tables.append(name)
        setattr(self, name, table)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Sharing:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch has no hint
        for name in self._tables:
            setattr(self, name, fn(getattr(self, name)))
        return self

    @abstractmethod
    def produce(self) -> Sequence[Tensor]:
        """Return the generated slots, in the plan's order and shapes."""

    @abstractmethod
    def produce_slot(self, number: int) -> Tensor:
        """Return the slot of that number; the same values and gradients as in `produce`."""

    @property
    def adapted(self) -> Collection[int]:
        """Numbers of the slots to whose layers' outputs `adapt` adds something that depends on their input."""
        return ()

    def adapt(self, number: int, layer: nn.Module, features: Tensor, output: Tensor) -> Tensor:
        """Return what a layer puts out instead of `output`, its own product of slot `number` and `features`."""
        return output

    def verify(self) -> None:
        """Called behind a root module's forward pass where slots are adapted; may raise InvalidInput."""

    def forward(self, features: Any) -> Any:
        """Pass through: a shared `nn.Sequential` runs this module as its last layer."""
        return features

    def checksum(self) -> str:
        """A digest of the tables that the plan was turned into; part of the fingerprint."""
        return ""

    def begin(self) -> None:
        self._produced = dict(zip(self.plan.generated, self.produce(), strict=True))

    def end(self) -> None:
        self._produced = None

    def read(self, number: int) -> Tensor:
        """The slot of that number, as its layer needs it now."""
        slot = self.produce_slot(number) if self._produced is None else self._produced[number]
        # Produced under autocast, read where it is off.
        full = self._full_dtype
        if full is not None and slot.dtype != full and not torch.is_autocast_enabled(slot.device.type):
            return slot.to(full)
        return slot

    def slot_dtype(self, free: Tensor) -> torch.dtype:
        """The dtype to produce slots in: what autocast would turn them into, if all their owners let it.

        free: the parameter that they are produced from.
        """
        self._full_dtype = free.dtype
        device = free.device.type
        if self._in_layers and free.dtype == torch.float32 and torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
        return free.dtype

    def before_step(self, step: int, steps: int) -> None:
        """Told before the first forward pass of optimizer step 0..steps - 1; nothing to do by default."""

    def after_step(self, step: int, steps: int, optimizer: Optimizer, average: Sharing | None = None) -> None:
        """Told behind that step, and before the weights are averaged; nothing to do by default.

        Args:
            step: as given to `before_step`.
            steps: of the whole run.
            optimizer: whose state is to follow where free parameters change their meaning.
            average: of an averaged copy of the model (EMA), which is to follow too.
        """

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

    def range(self, slots: Sequence[Slot]) -> tuple[int, int]:
        """The least and the most DoF that `plan` accepts for these slots. Raises InvalidInput if there is none."""
        return 1, total_size(slots)

    def range_of(self, blueprint: Blueprint) -> tuple[int, int]:
        """The range for a network that is yet to be built: the same, unless `network` builds others."""
        return self.range(blueprint.slots)

    def network(self, blueprint: Blueprint, dof: Budget) -> tuple[nn.Module, Budget]:
        """Build the network to be shared: the full one, unless another one is how the scheme meets a budget.

        Returns:
            The network, and the budget that is left for `share` to meet in it.
        """
        return blueprint.full, dof

    def table_bytes(self, plan: Plan) -> int:
        """Memory for what is fixed (index, mask), beside the free parameters and the slots that they produce."""
        return 0

    @abstractmethod
    def plan(self, slots: Sequence[Slot], dof: Budget, seed: int) -> Plan:
        """Decide, without any tensor, what is allocated for a budget. Raises InvalidInput."""

    @abstractmethod
    def build(self, plan: Plan, model: nn.Module, batches: Batches | None = None) -> Sharing:
        """Make the module that owns the free parameters of `plan`, initialised.

        Args:
            plan: what `plan` decided.
            model: the network, still dense; a scheme may read its initial weights.
            batches: gives training batches to schemes that look at data.
        """

    def build_empty(self, plan: Plan, model: nn.Module) -> Sharing:
        """As `build`, where everything free is loaded next: no weight is scored, so that no data is needed."""
        return self.build(plan, model)

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
    # Options may come from a composed configuration; plain containers go into the fingerprint.
    plain = {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in options.items()}
    return SCHEMES[name](**plain)
