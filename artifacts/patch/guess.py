"""How long the rows of a tensor are whose shape is not known: where an update has structure, its rows show it.

For each number of columns that divides the elements, gains, a few factors and scales are fitted to the start of the
tensor, and the one that leaves the smallest elements is taken.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from artifacts.patch.factors import without_parts
from artifacts.patch.gains import SIDES, GainSums
from artifacts.patch.scales import STEPS, fit_scales, half_octaves
from artifacts.patch.tally import entropy

__all__ = ["GUESSED", "guess_columns"]

# Elements that are looked at, at most: first so many, or so many rows, and of those numbers of columns that do best the
# second number, or as few rows as a matrix may have.
GUESSED = 1 << 17
_FIRST, _FIRST_ROWS, _BEST, _SECOND = 1 << 14, 32, 4, 1 << 16
# Numbers of columns that are tried, and the smallest of rows and columns.
_MAX_TRIED = 64
_MIN_SIDE = 8
_RANK = 6
_FACTOR_BITS = 4
# What rows must save, in bits of an element, for there to be any.
_MIN_SAVED = 0.03

Singles = npt.NDArray[np.float32]


def guess_columns(target: Singles, base: Singles, count: int, unit: float) -> int | None:
    """Return how many columns a tensor seems to have, None if it seems to have none.

    Args:
        target: elements from the start of the tensor, up to `GUESSED`; finite.
        base: those of its base.
        count: of all elements of the tensor.
        unit: what a difference is at least that is not 0, on average.
    """
    floor = half_octaves(unit / 4)
    flat = (half_octaves(max(float(np.abs(target - base).mean()), unit / 4)) - floor) / STEPS

    def cost(rows: int, columns: int, powers: int) -> float:
        return _cost(target, base, min(rows, len(target) // columns), columns, floor, powers)

    first = sorted((cost(max(_FIRST // columns, _FIRST_ROWS), columns, 0), columns) for columns in _divisors(count))
    tried = sorted((cost(max(_SECOND // columns, _MIN_SIDE), columns, 1), columns) for _, columns in first[:_BEST])
    if not tried or tried[0][0] > flat - _MIN_SAVED:
        return None
    return tried[0][1]


def _divisors(count: int) -> Iterator[int]:
    """Yield numbers of columns, those first that are nearest to a square."""
    found = [
        columns
        for columns in range(_MIN_SIDE, min(count // _MIN_SIDE, GUESSED // _MIN_SIDE) + 1)
        if count % columns == 0
    ]
    found.sort(key=lambda columns: abs(np.log2(columns * columns / count)))
    yield from found[:_MAX_TRIED]


def _cost(target: Singles, base: Singles, rows: int, columns: int, floor: int, powers: int) -> float:
    """Return what an element takes, in bits that only differ by a constant, if rows have this length."""
    count = rows * columns
    update = target[:count] - base[:count]
    bits = 0.0
    sums = GainSums((rows, columns))
    sums.add(target[:count], base[:count], 0)
    rounding = float(np.square(target[:count], dtype=np.float64).sum()) * 2.0**-48
    saved, side = max((sums.saved_bits(side, rounding), side) for side in SIDES)
    if saved > 0:
        gains = sums.gains(side)
        known = base[:count].reshape(rows, columns) * (gains if side == "columns" else gains[:, None])
        update = target[:count] - known.ravel()
        bits += 32.0 * len(np.unique(gains))
    matrix = update.reshape(rows, columns)
    matrix, rank = without_parts(matrix, _RANK, powers)
    bits += _FACTOR_BITS * rank * (rows + columns)
    scales = fit_scales(np.abs(matrix))
    if scales is None:
        return bits / count
    bits += entropy(np.bincount(scales.rows)) + entropy(np.bincount(scales.columns))
    return scales.octaves_above(floor) + bits / count
