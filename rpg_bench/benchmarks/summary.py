"""The figures of all sections as one page of Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rpg_bench.benchmarks.result import LOWER, Figure, read, save


def line(figure: Figure) -> str:
    """One figure in one line of text."""
    verdict = {None: "", True: ", met", False: ", NOT met"}[figure.met]
    return f"{figure.name}: {number(figure.value)} {figure.unit}{_wanted(figure)}{verdict}"


def number(value: float) -> str:
    """Three decimals below 10, so that 1.03 can be told from 1.02, and fewer above."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def write(folder: Path, sections: Sequence[str]) -> Path:
    """Write `summary.md` from the section files in `folder`; returns its path.

    Raises:
        InvalidInput: a file is no benchmark, or the folder cannot be written.
    """
    found = [read(path) for name in sections if (path := folder / f"{name}.json").is_file()]
    text = "# Benchmark\n\nWritten by `python -m rpg_bench.benchmarks`; do not edit.\n"
    text += "".join(_section(content) for content in found)
    save(folder / "summary.md", text)
    return folder / "summary.md"


def _section(content: dict[str, Any]) -> str:
    hardware, versions, git = content["hardware"], content["versions"], content["git"] or {}
    dirty = " with changes" if git.get("dirty") else ""
    lines = [
        "",
        f"## {content['section']}: {content['title']}",
        "",
        f"{content['device']}, {hardware['cpu']}, {hardware['threads']} threads, torch {versions.get('torch', '?')}, "
        f"{content['measured_at'][:10]}, commit {git.get('commit', 'unknown')[:12]}{dirty}",
        "",
        "| figure | median | of the minima | spread | unit | wanted | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for values in content["figures"]:
        figure = Figure.from_dict(values)
        best = "" if figure.best is None else number(figure.best)
        spread = "" if figure.spread is None else number(figure.spread)
        met = {None: "", True: "yes", False: "**no**"}[figure.met]
        wanted = _wanted(figure).removeprefix(", wanted ")
        lines.append(
            f"| {figure.name} | {number(figure.value)} | {best} | {spread} | {figure.unit} | {wanted} | {met} |"
        )
    if content["times"]:
        lines += ["", "| milliseconds of | median | least | spread |", "|---|---|---|---|"]
        for name, times in content["times"].items():
            lines.append(f"| {name} | {times['median_ms']:g} | {times['min_ms']:g} | {times['spread']:.1%} |")
    return "\n".join(lines) + "\n"


def _wanted(figure: Figure) -> str:
    if figure.bound is None:
        return ""
    return f", wanted {'at most' if figure.better == LOWER else 'at least'} {figure.bound:g}"
