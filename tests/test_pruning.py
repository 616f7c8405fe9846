"""Masks: exact, fixed, scored as the papers say. And the schemes with a plan of their own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rpg_bench import dof_report, materialize, share
from rpg_bench.sharing import plan_for, sharing_of
from rpg_bench.sharing.lowrank import LowRankPlan
from rpg_bench.sharing.pruning import highest
from rpg_bench.sharing.rpg_lors import RingResidualPlan, deal_ranks
from rpg_bench.sharing.slots import find_slots


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    yield torch.randn(16, 3, 12, 12, generator=generator), torch.arange(16) % 5


def slots_of(model: nn.Module) -> Tensor:
    return torch.cat([model.get_parameter(slot.name).detach().reshape(-1) for slot in find_slots(network())])


def survivors(model: nn.Module) -> Tensor:
    return slots_of(materialize(model)) != 0


@pytest.mark.parametrize("scheme", ["magnitude", "random_prune", "snip", "synflow"])
@pytest.mark.parametrize("dof", [1, 100, 1007])
def test_exactly_the_budget_survives_with_its_initial_values(scheme: str, dof: int) -> None:
    model = share(network(), scheme, dof, batches=batches)
    kept = survivors(model)
    assert int(kept.sum()) == dof == dof_report(model).dof
    assert torch.equal(slots_of(materialize(model))[kept], slots_of(network())[kept])


@pytest.mark.parametrize("scheme", ["magnitude", "random_prune", "snip", "synflow"])
def test_the_mask_stays_as_it_is(scheme: str) -> None:
    model = share(network(), scheme, 200, batches=batches)
    before = survivors(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(3):
        model(next(batches())[0]).square().sum().backward()
        optimizer.step()
    assert torch.equal(survivors(model), before)


def test_the_mask_costs_one_bit_per_weight_in_a_checkpoint() -> None:
    model = share(network(), "magnitude", 200)
    total = sharing_of(model).plan.total
    state = {name: value for name, value in model.state_dict().items() if name.startswith("sharing.")}
    assert state["sharing.mask"].numel() == -(-total // 8)
    assert state["sharing.survivors"].numel() == 200
    assert set(state) == {"sharing.mask", "sharing.survivors", "sharing._extra_state"}


def test_a_checkpoint_brings_its_mask() -> None:
    ours, theirs = share(network(), "magnitude", 200), share(network(), "random_prune", 200)
    state = {**theirs.state_dict(), "sharing._extra_state": ours.state_dict()["sharing._extra_state"]}
    ours.load_state_dict(state)
    images = next(batches())[0]
    assert torch.equal(ours(images), theirs(images))


def test_snip_keeps_what_changes_the_loss_most() -> None:
    dense = network()
    images, labels = next(batches())
    nn.functional.cross_entropy(dense(images), labels).backward()
    names = [slot.name for slot in find_slots(dense)]
    scores = torch.cat([(dense.get_parameter(n) * dense.get_parameter(n).grad).abs().reshape(-1) for n in names])
    kept = survivors(share(network(), "snip", 150, batches=batches))
    assert scores[kept].min() >= scores[~kept].max()


def test_synflow_in_one_step_keeps_the_largest_flow() -> None:
    dense = network().double()
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.abs_()
    dense(torch.ones(1, 3, 12, 12, dtype=torch.float64)).sum().backward()
    names = [slot.name for slot in find_slots(dense)]
    scores = torch.cat([(dense.get_parameter(n) * dense.get_parameter(n).grad).reshape(-1) for n in names])
    kept = survivors(share(network(), "synflow", 150, batches=batches, iterations=1))
    assert scores[kept].min() >= scores[~kept].max()


def test_synflow_leaves_no_layer_empty_where_magnitude_does() -> None:
    """Tanaka et al. 2020, the theorem: iterated, it avoids layer collapse as long as that is possible."""
    torch.manual_seed(0)

    def uneven() -> nn.Module:
        model = network()
        with torch.no_grad():
            model[2].weight.mul_(0.01)
            for layer in (0, 2, 4):
                model[layer].bias.zero_()  # flow that starts at a bias has not passed the layers before it
        return model

    slots = [slot.size for slot in find_slots(network())]

    def by_layer(scheme: str) -> list[int]:
        model = share(uneven(), scheme, 20, batches=batches)
        return [int(piece.sum()) for piece in survivors(model).split(slots)]

    assert min(by_layer("synflow")) > 0
    assert min(by_layer("magnitude")) == 0


def test_scoring_leaves_the_network_as_it_is() -> None:
    model = timm.create_model("test_resnet", num_classes=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan = plan_for(model, "snip", "10%")
    from rpg_bench.sharing.scheme import get_scheme

    for scheme in ("snip", "synflow"):
        get_scheme(scheme).build(plan, model, lambda: iter([(torch.randn(8, 3, 32, 32), torch.arange(8) % 5)]))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.data())
def test_of_equal_scores_the_first_survive(values: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values)))
    expected = sorted(sorted(range(len(values)), key=lambda i: (-values[i], i))[:count])
    assert highest(torch.tensor(values, dtype=torch.float32), count).tolist() == expected


@given(st.floats(0.05, 1.0))
def test_lowrank_never_spends_more_than_the_budget_or_a_slots_entries(share_of_slots: float) -> None:
    model = network()
    total = sum(slot.size for slot in find_slots(model))
    budget = max(int(share_of_slots * total), 220)
    plan = plan_for(model, "lowrank", budget)
    assert isinstance(plan, LowRankPlan)
    assert plan.dof <= budget
    for number, slot in enumerate(plan.slots):
        rank = plan.ranks[number]
        assert (rank == 0) == (number in plan.kept)
        assert rank * (slot.shape[0] + slot.size // slot.shape[0]) < slot.size


@pytest.mark.parametrize("std", [0.02, 0.5])
def test_lowrank_starts_at_the_layers_own_deviation(std: float) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(300, 300), nn.Linear(4, 4))
    with torch.no_grad():
        model[1].weight.normal_(std=std)
    expected = find_slots(model)[1].std
    plain = materialize(share(model, "lowrank", "50%"))
    assert float(plain[1].weight.detach().std()) == pytest.approx(expected, rel=0.1)


def test_hashed_draws_buckets_of_each_layer_with_replacement() -> None:
    model = share(network(), "hashed", "25%")
    sharing = sharing_of(model)
    start = 0
    sizes = [slot.size for slot in sharing.plan.slots]
    pieces = np.split(sharing.plan.signed_index() % sharing.plan.dof, np.cumsum(sizes)[:-1])
    for piece, ring in zip(pieces, sharing.plan.rings, strict=True):
        assert piece.min() >= start
        assert piece.max() < start + ring.dof
        assert len(np.unique(piece)) > 0.5 * ring.dof
        counts = np.bincount(piece - start, minlength=ring.dof)
        assert counts.max() - counts.min() > 1, "a draw is not balanced"
        start += ring.dof
    assert start == sharing.plan.dof


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=6), st.integers(0, 2000))
def test_dealt_ranks_fit_and_nothing_that_fits_is_left(sides: list[tuple[int, int]], budget: int) -> None:
    ranks = deal_ranks(sides, budget)
    spent = sum(rank * sum(side) for rank, side in zip(ranks, sides, strict=True))
    assert spent <= budget
    for rank, (rows, columns) in zip(ranks, sides, strict=True):
        assert rank == 0 or rank * (rows + columns) <= rows * columns
        assert (rank + 1) * (rows + columns) > rows * columns or rows + columns > budget - spent


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("residual", [0.0, 0.25, 0.9])
def test_ring_and_residual_meet_the_budget(tie: bool, residual: float) -> None:
    plan = plan_for(timm.create_model("resnet18"), "rpg_lors", "36k", tie=tie, residual=residual)
    assert isinstance(plan, RingResidualPlan)
    assert plan.dof == 36_000
    spent = 36_000 - plan.shared.dof
    assert spent <= residual * 36_000
    assert (spent > 0) == (residual > 0)
