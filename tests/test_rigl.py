"""RigL: how connections are divided, which of them move, and that everything else follows."""

from __future__ import annotations

import copy
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import images, make
from runner import assert_same, assert_same_result, composed, train_tiny
from test_resume import stopping_after
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from rpg_bench import InvalidInput, dof_report, materialize, share
from rpg_bench.optim import AveragedModel
from rpg_bench.sharing import plan_for, sharing_of
from rpg_bench.sharing.rigl import Rigl, RiglPlan, RiglSharing, spread
from rpg_bench.sharing.slots import find_slots
from rpg_bench.signals import Interrupted
from rpg_bench.train import train

# Behind the first step of 100, 30 % x 0.999 of each slot's connections move.
EVERY_STEP: dict[str, Any] = {"update_every": 1}


def network(seed: int = 0, **options: Any) -> nn.Module:
    """Three slots of different sizes, behind a stem and before a head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Tanh(), nn.Conv2d(8, 12, 1), nn.Tanh(),
            nn.Flatten(), nn.Linear(12 * 4 * 4, 6), nn.Tanh(), nn.Linear(6, 5),
        )  # fmt: skip
    return share(made, "rigl", 600, **{**EVERY_STEP, **options})


def rigl_of(model: nn.Module) -> RiglSharing:
    sharing = sharing_of(model)
    assert isinstance(sharing, RiglSharing)
    return sharing


def batch(seed: int = 0, count: int = 8) -> Tensor:
    return images(count, seed, size=8)


def dense_weights(model: nn.Module) -> Tensor:
    """Of all slots, shape (D,)."""
    return torch.cat([slot.detach().reshape(-1) for slot in rigl_of(model).produce()])


def active(model: nn.Module) -> Tensor:
    sharing = rigl_of(model)
    found = torch.zeros(sharing.plan.total, dtype=torch.bool)
    found[sharing.positions.long()] = True
    return found


def slots_of(model: nn.Module, flat: Tensor) -> tuple[Tensor, ...]:
    return flat.split([slot.size for slot in sharing_of(model).plan.slots])


def loss_of(model: nn.Module, inputs: Tensor) -> Tensor:
    loss: Tensor = model(inputs).square().mean()
    return loss


def take_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int = 0,
    steps: int = 100,
    inputs: Tensor | None = None,
    parts: int = 1,
    average: AveragedModel | None = None,
) -> None:
    """One optimizer step as the engine does it."""
    sharing = sharing_of(model)
    sharing.before_step(step, steps)
    for part in (batch(step) if inputs is None else inputs).chunk(parts):
        (loss_of(model, part) / parts).backward()
    optimizer.step()
    optimizer.zero_grad()
    sharing.after_step(step, steps, optimizer, None if average is None else sharing_of(average.model))
    if average is not None:
        average.update(model)


sides = st.lists(st.integers(1, 40), min_size=2, max_size=4)


@given(st.lists(sides, min_size=1, max_size=8), st.data())
def test_erk_divides_exactly_and_by_its_formula(shapes: list[list[int]], data: st.DataObject) -> None:
    sizes, weights = [math.prod(shape) for shape in shapes], [sum(shape) for shape in shapes]
    budget = data.draw(st.integers(len(shapes), sum(sizes)))
    parts = spread(budget, weights, sizes)
    assert sum(parts) == budget
    assert all(1 <= part <= size for part, size in zip(parts, sizes, strict=True))
    # Evci et al., appendix: density eps * (sum of sides) / (product of sides), the densest layer fixed at 1 and
    # eps computed again until no density is above 1.
    dense: set[int] = set()
    while True:
        rest = [i for i in range(len(shapes)) if i not in dense]
        if not rest:
            break
        eps = Fraction(budget - sum(sizes[i] for i in dense), sum(weights[i] for i in rest))
        density = {i: eps * weights[i] / sizes[i] for i in rest}
        if max(density.values()) <= 1:
            break
        dense |= {i for i in rest if density[i] == max(density.values())}
    for i, part in enumerate(parts):
        expected = sizes[i] if i in dense else density[i] * sizes[i]
        lent = sum(1 for p in parts if p == 1)  # to slots that would have got none
        assert part == 1 or expected - 1 - lent < part < expected + 1


@pytest.mark.parametrize("distribution", ["erk", "uniform"])
@pytest.mark.parametrize("dof", [36_001, "36k", "10%", "99%", "100%"])
def test_the_budget_is_met_exactly(distribution: str, dof: int | str) -> None:
    model = timm.create_model("resnet18", num_classes=10)
    plan = plan_for(model, "rigl", dof, distribution=distribution)
    assert isinstance(plan, RiglPlan)
    asked = {"36k": 36_000, 36_001: 36_001}.get(dof, int(plan.total * float(str(dof).strip("%k")) / 100))
    assert plan.dof == sum(plan.connections) == asked
    if distribution == "uniform":
        for slot, count in zip(plan.slots, plan.connections, strict=True):
            assert abs(count - slot.size * plan.dof / plan.total) <= 1


def test_the_first_connections_are_random_and_keep_the_networks_values() -> None:
    dense = make("resnet")
    expected = torch.cat([dense.get_parameter(slot.name).detach().reshape(-1) for slot in find_slots(dense)])
    first, second = share(make("resnet"), "rigl", "30%"), share(make("resnet"), "rigl", "30%", seed=1)
    kept = active(first)
    assert torch.equal(dense_weights(first), expected * kept)
    both = int((kept & active(second)).sum())
    assert 0.2 * dof_report(first).dof < both < 0.6 * dof_report(first).dof
    plan = sharing_of(first).plan
    assert isinstance(plan, RiglPlan)
    assert [int(piece.sum()) for piece in slots_of(first, kept)] == list(plan.connections)


@pytest.mark.parametrize(("every", "steps"), [(None, 100), (None, 1000), (None, 10_000), (None, 3), (7, 100), (1, 5)])
def test_the_schedule(every: int | None, steps: int) -> None:
    scheme = Rigl(update_every=every)
    fractions = [scheme.fraction(step, steps) for step in range(steps)]
    taken = [step + 1 for step, fraction in enumerate(fractions) if fraction]
    interval = every or {100: 7, 1000: 75, 10_000: 100, 3: 1}[steps]
    assert taken == [t for t in range(1, steps + 1) if t % interval == 0 and t < 0.75 * steps]
    for t in taken:
        assert fractions[t - 1] == pytest.approx(0.15 * (1 + math.cos(math.pi * t / (0.75 * steps))))


@pytest.mark.parametrize("distribution", ["erk", "uniform"])
def test_the_smallest_leave_and_the_largest_gradients_come(distribution: str) -> None:
    model = network(distribution=distribution)
    plain, before = materialize(model), active(model)
    loss_of(plain, batch()).backward()
    gradients = [plain.get_parameter(slot.name).grad for slot in sharing_of(model).plan.slots]
    take_step(model, torch.optim.SGD(model.parameters(), 0.0))
    weights = dense_weights(materialize_active(model))
    after = active(model)
    assert int(after.sum()) == 600
    for old, new, values, gradient in zip(
        slots_of(model, before),
        slots_of(model, after),
        slots_of(model, dense_weights(network(distribution=distribution)).abs()),
        gradients,
        strict=True,
    ):
        assert gradient is not None
        scores = gradient.abs().reshape(-1)
        assert old.sum() == new.sum()
        count = int(0.3 * (1 + math.cos(math.pi / 75)) / 2 * int(old.sum()))
        dropped = torch.zeros_like(old)
        dropped[torch.where(old, values, torch.inf).argsort()[:count]] = True
        survivors = old & ~dropped
        assert bool(new[survivors].all())
        grown = new & ~survivors
        assert int(grown.sum()) == count > 0
        assert scores[grown].min() >= scores[~survivors & ~grown].max()
    assert torch.equal(weights[before & after], dense_weights(network(distribution=distribution))[before & after])
    assert weights[after & ~before].count_nonzero() == 0
    assert int((after & ~before).sum()) > 50


def materialize_active(model: nn.Module) -> nn.Module:
    """The model itself, checked: what `materialize` folds is what it computes with."""
    assert torch.equal(model(batch()), materialize(model)(batch()))
    return model


def test_nothing_moves_where_no_gradient_arrives() -> None:
    model = network()
    before = active(model)
    sharing = sharing_of(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sharing.before_step(0, 100)
    sharing.after_step(0, 100, optimizer)
    assert torch.equal(active(model), before)


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    model = network()
    before = model.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    sharing = sharing_of(model)
    sharing.before_step(0, 100)
    (loss_of(model, batch()) * math.inf).backward()
    model.zero_grad()
    sharing.after_step(0, 100, torch.optim.SGD(model.parameters(), 0.1))
    assert_same(dict(model.state_dict()), before)


@pytest.mark.parametrize(
    ("make_optimizer", "names"),
    [
        (lambda p: torch.optim.SGD(p, 0.05, momentum=0.9), ["momentum_buffer"]),
        (lambda p: torch.optim.AdamW(p, 0.01), ["exp_avg", "exp_avg_sq"]),
    ],
    ids=["sgd", "adamw"],
)
def test_optimizer_state_follows_its_connections(make_optimizer: Any, names: list[str]) -> None:
    model = network(update_every=3)
    optimizer = make_optimizer(model.parameters())
    sharing = rigl_of(model)

    def spread_out() -> dict[str, Tensor]:
        found = {}
        for name in names:
            found[name] = torch.zeros(sharing.plan.total)
            found[name][sharing.positions.long()] = optimizer.state[sharing.survivors][name]
        return found

    take_step(model, optimizer, 0)
    take_step(model, optimizer, 1)
    # Step 2, taken by hand so that the state before and after the update can be looked at.
    sharing.before_step(2, 100)
    loss_of(model, batch(2)).backward()
    optimizer.step()
    before, old, values = spread_out(), active(model), dense_weights(model)
    sharing.after_step(2, 100, optimizer)
    after, new = spread_out(), active(model)
    assert int((new & ~old).sum()) > 50
    for name in names:
        assert torch.equal(after[name], before[name] * (old & new))
        assert after[name][old & new].count_nonzero() > 100
    assert torch.equal(dense_weights(model), values * (old & new))


def test_parts_of_a_batch_add_up() -> None:
    whole, parts = network(), network()
    for model, number in ((whole, 1), (parts, 4)):
        model.double()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for step in range(3):
            take_step(model, optimizer, step, inputs=batch(step).double(), parts=number)
    assert torch.equal(active(whole), active(parts))
    assert not torch.equal(active(whole), active(network()))
    torch.testing.assert_close(dense_weights(whole), dense_weights(parts))


def test_a_submodule_called_directly_counts_too() -> None:
    """Slots are then produced one by one."""
    whole, pieces = network(), network()
    pieces.load_state_dict(whole.state_dict())
    take_step(whole, torch.optim.SGD(whole.parameters(), 0.1))
    sharing, optimizer = sharing_of(pieces), torch.optim.SGD(pieces.parameters(), 0.1)
    sharing.before_step(0, 100)
    features = batch()
    for name, layer in pieces.named_children():
        features = features if name == "sharing" else layer(features)
    features.square().mean().backward()
    optimizer.step()
    sharing.after_step(0, 100, optimizer)
    assert torch.equal(active(pieces), active(whole))


def test_ordinary_steps_do_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(update_every=4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    collected = []
    collect = RiglSharing._collect
    monkeypatch.setattr(RiglSharing, "_collect", lambda *a: (collected.append(1), collect(*a))[1])
    for step in range(3):
        take_step(model, optimizer, step)
    assert collected == []
    take_step(model, optimizer, 3)
    assert len(collected) == dof_report(model).slots


def test_without_the_calls_the_connections_stay() -> None:
    model = network()
    before = active(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(3):
        loss_of(model, batch(step)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(active(model), before)


def test_an_average_follows() -> None:
    model = network(update_every=2)
    average = AveragedModel(copy.deepcopy(model), 0.8)
    optimizer = torch.optim.SGD(model.parameters(), 0.5, momentum=0.9)
    expected = dense_weights(model)
    for step in range(8):
        take_step(model, optimizer, step, average=average)
        # A dense average of the weights, of which only present connections count.
        expected = (0.8 * expected + 0.2 * dense_weights(model)) * active(model)
        assert torch.equal(active(average.model), active(model))
        torch.testing.assert_close(dense_weights(average.model), expected)
    assert torch.equal(average.model.get_buffer("sharing.mask"), model.get_buffer("sharing.mask"))


def test_a_checkpoint_between_updates_continues_bit_for_bit() -> None:
    def train_on(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        for step in range(first, last):
            take_step(model, optimizer, step)

    whole = network(update_every=2)
    optimizer = torch.optim.AdamW(whole.parameters(), 0.01)
    train_on(whole, optimizer, 0, 5)
    model_state, optimizer_state = copy.deepcopy((whole.state_dict(), optimizer.state_dict()))
    assert sum(value.numel() for name, value in model_state.items() if name == "sharing.survivors") == 600
    train_on(whole, optimizer, 5, 10)
    again = network(seed=1, update_every=2)
    optimizer = torch.optim.AdamW(again.parameters(), 0.01)
    again.load_state_dict(model_state)
    optimizer.load_state_dict(optimizer_state)
    train_on(again, optimizer, 5, 10)
    assert_same(dict(again.state_dict()), dict(whole.state_dict()))


# Each with the steps it is stopped behind: between updates, behind one, and when they are over.
VARIANTS = {
    "accumulation, average": ((3, 4, 13), ["recipe.accumulate=2", "recipe.ema_decay=0.9", "optimizer.lr=0.3"]),
    "adamw, fp16 with its scaler": (
        (1, 2, 7),
        ["optimizer=adamw", "optimizer.lr=1e-2", "recipe.precision=fp16", "dataset.subset=0.1"],
    ),
}


@pytest.mark.parametrize(("points", "variant"), VARIANTS.values(), ids=VARIANTS.keys())
def test_a_run_that_was_stopped_is_continued_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, points: tuple[int, ...], variant: list[str]
) -> None:
    moves = []
    rewire = RiglSharing._rewire
    monkeypatch.setattr(RiglSharing, "_rewire", lambda *a: (moves.append(1), rewire(*a))[1])
    variant = ["sharing=rigl", "sharing.update_every=2", *variant]
    for folder in ("whole", "stopped"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    train_tiny(*variant)
    assert moves
    monkeypatch.chdir(tmp_path / "stopped")
    for point in points:
        with stopping_after(monkeypatch, point), pytest.raises(Interrupted):
            train_tiny(*variant)
    train_tiny(*variant)
    assert_same_result(tmp_path / "whole", tmp_path / "stopped")


def in_each_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = network()
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for step in range(3):
        sharing_of(model).before_step(step, 100)
        wrapped(batch(step).chunk(2)[rank]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        sharing_of(model).after_step(step, 100, optimizer)
    torch.save(model.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
def test_two_processes_move_the_same_connections_as_one(tmp_path: Path) -> None:
    context: Any = start_processes(in_each_process, (str(tmp_path),), 2, join=False, start_method="spawn")  # type: ignore[no-untyped-call]
    try:
        assert context.join(timeout=90) or context.join(timeout=45), "it hangs"
    finally:
        for process in context.processes:
            process.kill()
    one = network()
    optimizer = torch.optim.SGD(one.parameters(), 0.1, momentum=0.9)
    for step in range(3):
        take_step(one, optimizer, step)
    states = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert_same(states[0], states[1])
    assert torch.equal(states[0]["sharing.mask"], one.get_buffer("sharing.mask"))
    torch.testing.assert_close(states[0]["sharing.survivors"], rigl_of(one).survivors.detach())


def test_compiled_training_moves_the_same_connections() -> None:
    model, twin = network(update_every=2), network(update_every=2)
    torch._dynamo.reset()
    compiled: Any = torch.compile(twin, backend="eager")
    optimizers = [torch.optim.SGD(each.parameters(), 0.1) for each in (model, twin)]
    for step in range(5):
        for called, shared, optimizer in zip((model, compiled), (model, twin), optimizers, strict=True):
            sharing_of(shared).before_step(step, 100)
            called(batch(step)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            sharing_of(shared).after_step(step, 100, optimizer)
    torch._dynamo.reset()
    assert torch.equal(active(twin), active(model))
    torch.testing.assert_close(dense_weights(twin), dense_weights(model))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"distribution": "er"}, "sharing.distribution.*did you mean 'erk'"),
        ({"update_every": 0}, "sharing.update_every: 0"),
        ({"update_every": 1.5}, "sharing.update_every: 1.5"),
        ({"stop_at": 1.1}, "sharing.stop_at: 1.1"),
        ({"drop_fraction": -0.1}, "sharing.drop_fraction: -0.1"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        share(make("resnet"), "rigl", "30%", **options)


def test_the_configuration_reaches_the_scheme() -> None:
    with pytest.raises(InvalidInput, match=r"sharing\.drop_fraction: 2"):
        train(composed("sharing=rigl", "sharing.drop_fraction=2", "device=cpu", "tracking=disabled"))
