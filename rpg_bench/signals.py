"""Ctrl-C, SIGTERM and a scheduler's SIGUSR2: finish the step, write a checkpoint, leave."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupted(BaseException):
    """A stop was requested and the run is saved. No Exception, so that a sweep stops too."""

    def __init__(self, number: int, epoch: int, step: int) -> None:
        super().__init__(f"interrupted in epoch {epoch} after step {step}")
        self.signal = number
        self.exit_code = 128 + number


class StopRequest:
    """Within the `with` block, SIGINT, SIGTERM and SIGUSR2 set `requested`; a second SIGINT ends at once.

    SIGUSR2 is what `sbatch --signal=USR2@120` and submitit send ahead of a time limit or a preemption.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)

    def __init__(self) -> None:
        self.requested = False
        self.signal = int(signal.SIGTERM)
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        # Handlers can be set in the main thread only; elsewhere nobody sends signals to us.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._request) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested, self.signal = True, number
