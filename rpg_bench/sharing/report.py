"""Counting degrees of freedom: the one place where it is done."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from rpg_bench.sharing.api import sharing_of
from rpg_bench.sharing.narrower import ATTRIBUTE, Narrowed


@dataclass(frozen=True)
class SlotReport:
    """One slot: its scalars, and the ring or other part that generates it."""

    name: str
    shape: tuple[int, ...]
    size: int
    std: float


@dataclass(frozen=True)
class DofReport:
    """The numbers of trained scalars of a model (design, vocabulary)."""

    scheme: str
    slots: int  # number of slots
    slot_scalars: int  # D
    dof: int
    private: int
    per_slot: tuple[SlotReport, ...] = ()
    narrowed: Narrowed | None = None  # of a narrower network; D, dense and ratio refer to the full one

    @property
    def total(self) -> int:
        """What the optimizer trains."""
        return self.dof + self.private

    @property
    def dense(self) -> int:
        """What it would train if every slot were free; of a narrower network, what the full one would."""
        return self.slot_scalars + (self.private if self.narrowed is None else self.narrowed.private)

    @property
    def ratio(self) -> float:
        """Slot scalars per degree of freedom."""
        return self.slot_scalars / self.dof if self.dof else math.inf

    def to_dict(self) -> dict[str, Any]:
        return {
            "scheme": self.scheme,
            "slots": self.slots,
            "slot_scalars": self.slot_scalars,
            "dof": self.dof,
            "private": self.private,
            "total": self.total,
            "dense": self.dense,
            "ratio": round(self.ratio, 4),
            **({} if self.narrowed is None else {"narrowed": self.narrowed.widths}),
        }

    def rows(self) -> list[tuple[str, str, str]]:
        """Label, value and meaning, line by line."""
        tensors, free, dense = (
            "that the scheme generates",
            "free numbers behind them",
            "what it would train without sharing",
        )
        if self.narrowed is not None:
            tensors, dense = "of the full network", "what the full network would train"
            free = f"weights there in a narrower one, {self.narrowed}"
        return [
            ("scheme", self.scheme, ""),
            ("slots D", f"{self.slot_scalars:,}", f"scalars in {self.slots} weight tensors {tensors}"),
            ("DoF", f"{self.dof:,}", f"{free} ({self.dof / self.slot_scalars:.2%} of D)"),
            ("private", f"{self.private:,}", "trained outside the slots: stem, norms, biases, head"),
            ("total", f"{self.total:,}", "DoF + private: what the optimizer trains"),
            ("dense", f"{self.dense:,}", dense),
            ("ratio", f"{self.ratio:,.1f}", "slots D / DoF"),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{label:<8} {value:>14}  {meaning}".rstrip() for label, value, meaning in self.rows())

    def slot_table(self) -> str:
        """One line per slot: name, shape, scalars and initial standard deviation."""
        return "\n".join(
            f"{slot.name:<48} {'x'.join(map(str, slot.shape)):>18} {slot.size:>12,}  std {slot.std:.4f}"
            for slot in self.per_slot
        )


def dof_report(model: nn.Module) -> DofReport:
    """Count the degrees of freedom of a model that `share` was applied to.

    Raises:
        InvalidInput: the model is not shared.
    """
    plan = sharing_of(model).plan
    free, private = trained_parameters(model)
    narrowed = None if plan.generated else getattr(model, ATTRIBUTE, None)
    return DofReport(
        scheme=plan.scheme,
        slots=len(plan.slots),
        slot_scalars=plan.total if narrowed is None else narrowed.slot_scalars,
        dof=sum(parameter.numel() for parameter in free.values()),
        private=sum(parameter.numel() for parameter in private.values()),
        per_slot=tuple(SlotReport(slot.name, slot.shape, slot.size, slot.std) for slot in plan.slots),
        narrowed=narrowed,
    )


def trained_parameters(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """The free and the private parameters of a model that `share` was applied to, by name, in the model's order.

    Raises:
        InvalidInput: the model is not shared.
    """
    sharing = sharing_of(model)
    owned = {id(parameter) for parameter in sharing.parameters()}
    owned |= {id(model.get_parameter(sharing.plan.slots[number].name)) for number in sharing.plan.kept}
    free: dict[str, nn.Parameter] = {}
    private: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (free if id(parameter) in owned else private)[name] = parameter
    return free, private
