"""The kernels for CUDA devices: right in Triton's interpreter, and built for such devices without one."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from rpg_bench import share
from rpg_bench.sharing.unpacking import FusedTable, Layout, fused, native, supported

triton = pytest.importorskip("triton", reason="needs Triton, which comes with torch for CUDA")


def test_the_interpreted_kernels_agree_with_torch() -> None:
    script = Path(__file__).with_name("interpreted_kernels.py")
    environment = {**os.environ, "PYTHONPATH": str(script.parent)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("kind", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["unpack", "fold"])
def test_the_kernels_are_built_without_a_device(name: str, kind: str, capability: int) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(fused.kernels(), name)
    kinds = {"order": "*i32", "ends": "*i32", "entries": "i32", "whole": f"*{kind}"}
    sizes = {"CHUNK": fused.CHUNK, "ENTRIES": 4, "USES": 256}
    signature = {
        argument: "constexpr" if argument in sizes else kinds.get(argument, "*fp32") for argument in kernel.arg_names
    }
    built = triton.compile(ASTSource(kernel, signature, sizes), target=GPUTarget("cuda", capability, 32))
    assert built.asm["cubin"]
    assert "atom." not in built.asm["ptx"]  # sums have a fixed order
    assert "red.global" not in built.asm["ptx"]
    if kind == "bf16" and name == "unpack":
        assert "cvt.rn.bf16" in built.asm["ptx"]  # rounded to the nearest, as torch does


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device_the_kernels_are_used() -> None:
    model = share(torch.nn.Sequential(*(torch.nn.Linear(40, 40) for _ in range(4))), "rpg_global", 100).cuda()
    assert supported(model.get_parameter("sharing.ring"), torch.bfloat16)
    model(torch.randn(2, 40, device="cuda")).sum().backward()


def test_without_a_device_or_a_compiler_torch_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not fused.works.__wrapped__(torch.device("cpu"))
    monkeypatch.setattr(fused, "_agrees", lambda _: 1 / 0)
    with pytest.warns(UserWarning, match="without Triton kernels on cuda:0: division by zero"):
        assert not fused.works.__wrapped__(torch.device("cuda:0"))
    monkeypatch.setenv(native.SWITCH, "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fused.kernels.__wrapped__() is None


def test_slots_of_one_tensor_share_no_place() -> None:
    layout = Layout(((3, 4, 3, 3), (1500,), (1,)), channels_last=True)
    table = FusedTable(torch.zeros(layout.total, dtype=torch.int32), layout, (1.0, 1.0, 1.0), 1)
    assert table.length % fused.CHUNK == 0
    places = torch.arange(table.length)
    found = torch.cat([layout.flat(slot, part) for slot, part in enumerate(table.slots([places]))])
    assert torch.equal(found, table.order)
    assert len(found.unique()) == layout.total
