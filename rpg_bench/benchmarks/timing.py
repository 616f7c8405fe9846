"""Timing of several contestants in turn, so that a machine that slows down slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

Contestant = Callable[[], object]


@dataclass(frozen=True)
class Times:
    """Seconds of one contestant, round by round."""

    seconds: tuple[float, ...]

    @cached_property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def minimum(self) -> float:
        return min(self.seconds)

    @cached_property
    def spread(self) -> float:
        """Interquartile range as a share of the median."""
        low, high = np.quantile(self.seconds, (0.25, 0.75))
        return float((high - low) / self.median)

    def to_dict(self) -> dict[str, Any]:
        """Milliseconds."""
        return {
            "median_ms": _rounded(1000 * self.median),
            "min_ms": _rounded(1000 * self.minimum),
            "spread": round(self.spread, 4),
            "rounds": len(self.seconds),
        }


@dataclass(frozen=True)
class Ratio:
    """How much longer one contestant takes than another."""

    median: float  # of the rounds' ratios
    best: float  # of the two minima: what is left when nobody disturbs
    spread: float  # interquartile range of the rounds' ratios

    @classmethod
    def of(cls, times: Times, baseline: Times) -> Ratio:
        """The ratio of two contestants of the same rounds."""
        paired = np.divide(times.seconds, baseline.seconds)
        low, middle, high = np.quantile(paired, (0.25, 0.5, 0.75))
        return cls(float(middle), times.minimum / baseline.minimum, float(high - low))


def in_turn(
    contestants: Mapping[str, Contestant], device: torch.device, *, rounds: int, warmup: int = 2
) -> dict[str, Times]:
    """Time A B C A B C …

    Args:
        contestants: what is timed, by name; each does the same every time it is called.
        device: on CUDA, events on its current stream are timed, and the host does not wait between contestants.
        rounds: how often each is timed.
        warmup: rounds before that, which are not.

    Returns:
        The times of each contestant.
    """
    for _ in range(warmup):
        for contestant in contestants.values():
            contestant()
    clock = _events if device.type == "cuda" else _seconds
    return {name: Times(tuple(values)) for name, values in clock(contestants, rounds).items()}


def _seconds(contestants: Mapping[str, Contestant], rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            started = time.perf_counter()
            contestant()
            found[name].append(time.perf_counter() - started)
    return found


def _events(contestants: Mapping[str, Contestant], rounds: int) -> dict[str, list[float]]:
    def event() -> torch.cuda.Event:
        made: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        made.record()
        return made

    torch.cuda.synchronize()
    spans: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            started = event()
            contestant()
            spans[name].append((started, event()))
    torch.cuda.synchronize()
    return {name: [start.elapsed_time(end) / 1000 for start, end in pairs] for name, pairs in spans.items()}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
