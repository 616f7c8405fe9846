"""Lines to vector graphics, the same bytes for the same lines."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rpg_bench.checkpoint import write_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # told apart by all (Okabe and Ito)
MARKERS = "os^Dv<"
_DATED: Mapping[str, dict[str, None]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def save(
    path: Path, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, xlabel: str, ylabel: str
) -> list[Path]:
    """Draw each line, (x, y) by its name, beside `path`.

    Returns:
        The files; none where matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": "rpg_bench", "svg.fonttype": "none", "pdf.fonttype": 42}):
        figure, axes = pyplot.subplots(figsize=(5, 3.4), layout="constrained")
        for number, (name, (x, y)) in enumerate(lines.items()):
            axes.plot(x, y, color=COLOURS[number], marker=MARKERS[number], markersize=4, label=name)
        axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        files = write(figure, path, (".svg", ".pdf"))
        pyplot.close(figure)
    return files


def write(figure: Figure, path: Path, suffixes: Sequence[str]) -> list[Path]:
    """Write the figure beside `path` in each format, whole or not at all; returns the files."""
    files = []
    for suffix in suffixes:
        content = io.BytesIO()
        # No date, so that the same lines give the same file.
        figure.savefig(content, format=suffix[1:], dpi=150, metadata=_DATED.get(suffix, {}))
        files.append(path.with_suffix(suffix))
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        write_aside(files[-1], content.getvalue())
    return files
