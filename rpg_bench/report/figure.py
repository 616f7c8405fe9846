"""Plots to vector graphics and pictures, the same bytes for the same plot."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpg_bench.files import write_aside
from rpg_bench.report.page import Plot
from rpg_bench.report.style import STYLES, TICKS, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".pdf", ".png")
DOTS_PER_INCH = 200
# No date and no version, so that the same lines give the same file.
_METADATA: Mapping[str, dict[str, Any]] = {
    ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    ".png": {"Software": None},
}
_CLOSEST = 0.1  # of the axis, between two ticks
_LEAST_SPAN = 5.0  # units of the other axis: less would make noise look like an effect


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

    with pyplot.rc_context({"pdf.fonttype": 42, "font.size": 9}):
        figure, axes = pyplot.subplots(figsize=(6.4, 3.4), layout="constrained")
        for line in plot.lines:
            colour, marker = STYLES[line.scheme]
            axes.errorbar(
                line.x,
                line.y,
                # No bar where no spread is known.
                yerr=[spread or math.nan for spread in line.spread] if any(line.spread) else None,
                color=colour,
                marker=marker if line.marked else "",
                fillstyle="full" if line.dashes == "-" else "none",
                linestyle=line.dashes,
                markersize=4.5,
                linewidth=1.3,
                capsize=2.5,
                label=line.label,
            )
        axes.set(xlabel=plot.xlabel, ylabel=plot.ylabel)
        if plot.budgets:
            _budget_axis(axes, [x for line in plot.lines for x in line.x])
            low, high = axes.get_ylim()
            missing = max(0.0, _LEAST_SPAN - (high - low)) / 2
            axes.set_ylim(low - missing, high + missing)
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set_ylim(0, None)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right upper", frameon=False)  # beside the lines, however many there are
        files = write(figure, folder / plot.name, SUFFIXES)
        pyplot.close(figure)
    return files


def _budget_axis(axes: Any, values: Sequence[float]) -> None:
    """A log axis of at least a decade, whose ticks are budgets that people name: 8k, 36k, 1M."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    low, high = min(values) / 1.3, max(values) * 1.3
    wider = max(1.0, math.sqrt(10 / (high / low)))
    low, high = low / wider, high * wider
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(ticks(low, high)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def ticks(low: float, high: float) -> list[float]:
    """Budgets between two ends of a log axis, none upon another.

    >>> [short(tick) for tick in ticks(6e3, 14e6)]
    ['8k', '36k', '112k', '360k', '1M', '3.5M', '11M']
    """
    span = math.log10(high / low)
    kept: list[float] = []
    for tick in TICKS:
        if low <= tick <= high and all(abs(math.log10(tick / other)) >= _CLOSEST * span for other in kept):
            kept.append(tick)
    return sorted(kept)


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
