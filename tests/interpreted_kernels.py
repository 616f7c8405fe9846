"""Checks of the Triton kernels in Triton's interpreter, on the CPU. Run by test_fused.py, in a process of its own:
Triton decides at its first import whether it interprets."""

from __future__ import annotations

import copy
import os

os.environ["TRITON_INTERPRET"] = "1"

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import images, make
from test_unpacking import gradients_for, in_memory_order, plan_of
from torch import Tensor, nn

from rpg_bench import share
from rpg_bench.sharing import ring, sharing_of
from rpg_bench.sharing.unpacking import FusedTable, Layout, TorchTable

SHAPES = ((6, 5, 3, 3), (7, 11), (4, 40, 2, 2), (2050,), (3, 2, 1))
# The interpreter cuts off what does not fit into bfloat16, where a device rounds: up to one unit in the last place.
ROUNDING = {torch.float32: 0.0, torch.float16: 0.0, torch.bfloat16: 2.0**-7}


@given(
    kind=st.sampled_from(list(ROUNDING)),
    channels_last=st.booleans(),
    dof=st.sampled_from([1, 2, 16, 17, 300, 1400, 3043]),
    block=st.sampled_from([1, 16]),
)
@settings(max_examples=30, deadline=None)
def check_agreement_with_torch(kind: torch.dtype, channels_last: bool, dof: int, block: int) -> None:
    plan = plan_of(max(dof, block), shapes=SHAPES, block=block)
    layout = Layout(tuple(slot.shape for slot in plan.slots), channels_last)
    index = torch.from_numpy(in_memory_order(plan, layout))
    plain = TorchTable(index, layout, plan.scales(), plan.dof)
    fused = FusedTable(index, layout, plan.scales(), plan.dof)
    free = torch.randn(plan.dof, generator=torch.Generator().manual_seed(0))
    expected = plain.unpack(free, kind)
    outputs = fused.unpack(free, kind)
    assert [(one.shape, one.dtype) for one in outputs] == [(one.shape, one.dtype) for one in fused.outputs(kind)]
    for one, other in zip(expected, fused.slots(outputs), strict=True):
        torch.testing.assert_close(other, one, rtol=ROUNDING[kind], atol=0)
        assert one.stride() == other.stride()
    gradients = gradients_for(layout, kind)
    whole = torch.zeros_like(outputs[0])
    for slot, gradient in zip(fused.slots([whole]), gradients, strict=True):
        if gradient is not None:
            slot.copy_(gradient)
    folded = fused.fold([whole], torch.float32)
    torch.testing.assert_close(folded, plain.fold(gradients, torch.float32), rtol=1e-4, atol=1e-3)
    assert torch.equal(folded, fused.fold([whole], torch.float32))
    assert not fused.fold([None], torch.float32).any()
    assert fused.order.nbytes == 4 * layout.total
    assert fused.bytes <= 4 * (layout.total + plan.dof + len(layout.shapes)) + layout.total // 256


def check_entries_without_a_use() -> None:
    # HashedNets draw with replacement: some buckets stay empty.
    index = torch.tensor([7, 7, 7, 2, 2, 9, 9, 9, 9, 9], dtype=torch.int32)
    table = FusedTable(index, Layout(((10,),), False), [2.0], 12)
    whole = table.unpack(torch.arange(12.0), torch.float32)
    assert table.slots(whole)[0].tolist() == [14.0] * 3 + [4.0] * 2 + [18.0] * 5
    ones = torch.ones(table.length)
    assert table.fold([ones], torch.float32).tolist() == [0, 0, 4, 0, 0, 0, 0, 6, 0, 10, 0, 0]


def check_a_network() -> None:
    """The same outputs and gradients as through torch, in whatever way the network is called."""
    batch = images()

    def trained(model: nn.Module, call: nn.Module) -> tuple[Tensor, Tensor]:
        output: Tensor = call(batch)
        free = model.get_parameter("sharing.ring")
        (gradient,) = torch.autograd.grad(output.square().sum(), free)
        return output, gradient

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring, "supported", lambda *_: False)
        plain = share(make("resnet"), "rpg_global", 500).eval()
        expected = trained(plain, plain)
        patch.setattr(ring, "TorchTable", FusedTable)
        for convert in (torch.contiguous_format, torch.channels_last):
            model = share(make("resnet"), "rpg_global", 500).eval()
            model.to(memory_format=convert)  # type: ignore[call-overload]
            compiled = torch.compile(model, backend="eager", fullgraph=True)
            for call in (compiled, model, copy.deepcopy(model)):
                owner = call if call is not compiled and isinstance(call, nn.Module) else model
                torch.testing.assert_close(trained(owner, call), expected, rtol=1e-4, atol=1e-4)
            assert isinstance(sharing_of(model)._table, FusedTable)
        with torch.autocast("cpu", torch.bfloat16):
            slots = sharing_of(model).produce()
        assert {slot.dtype for slot in slots} == {torch.bfloat16}
        small = share(nn.Sequential(*(nn.Linear(3, 3) for _ in range(4))).double(), "rpg_global", 5).float()
        free = small.get_parameter("sharing.ring")
        features = torch.randn(2, 3)
        (once,) = torch.autograd.grad(small(features).tanh().sum(), free, create_graph=True)
        once.square().sum().backward()  # both operations are linear: the second derivative exists
        assert free.grad is not None
        assert free.grad.abs().sum() > 0


if __name__ == "__main__":
    check_agreement_with_torch()
    check_entries_without_a_use()
    check_a_network()
