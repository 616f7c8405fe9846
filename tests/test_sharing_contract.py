"""What every sharing scheme owes its users. A new scheme adds one row to `CASES`."""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from models import NETWORKS, OddNetwork, images, make
from torch import Tensor, nn

from rpg_bench import InvalidInput, dof_report, materialize, share
from rpg_bench.sharing import plan_for, sharing_of
from rpg_bench.sharing.ring import RING_STD, RingPlan
from rpg_bench.sharing.scheme import SCHEMES, Scheme, get_scheme, register
from rpg_bench.sharing.slots import Slot, find_slots


@dataclass(frozen=True)
class Case:
    """A scheme with a budget and options that are valid for `networks`."""

    scheme: str
    dof: str | int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    other_dof: str | int | None = None  # another valid budget, None where there is none
    seeded: bool = True  # whether the seed changes what is fixed
    folds: bool = True  # whether `materialize` gives an ordinary network
    starts_anew: bool = True  # whether the free parameters are drawn from the seed, not taken from the network
    networks: tuple[str, ...] = tuple(NETWORKS)

    def __str__(self) -> str:
        return " ".join([self.scheme, str(self.dof), *(f"{key}={value}" for key, value in self.options.items())])


CASES = [
    Case("none", seeded=False, starts_anew=False),
    Case("rpg_global", 100, other_dof=101),
    Case("rpg_global", None, {"order": "sequential"}, other_dof="20%", networks=("odd",)),
    Case("rpg_global", "30%", {"flip_sign": False}, other_dof="31%", networks=("odd",)),
    Case("rpg_local", "40%", other_dof="41%"),
    Case("rpg_local", 90, {"rings": {"all": "*"}, "order": "sequential"}, other_dof=91, networks=("resnet",)),
    Case("recurrent", "90%", other_dof="91%", seeded=False),
    Case("hashed", "25%", other_dof="26%"),
    Case("lowrank", "70%", other_dof="90%", seeded=False),
    Case("lors", "70%", other_dof="90%", seeded=False, networks=("vit",)),
    Case("lors_adaptive", "70%", other_dof="90%", seeded=False, folds=False, networks=("vit",)),
    Case("tied", seeded=False, networks=("vit",)),
    Case("rpg_lors", "40%", other_dof="41%"),
    Case("rpg_lors", "30%", {"tie": False, "residual": 0.5}, other_dof="31%", networks=("resnet",)),
    Case("magnitude", "30%", other_dof="31%", seeded=False, starts_anew=False),
    Case("random_prune", "30%", seeded=False, other_dof="31%"),
    Case("rigl", "30%", other_dof="31%", seeded=False),
    Case("rigl", "20%", {"distribution": "uniform"}, other_dof="21%", seeded=False, networks=("odd",)),
    Case("snip", "50%", other_dof="51%", seeded=False, starts_anew=False, networks=("resnet", "vit")),
    Case("synflow", "30%", {"iterations": 5}, other_dof="31%", seeded=False, starts_anew=False, networks=("odd",)),
]
RINGS = ("rpg_global", "rpg_local", "recurrent", "hashed")

EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=str)
EVERY_CASE_AND_NETWORK = pytest.mark.parametrize(
    ("case", "network"), [(case, network) for case in CASES for network in case.networks], ids=str
)
EVERY_CASE_THAT_FOLDS = pytest.mark.parametrize(
    ("case", "network"), [(case, network) for case in CASES for network in case.networks if case.folds], ids=str
)


def training_batches() -> Iterator[tuple[Tensor, Tensor]]:
    """For schemes that look at data."""
    yield images(), torch.arange(4)


def share_as(case: Case, model: nn.Module, dof: str | int | None, seed: int = 0) -> nn.Module:
    return share(model, case.scheme, dof, seed=seed, batches=training_batches, **case.options)


def shared(case: Case, network: str, seed: int = 0, dof: str | int | None = None) -> nn.Module:
    budget = case.dof if dof is None else dof
    return share_as(case, make(network), budget, seed)


def states(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all that a model has learned."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same_states(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def train_a_step(model: nn.Module, learning_rate: float = 0.1) -> None:
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), learning_rate)
    model.train()
    model(images()).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def slots_and_private(case: Case, network: str) -> tuple[set[str], set[str]]:
    """Names of slots (all aliases) and of the other trained parameters, from the plain network alone."""
    dense = make(network)
    plan = plan_for(dense, case.scheme, case.dof, **case.options)
    slots = {".".join(filter(None, owner)) for slot in plan.slots for owner in slot.owners}
    return slots, {name for name, p in dense.named_parameters() if p.requires_grad and name not in slots}


def kept_slots(model: nn.Module, aliases: bool = False) -> set[str]:
    """Names of the slots that the scheme leaves free, as parameters of their own modules."""
    plan = sharing_of(model).plan
    slots = [plan.slots[number] for number in plan.kept]
    if aliases:
        return {".".join(filter(None, owner)) for slot in slots for owner in slot.owners}
    return {slot.name for slot in slots}


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def test_the_table_covers_every_scheme() -> None:
    assert {case.scheme for case in CASES} == set(SCHEMES)


@EVERY_CASE_AND_NETWORK
def test_the_reported_numbers_equal_a_count(case: Case, network: str) -> None:
    slots, private = slots_and_private(case, network)
    dense = dict(make(network).named_parameters())
    model = shared(case, network)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    report = dof_report(model)
    assert report.scheme == case.scheme
    assert report.private == sum(dense[name].numel() for name in private)
    assert report.slot_scalars == sum(dense[name].numel() for name in slots & dense.keys())
    assert report.total == trained
    assert report.dof == trained - report.private == sharing_of(model).plan.dof
    assert report.dense == sum(parameter.numel() for parameter in dense.values() if parameter.requires_grad)
    assert report.slots == len(report.per_slot) == len(slots & dense.keys())
    assert report.ratio == report.slot_scalars / report.dof
    assert report.to_dict()["total"] == trained
    for number in (report.dof, report.private, report.total):
        assert f"{number:,}" in str(report)
    assert len(report.slot_table().splitlines()) == report.slots


@EVERY_CASE_AND_NETWORK
def test_the_plan_states_what_share_allocates(case: Case, network: str) -> None:
    dense = make(network)
    before = states(dense)
    plan = plan_for(dense, case.scheme, case.dof, **case.options)
    assert_same_states(states(dense), before)
    assert plan == sharing_of(share_as(case, dense, case.dof)).plan


@EVERY_CASE_AND_NETWORK
def test_free_and_private_parameters_are_trained_and_nothing_else(case: Case, network: str) -> None:
    _, private = slots_and_private(case, network)
    model = shared(case, network)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    fixed = {name: buffer.clone() for name, buffer in model.named_buffers() if name.startswith("sharing.")}
    # timm starts the last norm of a block at 0, and a residual's B starts at 0: what is before them
    # moves one step later each.
    for _ in range(3):
        train_a_step(model)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert moved == trained
    assert private < trained
    extra = trained - private
    assert extra
    assert {name for name in extra if not name.startswith("sharing.")} == kept_slots(model)
    for name, buffer in fixed.items():
        assert torch.equal(model.get_buffer(name), buffer)


@EVERY_CASE_THAT_FOLDS
def test_a_materialized_model_computes_the_same(case: Case, network: str) -> None:
    model = shared(case, network)
    train_a_step(model)
    before = states(model)
    fingerprint = sharing_of(model).fingerprint()
    plain = materialize(model)
    for training in (False, True):
        # In training mode, batch norm moves its statistics: on copies of both.
        ours, theirs = copy.deepcopy(model).train(training), copy.deepcopy(plain).train(training)
        assert torch.equal(ours(images(seed=1)), theirs(images(seed=1)))
    assert_same_states(states(model), before)
    assert sharing_of(model).fingerprint() == fingerprint
    train_a_step(plain, 1.0)
    assert_same_states(states(model), before)
    train_a_step(model)
    assert not torch.equal(next(iter(states(model).values())), next(iter(before.values())))


@EVERY_CASE_THAT_FOLDS
def test_a_materialized_model_is_an_ordinary_one(case: Case, network: str) -> None:
    dense, plain = make(network), materialize(shared(case, network))
    assert set(plain.state_dict()) == set(dense.state_dict())
    assert {name for name, _ in plain.named_modules()} == {name for name, _ in dense.named_modules()}
    for name, module in dense.named_modules():
        assert type(plain.get_submodule(name)) is type(module)
    for name, parameter in dense.named_parameters(remove_duplicate=False):
        assert plain.get_parameter(name).shape == parameter.shape
        assert plain.get_parameter(name).requires_grad == parameter.requires_grad
    distinct = {id(parameter) for parameter in plain.parameters()}
    assert len(distinct) == len(list(dense.parameters())), "tied weights stay tied"
    storages = {parameter.untyped_storage().data_ptr() for parameter in plain.parameters()}
    assert len(storages) == len(distinct), "saving one weight would save the storage of all"
    dense.load_state_dict(plain.state_dict())
    with pytest.raises(InvalidInput, match="not shared"):
        materialize(plain)
    again = dof_report(share_as(case, plain, case.dof))
    assert again.to_dict() == dof_report(shared(case, network)).to_dict()


@pytest.mark.parametrize("case", [case for case in CASES if not case.folds], ids=str)
def test_what_cannot_be_folded_says_so(case: Case) -> None:
    model = shared(case, case.networks[0])
    before = states(model)
    with pytest.raises(InvalidInput, match=rf"{case.scheme} .* cannot be folded into a weight") as caught:
        materialize(model)
    assert "\n" not in str(caught.value)
    assert_same_states(states(model), before)


@pytest.mark.parametrize("assign", [False, True])
@EVERY_CASE_AND_NETWORK
def test_a_checkpoint_restores_the_outputs(case: Case, network: str, assign: bool) -> None:
    model = shared(case, network)
    train_a_step(model)
    restored = share_as(case, make(network, seed=1), case.dof)
    assert not torch.equal(restored.eval()(images()), model.eval()(images()))
    result = restored.load_state_dict(saved_and_loaded(model.state_dict()), strict=True, assign=assign)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert torch.equal(restored(images()), model(images()))
    if assign and kept_slots(model):
        return  # torch itself unties the dense weights that it assigns
    # Nothing came apart: training goes on in step.
    train_a_step(model)
    train_a_step(restored)
    assert torch.equal(restored.eval()(images()), model.eval()(images()))


@EVERY_CASE_AND_NETWORK
def test_a_checkpoint_holds_free_scalars_only(case: Case, network: str) -> None:
    slots, _ = slots_and_private(case, network)
    dense, model = make(network), shared(case, network)
    report = dof_report(model)
    state = model.state_dict()
    fixed = sum(buffer.numel() for buffer in dense.buffers()) + sum(
        parameter.numel() for parameter in dense.parameters() if not parameter.requires_grad
    )
    tables = {name for name, value in state.items() if name.startswith("sharing.") and value.dtype == torch.uint8}
    held = {value.data_ptr(): value.numel() for name, value in state.items() if name not in tables}
    assert sum(held.values()) == report.total + fixed
    assert slots & state.keys() == {name for name in slots if name in kept_slots(model, aliases=True)}
    # A short fingerprint, and one bit per slot scalar at most.
    assert sum(state[name].numel() for name in tables) < 1000 + report.slot_scalars / 8


def mismatches(case: Case, network: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Checkpoints that must not load, each with what the message must name."""
    if case.seeded:
        yield "seed", shared(case, network, seed=1).state_dict()
    if case.other_dof is not None:
        yield "dof", shared(case, network, dof=case.other_dof).state_dict()
    other = "rpg_global" if case.scheme == "none" else "none"
    yield "scheme", share(make(network), other).state_dict()
    yield "fingerprint", make(network).state_dict()
    state = shared(case, network).state_dict()
    yield "damaged", {**state, "sharing._extra_state": torch.tensor([1, 2, 3], dtype=torch.uint8)}
    yield "damaged", {**state, "sharing._extra_state": torch.tensor([0.5])}


@EVERY_CASE_AND_NETWORK
def test_a_checkpoint_of_another_plan_is_refused(case: Case, network: str) -> None:
    model = shared(case, network)
    before = states(model)
    for named, state in mismatches(case, network):
        # Values differ from the model's own, so that any that got through would show.
        changed = {
            name: value + 1 if torch.is_tensor(value) and value.is_floating_point() and "_extra" not in name else value
            for name, value in state.items()
        }
        with pytest.raises(InvalidInput, match=f"checkpoint: .*{named}") as caught:
            model.load_state_dict(changed)
        assert "\n" not in str(caught.value)
        assert_same_states(states(model), before)


@pytest.mark.parametrize(("option", "value"), [("order", "sequential"), ("permute", False), ("flip_sign", False)])
def test_a_checkpoint_of_another_option_is_refused(option: str, value: object) -> None:
    model = share(make("resnet"), "rpg_global", 500)
    options: dict[str, Any] = {option: value}
    other = share(make("resnet"), "rpg_global", 500, **options)
    with pytest.raises(InvalidInput, match=f"options.*{option}"):
        model.load_state_dict(other.state_dict())


def test_a_checkpoint_of_another_random_stream_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = share(make("resnet"), "rpg_global", 500)
    signed_index = RingPlan.signed_index
    monkeypatch.setattr(RingPlan, "signed_index", lambda plan: signed_index(plan)[::-1].copy())
    other = share(make("resnet"), "rpg_global", 500)
    with pytest.raises(InvalidInput, match="checksum"):
        model.load_state_dict(other.state_dict())


def test_a_checkpoint_of_other_slots_is_refused() -> None:
    model = share(make("resnet"), "rpg_global", 500)
    other = share(make("resnet"), "rpg_global", 500, exclude="*downsample*")
    with pytest.raises(InvalidInput, match="slots"):
        model.load_state_dict(other.state_dict())


def test_a_checkpoint_within_a_bigger_one_is_checked() -> None:
    model = nn.Sequential(share(make("resnet"), "rpg_global", 500), nn.Linear(5, 5))
    model.load_state_dict(model.state_dict())
    other = nn.Sequential(share(make("resnet"), "rpg_global", 500, seed=1), nn.Linear(5, 5))
    with pytest.raises(InvalidInput, match="seed"):
        model.load_state_dict(other.state_dict())


@EVERY_CASE_AND_NETWORK
def test_a_deep_copy_is_independent(case: Case, network: str) -> None:
    model = shared(case, network)
    before = states(model)
    twin = copy.deepcopy(model)
    train_a_step(twin)
    assert_same_states(states(model), before)
    expected = twin.eval()(images())
    assert not torch.equal(model.eval()(images()), expected)
    state = model.state_dict()
    del model
    assert torch.equal(twin(images()), expected)
    twin.load_state_dict(state)
    assert_same_states(states(twin), before)


@EVERY_CASE_AND_NETWORK
def test_the_range_of_budgets(case: Case, network: str) -> None:
    dense = make(network)
    scalars = sum(slot.size for slot in find_slots(dense))
    before = states(dense)
    with pytest.raises(InvalidInput, match=r"dof: \d+ .*\d+\.\.\d+") as caught:
        share_as(case, dense, scalars + 1)
    stated = re.search(r"(\d+)\.\.(\d+)", str(caught.value))
    assert stated is not None
    least, most = map(int, stated.groups())
    assert 1 <= least <= most <= scalars
    assert case.scheme in str(caught.value)
    for dof in {least - 1, 0}:
        with pytest.raises(InvalidInput, match="dof"):
            share_as(case, dense, dof)
    # Every refusal left the network as it was.
    assert_same_states(states(dense), before)
    for dof in {least, most}:
        report = dof_report(shared(case, network, dof=dof))
        assert report.dof <= dof
        assert report.dof == dof or dof == most
    assert dof_report(shared(case, network, dof="100%")).dof <= scalars


@EVERY_CASE
def test_the_same_seed_starts_the_same(case: Case) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        state = torch.get_rng_state()
        first = states(shared(case, case.networks[0]))
        assert torch.equal(torch.get_rng_state(), state), "share() drew from the global stream"
        torch.manual_seed(2)
        assert_same_states(states(shared(case, case.networks[0])), first)
    if not case.starts_anew:
        return
    second = states(shared(case, case.networks[0], seed=1))
    changed = {name for name in first if not torch.equal(first[name], second[name])} - {"sharing._extra_state"}
    assert changed
    assert all(name.startswith("sharing.") for name in changed)


@EVERY_CASE
def test_sharing_twice_is_refused(case: Case) -> None:
    model = shared(case, case.networks[0])
    before = states(model)
    with pytest.raises(InvalidInput, match="shared already"):
        share_as(case, model, case.dof)
    assert_same_states(states(model), before)


@EVERY_CASE
def test_an_unknown_option_is_refused(case: Case) -> None:
    with pytest.raises(InvalidInput, match=r"sharing\.flipsign"):
        share(make(case.networks[0]), case.scheme, case.dof, flipsign=True)


def test_an_unknown_scheme_names_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'rpg_global'"):
        share(make("resnet"), "rpg_globl")


def test_a_model_with_an_attribute_of_that_name_is_refused() -> None:
    model = make("odd")
    model.sharing = nn.Identity()
    with pytest.raises(InvalidInput, match="attribute 'sharing'"):
        share(model, "rpg_global")


@pytest.mark.parametrize("call", [dof_report, materialize, sharing_of])
def test_what_needs_a_shared_model_says_so(call: Any) -> None:
    with pytest.raises(InvalidInput, match="not shared"):
        call(make("resnet"))


def test_schemes_are_registered_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        register("none")(type(get_scheme("none")))
    for name, scheme in SCHEMES.items():
        assert issubclass(scheme, Scheme)
        assert scheme.name == name
        assert scheme.source


def test_tied_weights_stay_tied() -> None:
    model = share(make("odd"), "rpg_global", 100)
    assert isinstance(model, OddNetwork)
    assert torch.equal(model.first.weight, model.second.weight)
    assert model.again is model.mixed
    plain = materialize(model)
    assert plain.first.weight is plain.second.weight
    assert plain.again is plain.mixed


def test_hooks_of_the_user_survive_materialize() -> None:
    model = share(make("odd"), "rpg_global", 100)
    calls: list[str] = []
    model.register_forward_pre_hook(lambda *_: calls.append("before"))
    model.register_forward_hook(lambda *_: calls.append("after"), always_call=True)
    plain = materialize(model)
    plain(images())
    assert calls == ["before", "after"]
    with pytest.raises(RuntimeError):
        plain(torch.zeros(1))
    assert calls == ["before", "after", "before", "after"]


def test_tables_that_the_user_includes_are_generated() -> None:
    model = share(make("vit"), "rpg_global", 500, include=["pos_embed", "patch_embed.*", "head.*"])
    model.eval()
    assert not {"pos_embed", "head.weight"} & dict(model.named_parameters()).keys()
    plain = materialize(model)
    assert set(plain.state_dict()) == set(make("vit").state_dict())
    assert torch.equal(plain(images()), model(images()))


# Rings


def weight_of(model: nn.Module, slot: Slot) -> Tensor:
    weight = getattr(model.get_submodule(slot.owners[0].module), slot.owners[0].attribute)
    assert isinstance(weight, Tensor)
    return weight.detach()


def ring_plan(model: nn.Module) -> RingPlan:
    plan = sharing_of(model).plan
    assert isinstance(plan, RingPlan)
    return plan


@pytest.mark.parametrize("case", [case for case in CASES if case.scheme in RINGS], ids=str)
def test_weights_are_scale_times_sign_times_ring(case: Case) -> None:
    model = shared(case, case.networks[0])
    plan = ring_plan(model)
    ring = model.get_parameter("sharing.ring").detach().numpy()
    index = plan.signed_index()
    sign = np.where(index >= plan.dof, -1, 1)
    flat = sign * ring[index % plan.dof]
    start = 0
    for slot in plan.slots:
        expected = np.float32(slot.std / RING_STD) * flat[start : start + slot.size]
        np.testing.assert_allclose(weight_of(model, slot).numpy(), expected.reshape(slot.shape), rtol=1e-6)
        start += slot.size
    if not plan.flip_sign:
        assert (sign == 1).all()


def test_layers_start_at_their_own_deviation() -> None:
    dense = make("resnet")
    model = share(copy.deepcopy(dense), "rpg_global", 5000)
    assert model.get_parameter("sharing.ring").std().item() == pytest.approx(RING_STD, rel=0.05)
    for slot in ring_plan(model).slots:
        if slot.size >= 1000:
            weight = weight_of(model, slot)
            assert weight.std().item() == pytest.approx(dense.get_parameter(slot.name).std().item(), rel=0.1)


def test_a_resnet_has_one_ring_per_stage() -> None:
    plan = ring_plan(share(make("resnet"), "rpg_local", 1000))
    assert [ring.name for ring in plan.rings] == ["layer1", "layer2", "layer3", "layer4"]
    sizes = []
    for ring in plan.rings:
        assert all(plan.slots[number].name.startswith(f"{ring.name}.") for number in ring.slots)
        sizes.append(sum(plan.slots[number].size for number in ring.slots))
    for ring, size in zip(plan.rings, sizes, strict=True):
        assert abs(ring.dof - 1000 * size / sum(sizes)) < 1
    assert sum(ring.dof for ring in plan.rings) == plan.dof == 1000


def test_a_vit_has_four_rings_of_consecutive_blocks() -> None:
    plan = ring_plan(share(make("vit"), "rpg_local", 1000))
    blocks = [sorted({int(plan.slots[number].name.split(".")[1]) for number in ring.slots}) for ring in plan.rings]
    assert blocks == [[0, 1], [2], [3], [4]]


def test_each_ring_serves_its_own_slots_evenly() -> None:
    plan = ring_plan(share(make("resnet"), "rpg_local", 1000))
    entries = plan.signed_index() % plan.dof
    bounds = np.cumsum([0, *(slot.size for slot in plan.slots)])
    first = 0
    for ring in plan.rings:
        owned = np.concatenate([entries[bounds[number] : bounds[number + 1]] for number in ring.slots])
        assert owned.min() == first
        assert owned.max() == first + ring.dof - 1
        uses = np.bincount(owned - first)
        assert uses.max() - uses.min() <= 1
        first += ring.dof


def test_rings_of_the_user() -> None:
    rings = {
        "early": {"slots": ["layer1.*", "layer3.*"], "dof": "25%"},
        "downsample": {"slots": "layer[24].*downsample*", "dof": 10},
        "late": "layer[24].*conv?.weight",
    }
    plan = ring_plan(share(make("resnet"), "rpg_local", 1000, rings=rings))
    assert {ring.name: ring.dof for ring in plan.rings} == {"early": 250, "downsample": 10, "late": 740}
    assert sorted(number for ring in plan.rings for number in ring.slots) == list(range(len(plan.slots)))


def test_the_budget_of_fully_stated_rings_is_their_sum() -> None:
    rings = {"a": {"slots": "layer[12].*", "dof": "0.1k"}, "b": {"slots": "layer[34].*", "dof": 50}}
    assert ring_plan(share(make("resnet"), "rpg_local", rings=rings)).dof == 150


@pytest.mark.parametrize(
    ("rings", "named"),
    [
        ({}, "maps names"),
        (["*"], "maps names"),
        ({"a": "layer1.*"}, "no ring owns layer2"),
        ({"a": "*", "b": "layer1.*"}, "overlaps with ring 'a'"),
        ({"a": "*", "b": "nothing.*"}, r"'nothing\.\*' matches no slot"),
        ({"a": []}, "names no slots"),
        ({"a": {"slots": "*", "entries": 3}}, "entries"),
        ({"a": {"slots": "*", "dof": 40}}, "does not fit"),
        ({"a": {"slots": "*", "dof": "many"}}, r"rings\.a\.dof: 'many'"),
        ({"a": {"slots": "layer2.*", "dof": 1500}, "b": "layer[134].*"}, r"outside the range of ring 'a', 1\.\.1216"),
    ],
)
def test_impossible_rings_are_refused(rings: Any, named: str) -> None:
    model = make("resnet")
    before = states(model)
    with pytest.raises(InvalidInput, match=named):
        share(model, "rpg_local", 2000, rings=rings)
    assert_same_states(states(model), before)
