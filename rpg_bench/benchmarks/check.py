"""Whether a change has made anything slower: ratios measured now against those that are recorded.

Times differ between machines and ratios much less, so ratios are compared, and generously.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rpg_bench.benchmarks.result import LOWER, Figure, Result, read
from rpg_bench.benchmarks.summary import number
from rpg_bench.errors import Failed, InvalidInput
from rpg_bench.records import provenance

FACTOR, MARGIN = 1.5, 0.25  # worse by this factor, and by at least this much
FOREIGN_FACTOR = 2.5  # on a processor of another kind than the recorded one
ATTEMPTS = 3  # a busy machine is no regression: what fails is measured again, and the best counts


@dataclass(frozen=True)
class Verdict:
    """One figure now, beside the recorded one."""

    name: str
    recorded: float
    found: float
    limit: float
    passed: bool

    def __str__(self) -> str:
        return (
            f"{'ok   ' if self.passed else 'WORSE'} {self.name}: {number(self.found)}, "
            f"recorded {number(self.recorded)}, limit {number(self.limit)}"
        )


def verdict(recorded: Figure, found: Sequence[Figure], factor: float = FACTOR) -> Verdict:
    """Judge the best of what was found by repeated measurement."""
    before = recorded.undisturbed
    if recorded.better == LOWER:
        now, limit = min(figure.undisturbed for figure in found), max(factor * before, before + MARGIN)
        return Verdict(recorded.name, before, now, limit, now <= limit)
    now, limit = max(figure.undisturbed for figure in found), min(before / factor, before - MARGIN)
    return Verdict(recorded.name, before, now, limit, now >= limit)


def compare(folder: Path, sections: Sequence[str], device: torch.device, measure: Callable[[str], Result]) -> None:
    """Measure the sections and print a verdict on each figure.

    Args:
        folder: what is recorded, one file per section.
        sections: by name; a section without a file is passed over.
        device: that `measure` measures on.
        measure: returns a section's result.

    Raises:
        InvalidInput: nothing is recorded, or on another kind of device, or a figure is no longer measured.
        Failed: a figure has become worse.
    """
    paths = {name: path for name in sections if (path := folder / f"{name}.json").is_file()}
    if not paths:
        raise InvalidInput(f"output: no recorded benchmark in {folder}; short=true makes one")
    for path in paths.values():
        if (recorded := read(path)["device"]).split()[0] != device.type:
            raise InvalidInput(f"output: {path} was recorded on {recorded}; this is {device.type}")
    worse: list[Verdict] = []
    for name, path in paths.items():
        verdicts = _judged(path, lambda name=name: measure(name))  # type: ignore[misc]
        for each in verdicts:
            print(each)
        worse += [each for each in verdicts if not each.passed]
    if worse:
        raise Failed("slower than recorded: " + "; ".join(each.name for each in worse))


def _judged(path: Path, measure: Callable[[], Result]) -> list[Verdict]:
    content = read(path)
    recorded = [figure for values in content["figures"] if (figure := Figure.from_dict(values)).compared]
    factor = FACTOR if content["hardware"]["cpu"] == provenance()["hardware"]["cpu"] else FOREIGN_FACTOR
    found: dict[str, list[Figure]] = {figure.name: [] for figure in recorded}
    verdicts: list[Verdict] = []
    for _ in range(ATTEMPTS):
        for figure in measure().figures:
            found.get(figure.name, []).append(figure)
        for name, figures in found.items():
            if not figures:
                raise InvalidInput(f"output: {path} has {name!r}, which is no longer measured; record it anew")
        verdicts = [verdict(figure, found[figure.name], factor) for figure in recorded]
        if all(each.passed for each in verdicts):
            break
    return verdicts
