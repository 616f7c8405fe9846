"""Every table unpacks the same slots, and folds the same gradients, as looking each position up."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import images, make
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rpg_bench import InvalidInput, materialize, share
from rpg_bench.sharing import sharing_of
from rpg_bench.sharing.ring import RingPlan, TableChoice, make_table
from rpg_bench.sharing.rpg_global import RpgGlobal
from rpg_bench.sharing.slots import Owner, Slot
from rpg_bench.sharing.unpacking import (
    BlockTable,
    Layout,
    LookUpTable,
    SortedTable,
    Table,
    TorchTable,
    TwoPassTable,
    available,
    native,
    signed_words,
    tables,
)

needs_native = pytest.mark.skipif(not available(), reason="no C compiler here")
CPU = torch.device("cpu")
SHAPES = ((6, 5, 3, 3), (7, 11), (4, 40, 2, 2), (70_000,), (3, 2, 1))  # one of more than a chunk
KINDS = [torch.float32, torch.bfloat16]


def plan_of(dof: int, shapes: tuple[tuple[int, ...], ...] = SHAPES, **options: object) -> RingPlan:
    slots = [
        Slot(f"layer{number}.weight", shape, "conv", 0.02 * (number + 1), (Owner(f"layer{number}", "weight"),))
        for number, shape in enumerate(shapes)
    ]
    return RpgGlobal(**options).plan(slots, dof, seed=3)  # type: ignore[arg-type]


def in_memory_order(plan: RingPlan, layout: Layout) -> np.ndarray:
    index, start = plan.signed_index(), 0
    for number, size in enumerate(layout.sizes):
        index[start : start + size] = layout.memory_order(number, index[start : start + size])
        start += size
    return index


def tables_of(plan: RingPlan, channels_last: bool) -> dict[str, Table]:
    """Each kind of table for the same plan; the first is the reference."""
    layout = Layout(tuple(slot.shape for slot in plan.slots), channels_last)
    index, scales, dof = in_memory_order(plan, layout), plan.scales(), plan.dof
    made: dict[str, Table] = {
        "torch": TorchTable(torch.from_numpy(index.copy()), layout, scales, dof),
        "sorted": SortedTable(torch.from_numpy(index.copy()), layout, scales, dof),
    }
    if available():
        words = signed_words(index.copy(), dof)
        made["look-up"] = LookUpTable(words, layout, scales, dof)
        made["two passes"] = TwoPassTable(words, layout, scales, dof)
        if plan.block > 1 and channels_last:
            made["blocks"] = BlockTable(*plan.blocks(), layout, scales, dof)
    return made


def gradients_for(layout: Layout, kind: torch.dtype) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    given: list[Tensor | None] = [torch.randn(shape, generator=generator).to(kind) for shape in layout.shapes]
    given[1] = None  # a slot that the loss does not depend on
    return given


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels_last", [False, True])
@given(dof=st.sampled_from([16, 17, 300, 5000, 70_000, 70_970]), block=st.sampled_from([1, 16]))
def test_all_tables_agree(kind: torch.dtype, channels_last: bool, dof: int, block: int) -> None:
    plan = plan_of(dof, block=block)
    made = tables_of(plan, channels_last)
    reference = made.pop("torch")
    ring = torch.randn(plan.dof, generator=torch.Generator().manual_seed(0))
    slots = reference.unpack(ring, kind)
    gradients = gradients_for(reference.layout, kind)
    folded = reference.fold(gradients, torch.float32)
    for name, table in made.items():
        for expected, found in zip(slots, table.unpack(ring, kind), strict=True):
            assert torch.equal(expected, found), name
            assert expected.stride() == found.stride(), name
        torch.testing.assert_close(table.fold(gradients, torch.float32), folded, rtol=1e-4, atol=1e-3, msg=name)


def test_a_position_takes_its_entry_with_its_sign_and_scale() -> None:
    plan = plan_of(100)
    ring = torch.randn(100)
    index, start = plan.signed_index(), 0
    for table in tables_of(plan, True).values():
        start = 0
        for slot, scale, found in zip(plan.slots, plan.scales(), table.unpack(ring, torch.float32), strict=True):
            piece = index[start : start + slot.size]
            sign = np.where(piece >= 100, -1, 1).astype(np.float32)
            expected = ring.numpy()[piece % 100] * sign * np.float32(scale)
            np.testing.assert_allclose(found.reshape(-1).numpy(), expected, rtol=1e-6)
            start += slot.size


@needs_native
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 16])
def test_sums_do_not_depend_on_the_number_of_threads(kind: torch.dtype, block: int) -> None:
    plan = plan_of(20_000, block=block)
    before = torch.get_num_threads()
    for name, table in tables_of(plan, True).items():
        found = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            try:
                found.append(table.fold(gradients_for(table.layout, kind), torch.float32))
            finally:
                torch.set_num_threads(before)
        assert all(torch.equal(found[0], other) for other in found[1:]), name


@needs_native
@pytest.mark.parametrize("dof", [500, 300_000])
def test_without_openmp_threads_of_its_own_do_the_same(dof: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(dof, shapes=((400_000,),))
    table = make_table(plan, TableChoice(CPU, True, False))
    ring, gradients = torch.randn(dof), [torch.randn(400_000)]
    expected = [*table.unpack(ring, torch.bfloat16), table.fold(gradients, torch.float32)]
    monkeypatch.setattr(native, "_team", lambda: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    found = [*table.unpack(ring, torch.bfloat16), table.fold(gradients, torch.float32)]
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="torch's OpenMP can be asked on Linux only")
def test_torchs_own_threads_are_used() -> None:
    assert native._team() is not None


@needs_native
def test_a_fork_of_a_process_with_threads_goes_on() -> None:
    code = (
        "import os, torch; from rpg_bench.sharing.unpacking import native\n"
        "torch.set_num_threads(2)\n"
        "def ones():\n"
        "    sums = torch.ones(2, 1000); native.divide(1000, 'merge', sums, 1000, 2); return float(sums.sum())\n"
        "assert ones() == 3000\n"
        "child = os.fork()\n"
        "assert ones() == 3000\n"
        "if child: assert os.waitpid(child, 0)[1] == 0\n"
        "os._exit(0)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


@needs_native
@pytest.mark.parametrize("threads", [1, 2])
def test_a_kernel_without_memory_is_said(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    entries = np.array([-(2**40), 0], np.int64)  # an entry fewer than none: calloc refuses
    with pytest.raises(MemoryError, match="no memory to unpack the ring"):
        native.divide(1, "count_unused", np.zeros(1), np.zeros(2), entries[::-1].copy(), np.zeros(1))


@needs_native
def test_an_interrupt_while_kernels_run_is_not_lost() -> None:
    code = (
        "import signal, torch; from rpg_bench.sharing.unpacking import native\n"
        "signal.signal(signal.SIGALRM, signal.default_int_handler)\n"
        "torch.set_num_threads(2)\n"
        "sums = torch.ones(200, 100_000)\n"
        "native.divide(100_000, 'merge', sums, 100_000, 200)\n"
        "for wait in range(1, 200):\n"
        "    try:\n"
        "        signal.setitimer(signal.ITIMER_REAL, wait / 10_000)\n"
        "        while True: native.divide(100_000, 'merge', sums, 100_000, 200)\n"
        "    except KeyboardInterrupt: pass\n"
        "print('all seen')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("all seen\n", "")


@needs_native
def test_entries_without_a_use_get_no_gradient() -> None:
    # HashedNets draw with replacement: some buckets stay empty.
    layout = Layout(((10,),), False)
    words = np.array([7, 7, 7, 2, 2, 9, 9, 9, 9, 9], np.uint32)
    for table in (LookUpTable(words, layout, [2.0], 12), TwoPassTable(words, layout, [2.0], 12)):
        assert table.fold([torch.ones(10)], torch.float32).tolist() == [0, 0, 4, 0, 0, 0, 0, 6, 0, 10, 0, 0]
        assert table.unpack(torch.arange(12.0), torch.float32)[0].tolist() == [14.0] * 3 + [4.0] * 2 + [18.0] * 5


@needs_native
@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf"), 1e-40])
def test_special_values_pass(special: float) -> None:
    plan = plan_of(50)
    ring = torch.full((50,), special)
    made = tables_of(plan, False)
    for kind in KINDS:
        expected = made["torch"].unpack(ring, kind)
        for name in ("look-up", "two passes"):
            for one, other in zip(expected, made[name].unpack(ring, kind), strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("dof", "block", "expected"),
    [
        (36_000, 1, LookUpTable),
        (300_000, 1, TwoPassTable),
        (300_000, 16, BlockTable),
    ],
)
@needs_native
def test_the_fastest_table_is_chosen(dof: int, block: int, expected: type[Table]) -> None:
    plan = plan_of(dof, shapes=((400_000,),), block=block)
    table = make_table(plan, TableChoice(CPU, True, False))
    assert type(table) is expected
    assert table.bytes <= 4.05 * plan.total


def run_without_kernels(code: str) -> str:
    environment = {**os.environ, native.SWITCH: "0", "PYTHONPATH": os.path.dirname(__file__)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_without_a_compiler_the_same_is_computed() -> None:
    code = (
        "import torch; from models import images, make; from rpg_bench import share;"
        "from rpg_bench.sharing.unpacking import available; assert not available();"
        "model = share(make('resnet'), 'rpg_global', 500).eval(); loss = model(images()).square().sum();"
        "loss.backward(); print(loss.item(), model.get_parameter('sharing.ring').grad.norm().item())"
    )
    loss, norm = map(float, run_without_kernels(code).split())
    model = share(make("resnet"), "rpg_global", 500).eval()
    found = model(images()).square().sum()
    found.backward()
    assert found.item() == pytest.approx(loss, rel=1e-5)
    gradient = model.get_parameter("sharing.ring").grad
    assert gradient is not None
    assert gradient.norm().item() == pytest.approx(norm, rel=1e-4)


@needs_native
def test_processes_that_start_at_once_build_one_library(tmp_path: object) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    code = "from rpg_bench.sharing.unpacking import available; assert available()"
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert len(os.listdir(f"{tmp_path}/rpg_bench")) == 1


@pytest.mark.parametrize("options", [{}, {"block": 16}])
def test_slots_come_in_the_models_memory_format(options: dict[str, int]) -> None:
    model = share(make("resnet"), "rpg_global", 500, **options)
    sharing = sharing_of(model)
    plain = [slot.detach().clone() for slot in sharing.produce()]
    assert all(slot.is_contiguous() for slot in plain)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    converted = sharing.produce()
    for one, other in zip(plain, converted, strict=True):
        assert torch.equal(one, other)
        assert other.is_contiguous(memory_format=torch.channels_last)


def test_under_autocast_slots_come_in_its_dtype_and_gradients_in_float32() -> None:
    model = share(make("resnet"), "rpg_global", 500)
    sharing = sharing_of(model)
    with torch.autocast("cpu", torch.bfloat16):
        slots = sharing.produce()
        output = model(images())
    assert {slot.dtype for slot in slots} == {torch.bfloat16}
    full = sharing.produce()
    assert all(torch.equal(one.to(torch.bfloat16), other) for one, other in zip(full, slots, strict=True))
    output.float().square().sum().backward()
    gradient = model.get_parameter("sharing.ring").grad
    assert gradient is not None
    assert gradient.dtype == torch.float32


class HalfOff(nn.Module):
    """Turns autocast off for its second layer."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.one, self.two, self.exit = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, features: Tensor) -> Tensor:
        features = self.one(self.entry(features))
        with torch.autocast("cpu", enabled=False):
            features = self.two(features.float())
        logits: Tensor = self.exit(features)
        return logits


def test_a_layer_outside_of_autocast_reads_float32() -> None:
    model = share(HalfOff(), "rpg_global", 50)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.randn(2, 8))
    output.float().sum().backward()
    assert model.get_parameter("sharing.ring").grad is not None


@needs_native
def test_a_large_ring_serves_layers_one_by_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LARGEST_LOOK_UP", 10)
    model = share(make("vit"), "rpg_global", "30%").eval()
    batch = images()
    model(batch).square().sum().backward()
    ring = model.get_parameter("sharing.ring")
    assert ring.grad is not None
    expected = ring.grad.clone()
    assert isinstance(sharing_of(model)._table, TwoPassTable)
    ring.grad = None
    for block in model.get_submodule("blocks").children():
        forward = block.forward
        block.forward = lambda x, forward=forward: checkpoint(forward, x, use_reentrant=False)  # type: ignore[method-assign,assignment,misc]
    model(batch).square().sum().backward()
    assert ring.grad is not None
    torch.testing.assert_close(ring.grad, expected, rtol=1e-4, atol=1e-4)


def test_copies_share_their_tables() -> None:
    model = share(make("vit"), "rpg_global", "30%")
    model(images())
    assert sharing_of(copy.deepcopy(model))._table is sharing_of(model)._table


# ---- Blocks ----------------------------------------------------------------------------------------


@given(dof=st.integers(16, 2700), seed=st.integers(0, 50))
def test_blocks_of_a_ring_stay_together_and_are_used_equally_often(dof: int, seed: int) -> None:
    shapes = ((8, 16, 3, 3), (32, 48), (5, 7))
    slots = [
        Slot(f"layer{number}.weight", shape, "conv", 0.1, (Owner(f"layer{number}", "weight"),))
        for number, shape in enumerate(shapes)
    ]
    plan = RpgGlobal(block=16).plan(slots, dof, seed)
    assert plan.dof == dof - dof % 16
    layout = Layout(shapes, channels_last=True)
    index = in_memory_order(plan, layout)
    counts = np.zeros(plan.dof // 16, int)
    start = 0
    for slot in slots:
        entries = index[start : start + slot.size] % plan.dof
        for first in range(0, slot.size, 16):
            block = entries[first : first + 16]
            assert block[0] % 16 == 0
            np.testing.assert_array_equal(block, block[0] + np.arange(len(block)))
            counts[block[0] // 16] += 1
        start += slot.size
    assert counts.max() - counts.min() <= 1
    negative = np.mean(index >= plan.dof)
    assert 0.45 < negative < 0.55


def test_a_materialised_block_model_gives_the_same_outputs() -> None:
    model = share(make("resnet"), "rpg_global", 640, block=16).eval()
    torch.testing.assert_close(materialize(model)(images()), model(images()))


@pytest.mark.parametrize("block", [0, 2, 15, 32, True, "16"])
def test_other_blocks_are_refused(block: object) -> None:
    with pytest.raises(InvalidInput, match=r"sharing\.block"):
        share(make("resnet"), "rpg_global", 500, block=block)


def test_a_ring_of_less_than_a_block_is_refused() -> None:
    with pytest.raises(InvalidInput, match="block"):
        share(make("resnet"), "rpg_global", 10, block=16)


@pytest.mark.parametrize("scheme", ["rpg_global", "rpg_lors", "random_prune"])
def test_autocast_changes_precision_only(scheme: str) -> None:
    model = share(HalfOff(), scheme, 50)
    features = torch.randn(4, 8)
    expected = model(features)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(features)
    torch.testing.assert_close(found.float(), expected, rtol=5e-2, atol=5e-2)
