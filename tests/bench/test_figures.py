"""The arithmetic of rounds: medians, spreads, ratios and percentiles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.edge.figures import Spread, percentile, ratio_in_rounds


def test_a_spread_is_the_median_with_the_least_and_the_greatest() -> None:
    assert Spread.of([5.0, 1.0, 3.0]) == Spread(3.0, 1.0, 5.0)


def test_the_median_of_an_even_number_of_rounds_is_between_the_two_in_the_middle() -> None:
    assert Spread.of([1.0, 2.0, 4.0, 9.0]).median == 3.0


def test_a_ratio_compares_rounds_so_that_a_machine_that_slows_down_does_not_change_it() -> None:
    theirs = [100.0, 50.0, 25.0]
    assert ratio_in_rounds([90.0, 45.0, 22.5], theirs) == Spread(0.9, 0.9, 0.9)


def test_figures_of_different_rounds_are_not_compared() -> None:
    with pytest.raises(ValueError, match="2 rounds"):
        ratio_in_rounds([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (0.999, 100.0), (1.0, 100.0)])
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(share: float, expected: float) -> None:
    assert percentile([float(number) for number in range(1, 101)], share) == expected


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_a_percentile_is_asked_as_a_share() -> None:
    with pytest.raises(ValueError, match="no share"):
        percentile([1.0], 99)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), st.floats(0, 1))
def test_at_least_the_share_of_values_lies_at_or_below_the_percentile(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= share * len(ordered) - 1e-6
