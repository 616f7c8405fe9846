"""Text becomes a number of DoF, and a number of DoF is divided, exactly."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpg_bench.budget import check_range, divide, parse_dof
from rpg_bench.errors import InvalidInput

D = 11_157_504  # ResNet18


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (36864, 36864),
        ("36864", 36864),
        (" 36864 ", 36864),
        ("36_864", 36864),
        ("36k", 36_000),
        ("36K", 36_000),
        ("36 k", 36_000),
        ("2.4M", 2_400_000),
        ("2.4m", 2_400_000),
        ("0.001k", 1),
        (".5k", 500),
        ("1.0", 1),
        (1e6, 1_000_000),
        ("1e6", 1_000_000),
        ("0.3G", 300_000_000),
        ("0.3b", 300_000_000),
        ("18%", 2_008_350),  # 2,008,350.72
        ("18 %", 2_008_350),
        ("0.5%", 55_787),  # 55,787.52
        ("100%", D),
        # Binary fractions of these lie below the whole number.
        ("4.35k", 4350),
        ("1.1k", 1100),
        (0.29e3, 290),
    ],
)
def test_budgets(text: str | int | float, expected: int) -> None:
    found = parse_dof(text, D)
    assert found == expected
    assert type(found) is int


@pytest.mark.parametrize(
    "text",
    [
        *("abc", 0, "0", "0k", -5, "-5", "nan", "inf", float("nan"), float("inf"), "200%", "100.1%", "0%", "-1%"),
        *("1.5", 1.5, "0.0001k", "1.2345k", "", " ", "%", "k", "18 %%", "1 000", "36kk", "3,000", "0x10", "1e"),
        *(True, False),
    ],
)
def test_what_is_no_budget_is_refused(text: str | int | float) -> None:
    with pytest.raises(InvalidInput, match=r"sharing\.dof") as caught:
        parse_dof(text, D, field="sharing.dof")
    assert "\n" not in str(caught.value)
    assert str(text) in str(caught.value)


def test_a_share_of_less_than_one_scalar_is_refused() -> None:
    with pytest.raises(InvalidInput, match="least is 1"):
        parse_dof("1%", 99)
    assert parse_dof("1%", 100) == 1


@given(st.integers(1, 10**12))
def test_whole_numbers_are_read_as_they_are(number: int) -> None:
    assert parse_dof(number, D) == parse_dof(str(number), D) == parse_dof(f"{number:_}", D) == number


@given(st.integers(1, 10**9), st.integers(0, 3))
def test_thousands_are_exact(number: int, decimals: int) -> None:
    text = f"{number // 10**decimals}.{number % 10**decimals:0{decimals}d}k" if decimals else f"{number}k"
    assert parse_dof(text, D) == number * 10 ** (3 - decimals)


@given(st.integers(1, 10_000), st.integers(10_000, 10**9))
def test_shares_are_rounded_down_exactly(hundredths: int, total: int) -> None:
    text = f"{hundredths // 100}.{hundredths % 100:02d}%"
    assert parse_dof(text, total) == total * hundredths // 10_000


def test_a_range_is_stated_with_its_nearest_end() -> None:
    check_range(10, 10, 20, "lors")
    check_range(20, 10, 20, "lors")
    for dof, nearest in ((9, 10), (21, 20)):
        with pytest.raises(InvalidInput, match=rf"{dof} .*lors.* 10\.\.20; nearest: {nearest}"):
            check_range(dof, 10, 20, "lors")


@st.composite
def divisions(draw: st.DrawFn) -> tuple[int, list[int]]:
    sizes = draw(st.lists(st.integers(1, 10_000), min_size=1, max_size=8))
    return draw(st.integers(len(sizes), sum(sizes))), sizes


@given(divisions())
def test_a_budget_is_divided_exactly_and_within_bounds(division: tuple[int, list[int]]) -> None:
    budget, sizes = division
    parts = divide(budget, sizes)
    assert sum(parts) == budget
    assert all(1 <= part <= size for part, size in zip(parts, sizes, strict=True))


@given(divisions())
def test_a_budget_is_divided_in_proportion(division: tuple[int, list[int]]) -> None:
    budget, sizes = division
    exact = [Fraction(budget * size, sum(sizes)) for size in sizes]
    parts = divide(budget, sizes)
    raised = sum(share < 1 for share in exact)  # parts too small for one scalar take theirs from the largest
    for part, share in zip(parts, exact, strict=True):
        assert abs(part - share) < 1 + raised
        if not raised:
            assert abs(part - share) < 1


def test_divisions_by_hand() -> None:
    assert divide(10, [50, 50]) == [5, 5]
    assert divide(3, [50, 50]) == [2, 1], "the first of equal remainders gets the last scalar"
    assert divide(2, [1, 999]) == [1, 1]
    assert divide(10, [1, 1, 998]) == [1, 1, 8]
    assert divide(100, [25, 75]) == [25, 75]
    # The stages of ResNet18.
    assert divide(36_864, [147_456, 524_288, 2_097_152, 8_388_608]) == [487, 1732, 6929, 27716]


@pytest.mark.parametrize(("budget", "sizes"), [(1, [5, 5]), (11, [5, 5]), (0, [5])])
def test_impossible_divisions_are_refused(budget: int, sizes: list[int]) -> None:
    with pytest.raises(InvalidInput, match=str(budget)):
        divide(budget, sizes)
