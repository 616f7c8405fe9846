"""`growth`: how the cost of a ring grows with the number of weights D and of degrees of freedom N."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rpg_bench.benchmarks import growth_figure
from rpg_bench.benchmarks.process import available, in_a_process
from rpg_bench.benchmarks.result import Figure, Result, Settings
from rpg_bench.errors import Failed

TITLE = "Growth of a ring's cost with D and N"
SIZES = (1_000_000, 4_000_000, 16_000_000, 64_000_000, 256_000_000, 600_000_000)
BUDGETS = (1_000, 36_000, 1_000_000, 16_000_000)  # and D itself
MANY = 100_000_000  # weights from which on only two budgets are measured


def run(settings: Settings) -> Result:
    """Measure every pair in a process of its own; what does not fit into memory is left out, and said."""
    points: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    for size in SIZES:
        for dof in [36_000, size] if size >= MANY else [*(n for n in BUDGETS if n < size), size]:
            needed = 4 * (6 * size + 6 * dof) + 2**30
            if needed > available():
                left_out.append({"weights": size, "dof": dof, "reason": f"about {needed / 2**30:.0f} GiB needed"})
                continue
            try:
                points.append(in_a_process("growth_child", {"size": size, "dof": dof, "device": settings.device.type}))
            except Failed as error:
                left_out.append({"weights": size, "dof": dof, "reason": str(error)})
    return Result(_figures(points), details={"points": points, "left_out": left_out})


def draw(result: Result, folder: Path) -> list[Path]:
    """Draw the points beside the section's file; returns the figure's files, none without matplotlib."""
    return growth_figure.draw(result.details["points"], folder / "growth")


def _figures(points: list[dict[str, Any]]) -> tuple[Figure, ...]:
    """The largest network that was measured at 36k, per weight, against the smallest."""
    at = sorted((point for point in points if point["dof"] == 36_000), key=lambda point: int(point["weights"]))
    if len(at) < 2:
        return ()
    first, last = at[0], at[-1]
    times = last["weights"] / first["weights"]
    return tuple(
        Figure(f"{what} at {times:,.0f} x the weights", last[key] / first[key] / times, "x linear", compared=False)
        for what, key in (("seconds of share", "share_seconds"), ("seconds of unpacking", "unpack_seconds"))
    )
