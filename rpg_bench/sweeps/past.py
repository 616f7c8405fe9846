"""How long runs take, from the records of those that differ in nothing but scheme, budget and seed."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from rpg_bench.report.records import Record


class Past:
    """The finished runs that estimates come from."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._seconds: dict[Hashable, list[float]] = {}
        self._shares: dict[Hashable, list[float]] = {}
        for record in records:
            kind = _kind(record.values["config"])
            self._seconds.setdefault(kind, []).append(float(record.values["train_seconds"]))
            seconds = [float(row["seconds"]) for row in record.values["history"] if "seconds" in row]
            if seconds and seconds[-1] > 0:
                self._shares[kind] = [at / seconds[-1] for at in seconds]

    def seconds(self, config: Mapping[str, Any]) -> float | None:
        """What a run of this configuration takes to train; None if no such run is known."""
        found = self._seconds.get(_kind(config))
        return statistics.fmean(found) if found else None

    def seconds_left(self, config: Mapping[str, Any], progress: Mapping[str, Any]) -> float | None:
        """What a run that has begun still takes, at the speed that it has had.

        Epochs need not take the same time (their images may grow): where a run of its kind is known, its share of
        the time at this point counts, not the share of the steps.
        """
        steps = int(progress["steps"])
        done, spent = int(progress["step"]) / max(1, steps), float(progress["train_seconds"])
        shares = self._shares.get(_kind(config))
        if shares:
            position = done * len(shares)
            before = int(position)
            low = shares[before - 1] if before else 0.0
            high = shares[min(before, len(shares) - 1)]
            done = low + (position - before) * (high - low)
        if done <= 0 or spent <= 0:
            return self.seconds(config)
        return max(0.0, spent * (1 - done) / done)


def _kind(config: Mapping[str, Any]) -> Hashable:
    """Runs of one kind take about as long: data, network, epochs."""
    data, recipe = config["dataset"], config["recipe"]
    return data["name"], data["image_size"], config["backbone"]["name"], recipe["epochs"], recipe["stem"]
