"""What a section of the benchmark finds, and how it is written down."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rpg_bench.benchmarks.timing import Ratio, Times
from rpg_bench.errors import InvalidInput
from rpg_bench.files import write_aside
from rpg_bench.records import provenance

FORMAT = 1
LOWER, HIGHER = "lower", "higher"


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    short: bool = False  # the form that CI runs: small batches, few rounds, one thread
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def rounds(self, full: int, short: int) -> int:
        return short if self.short else full


@dataclass(frozen=True)
class Figure:
    """One number, and what is wanted of it."""

    name: str  # unique within the section
    value: float
    unit: str
    bound: float | None = None  # what is wanted; None: nothing is
    better: str = LOWER
    best: float | None = None  # where `value` is a median: the ratio of the two minima
    spread: float | None = None  # interquartile range
    compared: bool = True  # by `check`: False where it depends on the machine or is too noisy

    @classmethod
    def ratio(cls, name: str, ratio: Ratio, unit: str, **details: Any) -> Figure:
        """A ratio of two times."""
        return cls(name, ratio.median, unit, best=ratio.best, spread=ratio.spread, **details)

    @property
    def met(self) -> bool | None:
        """Whether the bound is met; None without one."""
        if self.bound is None:
            return None
        return self.value <= self.bound if self.better == LOWER else self.value >= self.bound

    @property
    def undisturbed(self) -> float:
        """The number that a busy machine changes least."""
        return self.value if self.best is None else self.best

    def to_dict(self) -> dict[str, Any]:
        values = {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
        for key in ("value", "best", "spread"):
            if key in values:
                values[key] = float(f"{values[key]:.6g}")
        return {**values, **({} if self.met is None else {"met": self.met})}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Figure:
        """Read what `to_dict` made."""
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})


@dataclass(frozen=True)
class Result:
    """What one section found."""

    figures: tuple[Figure, ...]
    times: Mapping[str, Times] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)  # what was measured, and how; JSON values


def write(folder: Path, section: str, title: str, result: Result, settings: Settings, seconds: float) -> None:
    """Write the section's file.

    Raises:
        InvalidInput: it cannot be written.
    """
    content = {
        "format": FORMAT,
        "section": section,
        "title": title,
        "short": settings.short,
        "device": device_name(settings.device),
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds, 1),
        "figures": [figure.to_dict() for figure in result.figures],
        "times": {name: times.to_dict() for name, times in result.times.items()},
        "details": result.details,
        **provenance(),
    }
    save(folder / f"{section}.json", json.dumps(content, indent=1, allow_nan=False) + "\n")


def save(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        InvalidInput: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, text.encode())
    except OSError as error:
        raise InvalidInput(f"output: {path} cannot be written: {error.strerror}") from None


def read(path: Path) -> dict[str, Any]:
    """Read a section's file.

    Raises:
        InvalidInput: it is none of this format.
    """
    try:
        content: Any = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidInput(f"output: {path} is not readable as a benchmark ({error})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or "figures" not in content:
        raise InvalidInput(f"output: {path} is not a benchmark of format {FORMAT}; move it away")
    return content


def device_name(device: torch.device) -> str:
    """The device, in words."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
