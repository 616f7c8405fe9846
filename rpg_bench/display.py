"""What a run shows while it goes on: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from rpg_bench.sharing import DofReport


class Display:
    """Messages, progress and results of one run. Silent on all but the main process."""

    LINE_SECONDS = 15.0  # between plain progress lines

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task: Any = None
        self._steps = 0
        self._calls = 0  # of `step`
        self._clocked = 0  # the step at which the clock of the ETA began
        self._began = self._shown = 0.0

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, markup=False)

    def dof_table(self, report: DofReport, title: str) -> None:
        """Print what is being trained."""
        table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False)
        table.add_column(style="bold")
        table.add_column(justify="right")
        table.add_column(style="dim")
        for row in report.rows():
            table.add_row(*row)
        self.console.print(table)

    def training(self, steps: int, done: int) -> Display:
        """Prepare the progress of a run of `steps` optimizer steps; a `with` block shows it."""
        self._steps, self._calls = steps, 0
        if self.console.is_terminal and not self.console.quiet:
            self._bar = Progress(
                TextColumn("step {task.completed}/{task.total}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[metrics]}"),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=self.console,
                expand=True,
            )
            self._task = self._bar.add_task("training", total=steps, completed=done, metrics="")
        return self

    def __enter__(self) -> Display:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def step(
        self,
        step: int,
        running: Callable[[], tuple[float, float]],
        images_per_second: Callable[[], float],
        rate: float,
    ) -> None:
        """Show progress after `step` steps. The callables are asked only when something is shown."""
        now = time.monotonic()
        self._calls += 1
        if self._calls <= 2:  # W&B starts before or behind the first step, which is the slowest besides
            self._began, self._clocked = now, step
        pause = 0.2 if self._bar is not None else self.LINE_SECONDS
        if self.console.quiet or (now - self._shown < pause and step < self._steps):
            return
        self._shown = now
        loss, top1 = running()
        metrics = f"loss {loss:.3f}  top-1 {top1:5.1f} %  {images_per_second():,.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, metrics=metrics)
            return
        done = step - self._clocked
        left = f"  ETA {duration((now - self._began) / done * (self._steps - step))}" if done else ""
        self.say(f"step {step}/{self._steps}  {metrics}  lr {rate:.3g}{left}")

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Print one row of the history."""
        self.say(
            f"epoch {row['epoch']:>3}  train loss {row['train_loss']:.3f}  top-1 {row['train_top1']:5.2f} %"
            f"  |  test loss {row['test_loss']:.3f}  top-1 {row['test_top1']:5.2f} %"
            f"  |  {row['images_per_second']:,.0f} images/s  lr {row['lr']:.3g}"
        )


class TuningDisplay(Display):
    """Of fine-tuning: steps alone, as it looks at training images only after an epoch."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Print nothing."""


def duration(seconds: float) -> str:
    """Format seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
