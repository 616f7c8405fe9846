"""The command imports what takes seconds only when it is used."""

from __future__ import annotations

import subprocess
import sys

SLOW = ("wandb", "sklearn", "matplotlib", "pyarrow", "onnx", "pandas")

# Trains to the first step, and says which of these packages were imported by then.
UNTIL_THE_FIRST_STEP = """
import sys
from rpg_bench import display

class FirstStep(BaseException):
    pass

def stop(*_):
    raise FirstStep

display.Display.step = stop
from rpg_bench.train import main
try:
    main()
except FirstStep:
    print("imported:", *[name for name in {slow} if name in sys.modules])
"""


def test_the_first_step_is_reached_without_what_is_slow_to_import() -> None:
    arguments = ["backbone=timm", "backbone.name=test_resnet", "dof=5k", "device=cpu"]
    command = [sys.executable, "-c", UNTIL_THE_FIRST_STEP.format(slow=SLOW), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported:"
