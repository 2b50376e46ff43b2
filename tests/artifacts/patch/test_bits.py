"""Numbers of a few bits come back, whatever their width and however many there are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.patch.bits import Unpacker, packed, unpacked

# None, less than a group, whole groups, one more than the few that are taken apart at once, and many.
COUNTS = [0, 1, 7, 8, 9, 2047, 2048, 2049, 5000]


@pytest.mark.parametrize("width", range(1, 8))
@pytest.mark.parametrize("count", COUNTS)
def test_numbers_of_every_width_come_back(width: int, count: int) -> None:
    values = np.random.default_rng(width).integers(0, 1 << width, count, np.uint8)
    assert np.array_equal(unpacked(packed(values, width), width, count), values)


def test_the_highest_bit_of_the_first_number_comes_first() -> None:
    assert packed(np.array([0b101, 0b001, 0b110], np.uint8), 3) == bytes([0b10100111, 0b00000000])
    assert unpacked(bytes([0b10100111, 0b01111111]), 3, 3).tolist() == [0b101, 0b001, 0b110]


@given(st.lists(st.tuples(st.integers(1, 7), st.binary(min_size=1, max_size=40)), max_size=12))
def test_runs_that_are_taken_apart_together_come_to_their_own_places(runs: list[tuple[int, bytes]]) -> None:
    unpacker, expected, out = Unpacker(), [], []
    for width, content in runs:
        values = np.frombuffer(content, np.uint8) & np.uint8((1 << width) - 1)
        expected.append(values.tolist())
        out.append(np.full(len(values), 0xFF, np.uint8))
        unpacker.add(packed(values, width), width, out[-1])
    unpacker.finish()
    assert [values.tolist() for values in out] == expected
