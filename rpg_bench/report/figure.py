"""Lines to SVG and PDF, the same bytes for the same lines."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from rpg_bench.checkpoint import write_aside

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # told apart by all (Okabe and Ito)
MARKERS = "os^Dv<"


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

    files = []
    with pyplot.rc_context({"svg.hashsalt": "rpg_bench", "svg.fonttype": "none", "pdf.fonttype": 42}):
        figure, axes = pyplot.subplots(figsize=(5, 3.4), layout="constrained")
        for number, (name, (x, y)) in enumerate(lines.items()):
            axes.plot(x, y, color=COLOURS[number], marker=MARKERS[number], markersize=4, label=name)
        axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        for suffix, dated in ((".svg", "Date"), (".pdf", "CreationDate")):
            content = io.BytesIO()
            figure.savefig(content, format=suffix[1:], metadata={dated: None})
            files.append(path.with_suffix(suffix))
            files[-1].parent.mkdir(exist_ok=True)
            write_aside(files[-1], content.getvalue())
        pyplot.close(figure)
    return files
