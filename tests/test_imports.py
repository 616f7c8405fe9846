"""What takes seconds to import is imported only when it is used."""

from __future__ import annotations

import subprocess
import sys

SLOW = ("wandb", "sklearn", "matplotlib", "pyarrow", "onnx", "pandas", "torch._dynamo.eval_frame")

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


# The compiler, once it is wanted: whole, with the options that were set before, and known to everybody.
COMPILE_LATER = """
import sys
from rpg_bench.compiler import without_compiler

with without_compiler():
    import torch
    import torchvision.ops
    torch._dynamo.config.recompile_limit = 123
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    parameter.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    before = "torch._dynamo.eval_frame" in sys.modules
    graphs = []
    def backend(graph, inputs):
        graphs.append(graph)
        return graph
    function = torch.compile(lambda x: 2 * x + 1, backend=backend)
    values = function(parameter)
    whole = "torch._dynamo.eval_frame" in sys.modules
print(before, values.tolist(), len(graphs), whole, torch._dynamo.config.recompile_limit)
"""

LEAVES_NO_TRACE = """
import sys
from rpg_bench.compiler import without_compiler

with without_compiler():
    import torch
print([name for name in sys.modules if name.startswith("torch._dynamo")])
from torch._dynamo.utils import is_compile_supported
print(is_compile_supported("cpu") == torch._dynamo.is_dynamo_supported())
"""


def output_of(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_compiler_is_there_when_somebody_compiles() -> None:
    assert output_of(COMPILE_LATER) == ["False [1.0, 1.0, 1.0] 1 True 123"]


def test_the_compiler_can_be_imported_afterwards() -> None:
    assert output_of(LEAVES_NO_TRACE) == ["[]", "True"]


def test_the_first_step_is_reached_without_what_is_slow_to_import() -> None:
    arguments = ["backbone=timm", "backbone.name=test_resnet", "dof=5k", "device=cpu"]
    command = [sys.executable, "-c", UNTIL_THE_FIRST_STEP.format(slow=SLOW), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported:"


WITHOUT_TORCH = """
import sys
from omegaconf import OmegaConf
import rpg_bench
import rpg_bench.train, rpg_bench.report.experiments
from rpg_bench.config import TrainConfig
from rpg_bench.runs import run_hash
run_hash(TrainConfig())
before = "torch" in sys.modules
rpg_bench.share
print(before, "torch" in sys.modules, "share" in dir(rpg_bench))
"""


def test_naming_a_run_takes_no_torch() -> None:
    """What only reads configurations and records answers at once."""
    assert output_of(WITHOUT_TORCH) == ["False True True"]
