"""What happened: of one series, and the sums of all."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Report:
    """Counts, and what was wrong."""

    problems: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)  # by signal
    places: Counter[str] = field(default_factory=Counter)  # by where they hit
    errors: Counter[str] = field(default_factory=Counter)  # of calls, full and read-only disks
    damages: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    lost_seconds: float = 0.0  # the most training that one kill undid

    @property
    def killed(self) -> int:
        """Kills in all."""
        return sum(self.kills.values())

    @property
    def summary(self) -> str:
        """One series in one line."""
        if self.skipped:
            return f"skipped: {next(iter(self.skipped))}"
        return f"{self.counts['starts']:>2} starts, {self.killed} kills, {'PROBLEMS' if self.problems else 'equal'}"

    def add(self, other: Report) -> None:
        """Take another one's sums into this."""
        self.problems += other.problems
        for name, value in vars(self).items():
            if isinstance(value, Counter):
                value.update(getattr(other, name))
        self.lost_seconds = max(self.lost_seconds, other.lost_seconds)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, that `of` reads."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    @classmethod
    def of(cls, values: dict[str, Any]) -> Report:
        """The inverse of `to_dict`."""
        return cls(**{key: Counter(value) if isinstance(value, dict) else value for key, value in values.items()})

    def __str__(self) -> str:
        groups = {
            f"kills: {self.killed}": self.kills,
            "where they hit": self.places,
            "calls that failed, disks full or read-only": self.errors,
            "damage between starts": self.damages,
            "counts": self.counts,
            "skipped": self.skipped,
        }
        lines: list[str] = []
        for title, counter in groups.items():
            if counter:
                lines += [title, *(f"  {count:>5}  {name}" for name, count in counter.most_common())]
        lines += [f"most training that one start lost: {self.lost_seconds:.2f} s", f"LOSSES: {len(self.problems)}"]
        return "\n".join(lines)
