"""Dimensions in another order: where each element is in the base, and a decoder that goes through that in pieces."""

from __future__ import annotations

import hashlib
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.errors import PatchInvalid
from artifacts.patch.apply import apply_patch
from artifacts.patch.axes import Axes
from artifacts.patch.elements import ClassCoding, Matrix, MatrixData, Table
from artifacts.patch.format import Layout
from tests.patches import Recipe

TABLE = Table(2, "plain", "sub", 0, 1, bytes(256), (ClassCoding(2, mask=3),))


@st.composite
def arrangements(draw: st.DrawFn) -> Axes:
    sizes = tuple(draw(st.lists(st.integers(1, 6), min_size=2, max_size=5)))
    return Axes(sizes, tuple(draw(st.permutations(range(len(sizes))))))


@given(arrangements())
def test_elements_come_from_where_their_places_say(axes: Axes) -> None:
    base = np.arange(axes.count, dtype="<u2")
    arranged = np.frombuffer(axes.arranged(memoryview(base.tobytes()), 2), "<u2")
    assert np.array_equal(arranged, base[axes.places(np.arange(axes.count))])
    assert sorted(arranged.tolist()) == base.tolist()


def test_a_transpose_is_one() -> None:
    matrix = np.arange(12, dtype="<u4").reshape(3, 4)
    assert Axes((4, 3), (1, 0)).arranged(memoryview(matrix.tobytes()), 4) == matrix.T.tobytes()


@pytest.mark.parametrize(
    ("sizes", "order"),
    [((4,), (0,)), ((2,) * 6, tuple(range(6))), ((2, 0), (1, 0)), ((2, 2), (1, 1)), ((2, 2), (1, 2))],
)
def test_what_is_no_order_of_dimensions_is_refused(sizes: tuple[int, ...], order: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="dimensions"):
        Axes(sizes, order)


def _recipe(axes: Axes, layout: Layout) -> Recipe:
    old = np.random.default_rng(1).integers(0, 1 << 16, axes.count, np.uint16)
    recipe = Recipe(old.tobytes(), layout)
    recipe.table(0, TABLE)
    target = axes.arranged(memoryview(old.tobytes()), 2)
    none = np.empty(0, np.uint8)
    recipe.elements(0, TABLE, target, 0, MatrixData(Matrix(1, axes.count, axes=axes), none, none))
    return recipe


# The base has more than one piece, and none of them begins with a row.
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_decoder_finds_the_elements_of_each_block(tmp_path: Path, order: tuple[int, ...]) -> None:
    made = _recipe(Axes((31, 17, 23), order), Layout(12, 12)).made()
    base, patch = made.write(tmp_path)
    sha256 = hashlib.sha256(made.target).hexdigest()
    apply_patch(base, patch, tmp_path / "out", length=len(made.target), sha256=sha256)
    assert (tmp_path / "out").read_bytes() == made.target


# Each block goes through all of the base: with the smallest blocks that is too much from some megabytes on.
def test_too_many_blocks_of_too_long_a_base_are_refused() -> None:
    axes = Axes((2000, 1600), (1, 0))
    with pytest.raises(PatchInvalid, match="too many steps"):
        _recipe(axes, Layout(12, 12)).made()
    _recipe(axes, Layout(17, 16)).made()
