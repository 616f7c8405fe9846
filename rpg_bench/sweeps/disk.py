"""What the checkpoints of runs take of the disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rpg_bench.report.records import Record

IN_THE_END = 2  # checkpoints of a run: the final and the best
WHILE_TRAINED = 4  # the last two, the best, and the one that is being written
_SCALAR = 4  # bytes: parameters, moments and averages are float32
_MOMENTS = {"sgd": 1, "momentum": 1, "nesterov": 1}  # of an optimizer; of all others two at most


def checkpoint_bytes(config: Mapping[str, Any], records: Iterable[Record]) -> int | None:
    """About what one checkpoint of a run takes, from the records of runs with the same network, scheme and budget;
    None, where there is none."""
    wanted = _size_key(config)
    totals = {record.total for record in records if _size_key(record.values["config"]) == wanted}
    if not totals:
        return None
    copies = 1 + _MOMENTS.get(str(config["optimizer"]["name"]), 2) + (config["recipe"]["ema_decay"] is not None)
    return _SCALAR * max(totals) * copies


def readable(size: float) -> str:
    """Bytes for people.

    >>> [readable(size) for size in (0, 900, 2_000_000, 3 * 2**30)]
    ['0 B', '900 B', '1.9 MiB', '3.0 GiB']
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def forecast(configs: Iterable[Mapping[str, Any]], records: Iterable[Record], free: int) -> str:
    """One line on what a sweep will take when all its runs are done."""
    known = list(records)
    sizes = [checkpoint_bytes(config, known) for config in configs if config]
    total = IN_THE_END * sum(size or 0 for size in sizes)
    unknown = sum(size is None for size in sizes)
    if unknown == len(sizes):
        return f"disk: {readable(free)} free; no run of this size is recorded here, so what it takes is not known"
    line = (
        f"disk: at most {readable(total)} of checkpoints when all are done ({IN_THE_END} a run, {WHILE_TRAINED} of one "
        f"that is trained), {readable(free)} free"
    )
    if unknown:
        line += f"; {unknown} runs of a size that never ran here are not counted"
    return line if total < free else f"warning: {line}"


def _size_key(config: Mapping[str, Any]) -> tuple[Any, ...]:
    scheme, backbone = config["sharing"], config["backbone"]
    options = (str(scheme.get("options", {})), str(backbone.get("options", {})))
    return config["dataset"]["name"], backbone["name"], scheme["name"], str(config["dof"]), *options
