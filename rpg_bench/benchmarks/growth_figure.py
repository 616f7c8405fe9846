"""The figure of `growth`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rpg_bench.report.figure import write

PANELS = (
    ("share_seconds", "share() and tables, seconds", 1.0),
    ("unpack_seconds", "unpacking forward + backward, milliseconds", 1e3),
    ("table_bytes", "fixed tables, MiB", 2**-20),
    ("state_bytes", "in a checkpoint, MiB", 2**-20),
)


def draw(points: Sequence[Mapping[str, Any]], path: Path) -> list[Path]:
    """Draw each cost over D, one line for each N, as PNG and PDF beside `path`.

    Returns:
        The files; none where matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 7), layout="constrained", sharex=True)
    for (key, label, factor), panel in zip(PANELS, axes.flat, strict=True):
        for name, chosen in _lines(points).items():
            weights = [point["weights"] for point in chosen]
            panel.plot(weights, [factor * point[key] for point in chosen], "o-", markersize=4, label=name)
        panel.set(xscale="log", yscale="log", ylabel=label)
        panel.grid(alpha=0.3)
    for panel in axes[1]:
        panel.set_xlabel("D, weights that are generated")
    axes[0][0].legend(title="N, degrees of freedom")
    files = write(figure, path, (".png", ".pdf"))
    pyplot.close(figure)
    return files


def _lines(points: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The points of each N in the order of D; those with N = D are a line of their own."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for point in sorted(points, key=lambda point: (point["dof"] == point["weights"], point["dof"], point["weights"])):
        name = "D" if point["dof"] == point["weights"] else f"{point['dof']:,}"
        lines.setdefault(name, []).append(point)
    return lines
