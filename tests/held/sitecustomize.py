"""Imported by Python before the command, where this folder is in `PYTHONPATH`: training takes a second for each step as
long as there is a file `hold` in its working directory.

So a test meets a run in the middle on a machine of any speed, without computing anything.
"""

import time
from pathlib import Path
from typing import Any

from rpg_bench.display import Display

_step = Display.step


def _held(display: Display, *arguments: Any) -> None:
    _step(display, *arguments)
    if Path("hold").exists():
        time.sleep(1)


Display.step = _held  # type: ignore[method-assign]
