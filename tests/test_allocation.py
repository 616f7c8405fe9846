"""The allocation is balanced, random enough, and the same for ever."""

from __future__ import annotations

import math
import random
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rpg_bench.errors import InvalidInput
from rpg_bench.sharing.allocation import ORDERS, Permutation, allocate, negative_signs, random_bits
from rpg_bench.sharing.ring import RingPlan
from rpg_bench.sharing.rpg_global import RpgGlobal
from rpg_bench.sharing.slots import Owner, Slot

EITHER_ORDER = st.sampled_from(ORDERS)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[int], int, dict[str, Any]]:
    """Slot sizes, a ring size between 1 and their sum, and an identity."""
    sizes = draw(st.lists(st.integers(1, 60), min_size=1, max_size=6))
    dof = draw(st.integers(1, sum(sizes)))
    return sizes, dof, {"seed": draw(st.integers(0, 1000)), "dof": dof}


def ring_plan(names: list[str], dof: int, seed: int = 0, size: int = 500, **options: Any) -> RingPlan:
    slots = [Slot(name, (size, 2), "linear", 0.1, (Owner(name, "weight"),)) for name in names]
    return RpgGlobal(**options).plan(slots, dof, seed)


def walk(sizes: list[int], dof: int) -> NDArray[np.int64]:
    return np.arange(sum(sizes)) % dof


def check_balance(entries: NDArray[np.int32], dof: int) -> None:
    uses = np.bincount(entries, minlength=dof)
    assert len(uses) == dof, "an entry outside of the ring"
    assert uses.min() == len(entries) // dof
    assert uses.max() == -(-len(entries) // dof)


@given(problems(), EITHER_ORDER, st.booleans())
def test_every_entry_is_used_equally_often(
    problem: tuple[list[int], int, dict[str, Any]], order: str, permute: bool
) -> None:
    sizes, dof, identity = problem
    entries = allocate(sizes, dof, order, permute, identity)
    assert entries.dtype == np.int32
    assert entries.shape == (sum(sizes),)
    check_balance(entries, dof)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dof", [1, 2, 65_536, 99_991, 200_002, 200_003])
def test_balance_holds_for_slots_larger_than_one_chunk(order: str, dof: int) -> None:
    check_balance(allocate([70_000, 3, 130_000], dof, order, True, {"seed": 0}), dof)


@given(problems(), EITHER_ORDER, st.booleans())
def test_the_same_arguments_give_the_same_allocation(
    problem: tuple[list[int], int, dict[str, Any]], order: str, permute: bool
) -> None:
    sizes, dof, identity = problem
    first = allocate(sizes, dof, order, permute, identity)
    np.testing.assert_array_equal(first, allocate(sizes, dof, order, permute, dict(reversed(identity.items()))))


@given(problems())
def test_sequential_permutes_the_walk_within_each_slot(
    problem: tuple[list[int], int, dict[str, Any]],
) -> None:
    sizes, dof, identity = problem
    entries = allocate(sizes, dof, "sequential", True, identity)
    cuts = np.cumsum(sizes)[:-1]
    for found, expected in zip(np.split(entries, cuts), np.split(walk(sizes, dof), cuts), strict=True):
        np.testing.assert_array_equal(np.sort(found), np.sort(expected))


@given(problems(), EITHER_ORDER)
def test_without_permutation_the_ring_is_walked_around(
    problem: tuple[list[int], int, dict[str, Any]], order: str
) -> None:
    sizes, dof, identity = problem
    np.testing.assert_array_equal(allocate(sizes, dof, order, False, identity), walk(sizes, dof))


def test_permuted_allocations_are_not_the_walk() -> None:
    sizes = [1000, 1500]
    for order in ORDERS:
        same = np.mean(allocate(sizes, 700, order, True, {"seed": 0}) == walk(sizes, 700))
        assert same < 0.02, order


def test_slots_of_equal_size_are_permuted_differently() -> None:
    entries = allocate([1000, 1000], 1000, "sequential", True, {"seed": 0})
    assert np.mean(entries[:1000] == entries[1000:]) < 0.02


def test_shuffled_mixes_over_the_whole_network() -> None:
    # With N = D every slot draws from everywhere; in the sequential order slot 0 gets 0..999 only.
    entries = allocate([1000, 1000], 2000, "shuffled", True, {"seed": 0})
    assert 400 < np.count_nonzero(entries[:1000] < 1000) < 600


def test_the_entries_used_once_more_are_drawn_at_random() -> None:
    entries = allocate([1300], 1000, "shuffled", True, {"seed": 0})
    drawn = np.flatnonzero(np.bincount(entries) == 2)
    assert len(drawn) == 300
    assert 60 < np.count_nonzero(drawn < 300) < 120, "about 90 of 300 expected"


@pytest.mark.parametrize("order", ORDERS)
def test_seed_slot_names_and_ring_size_change_the_allocation(order: str) -> None:
    def entries(names: list[str], dof: int, seed: int) -> NDArray[np.int32]:
        return ring_plan(names, dof, seed, order=order).signed_index()

    base = entries(["a", "b"], 300, 0)
    np.testing.assert_array_equal(base, entries(["a", "b"], 300, 0))
    for other in (entries(["a", "b"], 300, 1), entries(["a", "c"], 300, 0), entries(["a", "b"], 301, 0)):
        # Independent draws agree in about one of 600 places.
        assert np.mean(base == other) < 0.02


def test_the_allocation_depends_on_shapes_too() -> None:
    wide = [Slot("a", (20, 50), "linear", 0.1, (Owner("a", "weight"),))]
    tall = [Slot("a", (50, 20), "linear", 0.1, (Owner("a", "weight"),))]
    first, second = (RpgGlobal().plan(slots, 100, 0).signed_index() for slots in (wide, tall))
    assert np.mean(first == second) < 0.05


def test_options_that_are_off_leave_the_rest_alone() -> None:
    signed = ring_plan(["a", "b"], 300).signed_index()
    unsigned = ring_plan(["a", "b"], 300, flip_sign=False).signed_index()
    np.testing.assert_array_equal(signed % 300, unsigned)
    assert unsigned.max() < 300
    plain = ring_plan(["a", "b"], 300, permute=False, flip_sign=False).signed_index()
    np.testing.assert_array_equal(plain, np.arange(2000) % 300)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"order": "random"}, "shuffled"), ({"permute": "yes"}, "permute"), ({"flip_sign": 1}, "flip_sign")],
)
def test_wrong_options_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        RpgGlobal(**options)


def test_signs_are_fair_and_independent_of_their_neighbours() -> None:
    count = 100_000
    negative = negative_signs(count, {"seed": 0})
    assert negative.shape == (count,)
    assert negative.dtype == np.bool_
    tolerance = 5 * math.sqrt(count) / 2
    assert abs(np.count_nonzero(negative) - count / 2) < tolerance
    for distance in (1, 2, 8, 64):
        assert abs(np.count_nonzero(negative[distance:] ^ negative[:-distance]) - count / 2) < tolerance
    assert abs(np.count_nonzero(negative ^ negative_signs(count, {"seed": 1})) - count / 2) < tolerance


@given(st.integers(1, 1000), st.integers(1, 300))
def test_signs_do_not_depend_on_how_many_follow(count: int, more: int) -> None:
    np.testing.assert_array_equal(negative_signs(count + more, {})[:count], negative_signs(count, {}))


def test_both_uses_of_an_entry_are_signed_independently() -> None:
    index = ring_plan(["a", "b"], 1000).signed_index()
    order = np.argsort(index % 1000, kind="stable").reshape(1000, 2)
    negative = index[order] >= 1000
    assert 400 < np.count_nonzero(negative[:, 0] ^ negative[:, 1]) < 600


def test_permutations_of_every_small_size_are_bijections() -> None:
    for size in range(1, 2001):
        images = Permutation(size, "test", {})(np.arange(size, dtype=np.uint32))
        assert np.array_equal(np.sort(images), np.arange(size)), size


@settings(max_examples=15, deadline=None)
@given(st.integers(2001, 300_000), st.integers(0, 2**32))
def test_permutations_of_large_sizes_are_bijections(size: int, seed: int) -> None:
    images = Permutation(size, "test", {"seed": seed})(np.arange(size, dtype=np.uint32))
    seen = np.zeros(size, np.bool_)
    seen[images] = True
    assert seen.all()


def test_the_largest_permutation_stays_in_range_and_does_not_collide() -> None:
    size = 2**31 - 1
    permutation = Permutation(size, "test", {})
    positions = np.concatenate([np.arange(1000), np.arange(size - 1000, size)]).astype(np.uint32)
    images = permutation(positions)
    assert images.max() < size
    assert len(np.unique(images)) == len(positions)


@pytest.mark.parametrize("size", [0, -1, 2**31])
def test_impossible_permutation_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="elements"):
        Permutation(size, "test", {})


def test_parts_of_a_permutation_can_be_computed_alone() -> None:
    permutation = Permutation(1000, "test", {})
    whole = permutation(np.arange(1000, dtype=np.uint32))
    np.testing.assert_array_equal(permutation(np.array([7, 500, 999], np.uint32)), whole[[7, 500, 999]])


@given(size=st.integers(1, 300_000), data=st.data())
def test_the_compiled_permutation_is_the_one_of_numpy(size: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, size - 1))
    last = data.draw(st.integers(first, min(size, first + 5000)))
    permutation = Permutation(size, "test", {})
    expected = permutation(np.arange(first, last, dtype=np.uint32))
    np.testing.assert_array_equal(permutation.of_range(first, last), expected)


def test_the_largest_permutation_is_the_same_when_compiled() -> None:
    permutation = Permutation(2**31 - 1, "test", {})
    positions = np.arange(2**31 - 5000, 2**31 - 1, dtype=np.uint32)
    np.testing.assert_array_equal(permutation.of_range(2**31 - 5000, 2**31 - 1), permutation(positions))


def test_permutations_look_like_shuffles() -> None:
    size, draws = 1000, 40
    arrangements = [
        Permutation(size, "test", {"seed": seed})(np.arange(size, dtype=np.uint32)).astype(np.int64)
        for seed in range(draws)
    ]
    # A random permutation has one fixed point and one pair of kept neighbours on average.
    fixed = np.mean([np.count_nonzero(images == np.arange(size)) for images in arrangements])
    neighbours = np.mean([np.count_nonzero(np.diff(images) == 1) for images in arrangements])
    assert 0.3 < fixed < 2
    assert 0.3 < neighbours < 2
    for images in arrangements:
        correlation = np.corrcoef(np.arange(size), images)[0, 1]
        assert abs(correlation) < 5 / math.sqrt(size)


# The stream that recorded runs depend on. A change here makes every old checkpoint unreadable.
GOLDEN = [
    ([10, 20, 30], 7, 0, "shuffled", ([2, 1, 4, 4, 0, 2, 5, 5], 2861276130)),
    ([10, 20, 30], 7, 0, "sequential", ([1, 3, 2, 6, 4, 0, 2, 0], 4283054349)),
    ([576, 1152, 64], 500, 0, "shuffled", ([394, 480, 155, 89, 164, 140, 129, 60], 3023018546)),
    ([576, 1152, 64], 500, 1, "shuffled", ([391, 75, 262, 281, 468, 480, 284, 49], 912101362)),
    ([70_000, 5], 36_864, 3, "shuffled", ([9312, 14243, 35421, 9574, 9993, 12781, 3919, 29243], 1072148028)),
    (
        [70_000, 5],
        36_864,
        3,
        "sequential",
        ([36844, 24301, 13838, 15269, 27440, 30736, 15133, 3093], 2137774047),
    ),
]


@pytest.mark.parametrize(("sizes", "dof", "seed", "order", "expected"), GOLDEN)
def test_the_stream_is_frozen(
    sizes: list[int], dof: int, seed: int, order: str, expected: tuple[list[int], int]
) -> None:
    entries = allocate(sizes, dof, order, True, {"seed": seed}).astype("<i4")
    assert (entries[:8].tolist(), zlib.crc32(entries.tobytes())) == expected


def test_the_signs_are_frozen() -> None:
    packed = np.packbits(negative_signs(1000, {"seed": 0}))
    assert (packed[:4].tolist(), zlib.crc32(packed.tobytes())) == ([37, 216, 227, 39], 165859022)


def test_the_bits_are_frozen() -> None:
    assert random_bits(3, "purpose", {"seed": 0}).tolist() == [
        8585784200443605712,
        2959794053030019962,
        2936535848174303756,
    ]


def test_the_signed_index_of_a_plan_is_frozen() -> None:
    index = ring_plan(["layer1.0.conv1.weight", "layer1.0.conv2.weight"], 300, seed=5).signed_index()
    assert (index[:8].tolist(), zlib.crc32(index.astype("<i4").tobytes())) == (
        [74, 356, 565, 252, 357, 117, 572, 321],
        1204452439,
    )


def test_global_random_states_are_neither_used_nor_changed() -> None:
    def draw(seed: int) -> NDArray[np.int32]:
        np.random.seed(seed)
        torch.manual_seed(seed)
        random.seed(seed)
        index = ring_plan(["a", "b"], 300).signed_index()
        after = (np.random.rand(), torch.rand(1).item(), random.random())
        np.random.seed(seed)
        torch.manual_seed(seed)
        random.seed(seed)
        assert after == (np.random.rand(), torch.rand(1).item(), random.random())
        return index

    np.testing.assert_array_equal(draw(0), draw(1))
