"""Plots to vector graphics and pictures, the same bytes for the same plot."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpg_bench.files import write_aside
from rpg_bench.report.page import Plot
from rpg_bench.report.style import STYLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".pdf", ".png")
DOTS_PER_INCH = 200
# No date and no version, so that the same lines give the same file.
_METADATA: Mapping[str, dict[str, Any]] = {
    ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    ".png": {"Software": None},
}
_TICKS = (1e3, 2e3, 4e3, 8e3, 18e3, 36e3, 112e3, 360e3, 1e6, 3.5e6, 11e6, 21e6, 100e6)


def draw(plot: Plot, folder: Path) -> list[Path]:
    """Write the plot into the folder in each format.

    Returns:
        The files; none where matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"pdf.fonttype": 42, "font.size": 9, "axes.titlesize": 9}):
        figure, axes = pyplot.subplots(figsize=(5, 3.4), layout="constrained")
        for line in plot.lines:
            colour, marker = STYLES[line.scheme]
            axes.errorbar(
                line.x,
                line.y,
                yerr=line.spread if any(line.spread) else None,
                color=colour,
                marker=marker if line.marked else "",
                linestyle="--" if line.dashed else "-",
                markersize=4,
                linewidth=1.2,
                capsize=2,
                label=line.label,
            )
        axes.set(xlabel=plot.xlabel, ylabel=plot.ylabel)
        if plot.budgets:
            _budget_axis(axes, [x for line in plot.lines for x in line.x])
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set_ylim(0, None)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        files = write(figure, folder / plot.name, SUFFIXES)
        pyplot.close(figure)
    return files


def _budget_axis(axes: Any, values: Sequence[float]) -> None:
    """A log axis whose ticks are budgets that people name: 8k, 36k, 1M."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    low, high = min(values) / 1.3, max(values) * 1.3
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in _TICKS if low <= tick <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def short(value: float) -> str:
    """A budget in few characters.

    >>> [short(n) for n in (800, 36_000, 1e6, 3.5e6)]
    ['800', '36k', '1M', '3.5M']
    """
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:g}"


def write(figure: Figure, path: Path, suffixes: Sequence[str]) -> list[Path]:
    """Write the figure beside `path` in each format, whole or not at all; returns the files."""
    files = []
    for suffix in suffixes:
        content = io.BytesIO()
        figure.savefig(content, format=suffix[1:], dpi=DOTS_PER_INCH, metadata=_METADATA.get(suffix, {}))
        files.append(path.with_suffix(suffix))
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        write_aside(files[-1], content.getvalue())
    return files
