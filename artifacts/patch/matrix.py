"""What the elements of a tensor have in common by rows and columns: how large their updates are, and of which kind.

The updates of a layer have nearly a low rank, because a gradient is a sum of outer products, of which one training step
makes one for each example (and LoRA, arXiv:2106.09685, trains nothing else). So a few factors for each row and column
predict a part of every element's update. What is left of it is larger in some rows and columns than in others.

Factors are whole numbers, so that their sums of products are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from artifacts.patch.axes import Axes

__all__ = [
    "MAX_FACTOR",
    "MAX_FACTORS",
    "MAX_RANK",
    "MAX_SHIFT",
    "MAX_SIDE",
    "MAX_UNITS",
    "Factors",
    "Matrix",
    "MatrixData",
    "converted",
    "in_units",
    "levels",
    "most_predicted",
    "of_units",
    "predicted",
    "predicted_halves",
    "predicted_values",
]

# Rows and columns: a block's rows then have at most a block's worth of elements beside those that are wanted.
MAX_SIDE = 1 << 16
MAX_RANK = 128
# Units of rows or columns: channels of a layer are fewer.
MAX_UNITS = 1 << 14
# Twice the largest context: what the steepest slope can take away.
MAX_LEVEL = 511
# Factors of a matrix, held as 8 bytes each: 2 MiB.
MAX_FACTORS = 1 << 18
# Products of two factors, summed over the rank, are then below 2^53: exact in doubles in whatever order.
MAX_FACTOR = 1 << 23
MAX_SHIFT = 22
# Products that are made at once: with more, numpy's library starts threads, which cost more than they gain here.
_FEW_PRODUCTS = 1 << 18
# Whole numbers below this are exact in floats of 4 bytes.
_MAX_SINGLE = 1 << 24
# With a smaller unit, floats of 4 bytes would lose bits.
_MIN_SINGLE_EXPONENT = -126
# What the sum of products is scaled by is far inside the range of doubles, so that only the addition rounds.
MIN_EXPONENT, MAX_EXPONENT = -256, 64

# Doubles of so many elements take a quarter of a megabyte, a few of which stay in a processor's cache; with fewer, the
# calls cost more than what they compute.
_PIECE_ELEMENTS = 32 * 1024

# The four unsigned widths, which mypy cannot tell apart from any other array.
Unsigned = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
# Of 4 or of 8 bytes.
Floats = npt.NDArray[Any]
Octets = npt.NDArray[np.uint8]

# The bits that are all set in what is no finite number.
_EXPONENTS = {
    ("float", 2): np.uint16(0x7C00),
    ("brain", 2): np.uint16(0x7F80),
    ("float", 4): np.uint32(0x7F80_0000),
    ("float", 8): np.uint64(0x7FF0_0000_0000_0000),
}
# As floats of 4 bytes: the least float of 2 bytes that has all its bits, and what is rounded to infinity.
_LEAST_HALF, _BEYOND_HALVES = np.uint32(0x3880_0000), np.uint32(0x477F_F000)
# Half of the last bit but one unit, and the difference of the two biases; it wraps.
_TO_HALF = np.uint32(0x0FFF - (112 << 23) & 0xFFFF_FFFF)
_FLOATS: dict[int, np.dtype[Any]] = {2: np.dtype("<f2"), 4: np.dtype("<f4"), 8: np.dtype("<f8")}


@dataclass(frozen=True, slots=True)
class Matrix:
    """What stands before elements that have rows and columns.

    Attributes:
        rows: how many.
        columns: how many; row after row, the elements follow each other.
        level: added to the level of every element, so that one table serves small updates and large ones.
        scales: the stream of the levels of rows and then columns, one byte each; None if all are 0.
        rank: how many factors each row and each column has, whose products predict the difference; 0 if none.
        components: the stream of what is said of each component: of the factors with one place in all rows and columns.
        factors: the number of the table that codes the factors.
        exponent: the products' sum counts in units of ``2 ** exponent``.
        gains: the stream of what the base is multiplied by, a float of 4 bytes for each row; None if it is 1. Exports
            that fold batch normalisation into weights scale rows so.
        by_columns: whether each column has a gain instead, and a unit.
        units: the stream of what the elements, floats of 2 bytes then, are multiplied by to become floats of 4 bytes, a
            float of 4 bytes for each row; None if they are what they are. So exports fold batch normalisation into
            weights of half precision.
        axes: the order in which the base has the elements; None if it is theirs.

    Raises:
        ValueError: a number is out of bounds.
    """

    rows: int
    columns: int
    level: int = 0
    scales: int | None = None
    rank: int = 0
    components: int = 0
    factors: int = 0
    exponent: int = 0
    gains: int | None = None
    by_columns: bool = False
    units: int | None = None
    axes: Axes | None = None

    def __post_init__(self) -> None:
        if min(self.rows, self.columns) < 1 or (self.has_sides and max(self.rows, self.columns) > MAX_SIDE):
            raise ValueError("a matrix has too many rows or columns, or none")
        if not 0 <= self.rank <= MAX_RANK or self.factor_count > MAX_FACTORS:
            raise ValueError("a matrix has too many factors")
        if not 0 <= self.level <= MAX_LEVEL:
            raise ValueError("the level of a matrix is out of range")
        if not MIN_EXPONENT <= self.exponent <= MAX_EXPONENT:
            raise ValueError("the unit of a prediction is out of range")
        if self.unit_count > MAX_UNITS:
            raise ValueError("a matrix has too many units")
        if self.axes is not None and self.axes.count != self.rows * self.columns:
            raise ValueError("the dimensions of a matrix have another number of elements")

    @property
    def has_sides(self) -> bool:
        """Whether rows and columns have anything, or are only counted."""
        return self.scales is not None or self.predicts or self.units is not None

    @property
    def predicts(self) -> bool:
        """Whether elements of the base are replaced by predictions."""
        return self.gains is not None or self.rank > 0

    @property
    def needs_base(self) -> bool:
        """Whether this says something of a base."""
        return self.predicts or self.axes is not None

    @property
    def factor_count(self) -> int:
        """How many factors there are."""
        return self.rank * (self.rows + self.columns)

    @property
    def gain_count(self) -> int:
        """How many gains there are."""
        if self.gains is None:
            return 0
        return self.columns if self.by_columns else self.rows

    @property
    def unit_count(self) -> int:
        """How many units there are."""
        if self.units is None:
            return 0
        return self.columns if self.by_columns else self.rows


@dataclass(frozen=True, slots=True)
class Factors:
    """The factors of a matrix: whole numbers below `MAX_FACTOR` in magnitude, as floats of 8 bytes, or of 4.

    Attributes:
        shifts: of each component: the factors of rows are multiples of ``1 << shift`` and written without it, because
            those that predict much are worth more bits than others.
        row_levels: of each component: the level of the rows' factors, by which their table sorts them.
        column_levels: the same of the columns' factors.
        rows: of each component, the factor of each row.
        columns: of each component, the factor of each column.
    """

    shifts: Octets
    row_levels: Octets
    column_levels: Octets
    rows: Floats
    columns: Floats

    @classmethod
    def narrowest(
        cls,
        shifts: Octets,
        row_levels: Octets,
        column_levels: Octets,
        rows: npt.NDArray[np.int32],
        columns: npt.NDArray[np.int32],
        exponent: int,
    ) -> Factors:
        """Return factors as floats of 4 bytes if all sums of their products are exact in those, else of 8 bytes.

        Args:
            shifts: see above, likewise both levels.
            row_levels: see above.
            column_levels: see above.
            rows: not shifted yet.
            columns: of each component, the factor of each column.
            exponent: the sums count in units of ``2 ** exponent``.

        Raises:
            ValueError: a factor is too large.
        """
        scales = 2.0 ** shifts[:, None]
        most_of_rows, most_of_columns = _most(rows) * scales.ravel(), _most(columns)
        if max(most_of_rows.max(), most_of_columns.max()) >= MAX_FACTOR:
            raise ValueError("a factor of a matrix is too large")
        exact = most_of_rows @ most_of_columns < _MAX_SINGLE and exponent >= _MIN_SINGLE_EXPONENT
        kind: npt.DTypeLike = np.float32 if exact else np.float64
        shifted = rows.astype(kind)
        shifted *= scales.astype(kind)
        return cls(shifts, row_levels, column_levels, shifted, columns.astype(kind))

    @property
    def are_narrow(self) -> bool:
        """Whether they are floats of 4 bytes."""
        return self.rows.dtype.itemsize == 4


def _most(side: npt.NDArray[np.int32]) -> Doubles:
    """Return the largest magnitude of each component."""
    most: Doubles = np.maximum(side.max(axis=1).astype(np.float64), -side.min(axis=1).astype(np.float64))
    return most


@dataclass(frozen=True, slots=True)
class MatrixData:
    """A matrix with what its rows and columns have.

    Attributes:
        matrix: what it is.
        row_levels: added to the level of each element of a row; empty without scales.
        column_levels: added to the level of each element of a column; likewise.
        factors: None if the rank is 0.
        gains: finite; None if there are none.
        units: likewise.
    """

    matrix: Matrix
    row_levels: Octets
    column_levels: Octets
    factors: Factors | None = None
    gains: Singles | None = None
    units: Singles | None = None


def levels(data: MatrixData, start: int, count: int) -> npt.NDArray[np.int16]:
    """Return the sum of the levels of matrix, row and column for each of ``count`` elements from ``start`` on.

    Raises:
        ValueError: they reach beyond the matrix.
    """
    if data.matrix.scales is None:
        return np.full(count, data.matrix.level, np.int16)
    sums = np.empty(count, np.int16)
    of_rows, of_columns = data.row_levels + np.int16(data.matrix.level), data.column_levels.astype(np.int16)
    for rows, columns, places in _rectangles(data.matrix, start, count):
        width = columns.stop - columns.start
        np.add(of_rows[rows, None], of_columns[columns], out=sums[places].reshape(-1, width))
    return sums


def predicted(data: MatrixData, base: Unsigned, start: int, *, brain: bool = False) -> Unsigned:
    """Return floats of the base times their gains, plus the products of the factors: the nearest floats, ties to even.

    The gain multiplies first. Floats of 2 and 4 bytes are rounded to 4 bytes, and those of 2 bytes then to their own
    width. What is no finite number in the base stays as it is.

    Args:
        data: the matrix.
        base: the bits of the floats from ``start`` on; at least 2 bytes each.
        start: the place of the first one in the matrix.
        brain: whether they are bfloat16.

    Raises:
        ValueError: they reach beyond the matrix.
    """
    if not data.matrix.predicts:
        return base
    found = np.empty_like(base)
    width = base.dtype.itemsize
    # One operation of floats of 4 bytes is rounded as one of floats of 8 bytes that is rounded to 4 bytes then, because
    # 53 bits are more than twice 24 (Figueroa, "When is double rounding innocuous?"). Of two operations that is not so.
    single = width < 8 and (data.gains is None or data.factors is None) and _is_narrow(data.factors)
    exponents = _EXPONENTS["brain" if brain else "float", width]
    with np.errstate(over="ignore", invalid="ignore"):
        for rows, columns, places in _rectangles(data.matrix, start, len(base)):
            known = base[places]
            values = _singles(known, brain) if single else _doubles(known, brain)
            finite = known & exponents != exponents
            _predict(data, values.reshape(rows.stop - rows.start, -1), rows, columns)
            found[places] = _rounded(values, width, brain)
            if not finite.all():
                found[places][~finite] = known[~finite]
    return found


def predicted_halves(data: MatrixData, base: Unsigned, start: int) -> Unsigned:
    """Return the nearest floats of 2 bytes to floats of 4 bytes times their gains, plus the products of the factors.

    As `predicted` otherwise, but that what is no finite number becomes zero.
    """
    found = np.empty(len(base), "<u2")
    with np.errstate(over="ignore", invalid="ignore"):
        for rows, columns, places in _rectangles(data.matrix, start, len(base)):
            values = _doubles(base[places], brain=False)
            values[~np.isfinite(values)] = 0.0
            _predict(data, values.reshape(rows.stop - rows.start, -1), rows, columns)
            found[places] = _rounded(values, 2, brain=False)
    return found


def in_units(data: MatrixData, halves: Unsigned, start: int) -> Unsigned:
    """Return the bits of floats of 2 bytes times their units, rounded to floats of 4 bytes.

    Args:
        data: the matrix, which has units.
        halves: the bits of the floats from ``start`` on.
        start: the place of the first one in the matrix.

    Raises:
        ValueError: they reach beyond the matrix, or one is no finite number.
    """
    if (halves & _EXPONENTS["float", 2] == _EXPONENTS["float", 2]).any():
        raise ValueError("an element in units is no finite number")
    # Both fit into floats of 4 bytes, so their product is rounded once.
    made = _singles(halves, brain=False)
    assert data.units is not None
    with np.errstate(over="ignore"):
        for rows, columns, places in _rectangles(data.matrix, start, len(halves)):
            values = made[places].reshape(rows.stop - rows.start, -1)
            values *= _of_each(data, data.units, rows, columns)
    return made.view("<u4")


def of_units(data: MatrixData, elements: Unsigned, start: int) -> Unsigned:
    """Return the bits of the floats of 2 bytes that `in_units` makes these of.

    Args:
        data: the matrix, which has units.
        elements: the bits of floats of 4 bytes.
        start: the place of the first one in the matrix.

    Raises:
        ValueError: there are none.
    """
    found = np.empty(len(elements), "<u2")
    assert data.units is not None
    for rows, columns, places in _rectangles(data.matrix, start, len(elements)):
        values = _doubles(elements[places], brain=False).reshape(rows.stop - rows.start, -1)
        values /= _of_each(data, data.units, rows, columns)
        found[places] = _rounded(values.ravel(), 2, brain=False)
    if not np.array_equal(in_units(data, found, start), elements):
        raise ValueError("elements are not in their units")
    return found


def _is_narrow(factors: Factors | None) -> bool:
    return factors is None or factors.are_narrow


def predicted_values(data: MatrixData, base: npt.NDArray[Any], start: int) -> Iterator[tuple[slice, Doubles]]:
    """Yield whole numbers of the base times their gains, plus the products of the factors, and where they belong.

    Args:
        data: the matrix.
        base: signed numbers from ``start`` on.
        start: the place of the first one in the matrix.

    Raises:
        ValueError: they reach beyond the matrix.
    """
    for rows, columns, places in _rectangles(data.matrix, start, len(base)):
        values = base[places].astype(np.float64)
        _predict(data, values.reshape(rows.stop - rows.start, -1), rows, columns)
        yield places, values


def most_predicted(data: MatrixData, largest: float) -> float:
    """Return what no prediction from numbers up to ``largest`` exceeds in magnitude; infinite if that is not known."""
    if not _is_narrow(data.factors):
        return float("inf")
    if data.gains is not None:
        largest *= float(np.abs(data.gains).max())
    return largest + (0.0 if data.factors is None else _MAX_SINGLE * 2.0**data.matrix.exponent)


def _predict(data: MatrixData, values: Floats, rows: slice, columns: slice) -> None:
    """Multiply values of some rows and columns by their gains, and add the products of their factors."""
    if data.gains is not None:
        # Not as they are: numpy would convert one for each element.
        values *= _of_each(data, data.gains, rows, columns).astype(values.dtype)
    if data.factors is not None:
        values += _products(data.factors, data.matrix.exponent, rows, columns)


def _of_each(data: MatrixData, numbers: Singles, rows: slice, columns: slice) -> Singles:
    """Return the gains or units of some rows and columns, as they multiply elements."""
    return numbers[columns] if data.matrix.by_columns else numbers[rows, None]


def _products(factors: Factors, exponent: int, rows: slice, columns: slice) -> Floats:
    """Return the sums of products of some rows with some columns, in units of ``2 ** exponent``."""
    of_rows, of_columns = factors.rows[:, rows].T, factors.columns[:, columns]
    # Exact, and there are fewer factors than sums.
    of_rows = of_rows * of_rows.dtype.type(2.0**exponent)
    sums = np.empty((of_rows.shape[0], of_columns.shape[1]), of_rows.dtype)
    step = max(1, _FEW_PRODUCTS // of_columns.size)
    for start in range(0, len(sums), step):
        np.matmul(of_rows[start : start + step], of_columns, out=sums[start : start + step])
    return sums


def converted(elements: Unsigned, brain: bool, width: int, to_brain: bool) -> Unsigned:
    """Return floats as floats of another width, rounded as in `predicted`; what is no finite number becomes zero.

    Args:
        elements: the bits of the floats.
        brain: whether those of 2 bytes are bfloat16.
        width: of the result, in bytes.
        to_brain: whether a result of 2 bytes is bfloat16.
    """
    found = np.empty(len(elements), f"<u{width}")
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(elements), _PIECE_ELEMENTS):
            values = _doubles(elements[start : start + _PIECE_ELEMENTS], brain)
            values[~np.isfinite(values)] = 0.0
            found[start : start + _PIECE_ELEMENTS] = _rounded(values, width, to_brain)
    return found


def _doubles(elements: Unsigned, brain: bool) -> Doubles:
    if brain and elements.dtype.itemsize == 2:
        return (elements.astype("<u4") << 16).view("<f4").astype(np.float64)
    return elements.view(_FLOATS[elements.dtype.itemsize]).astype(np.float64)


def _singles(elements: Unsigned, brain: bool) -> Singles:
    """Return finite floats of 2 or 4 bytes as floats of 4 bytes, in new memory."""
    if elements.dtype.itemsize == 4:
        return elements.view("<f4").copy()
    if brain:
        return (elements.astype("<u4") << 16).view("<f4")
    # The sign, its copies in between, and exponent and mantissa; then the difference of the two biases.
    bits = elements.view("<i2").astype("<i4")
    bits <<= 13
    bits &= np.int32(~0x7000_0000)
    values: Singles = bits.view("<f4")
    values *= np.float32(2.0**112)
    return values


def _rounded(values: Floats, width: int, brain: bool) -> Unsigned:
    if width == 8:
        return values.view("<u8")
    single = values.astype("<f4", copy=False)
    if brain and width == 2:
        bits = single.view("<u4")
        rounded = bits >> 16
        rounded &= 1
        rounded += 0x7FFF
        rounded += bits
        rounded >>= 16
        return rounded.astype("<u2")
    return _halves(single) if width == 2 else single.view("<u4")


def _halves(values: Singles) -> Unsigned:
    """Return the bits of the nearest floats of 2 bytes, ties to even, as numpy's conversion does but quicker."""
    bits = values.view("<u4")
    magnitudes = bits & np.uint32(0x7FFF_FFFF)
    # Thirteen bits less: half of the last one is added before, less a bit if the last one is even.
    rounded = magnitudes >> 13
    rounded &= 1
    rounded += magnitudes
    rounded += _TO_HALF
    rounded >>= 13
    signs = bits >> 16
    signs &= 0x8000
    rounded |= signs
    found = rounded.astype("<u2")
    magnitudes -= _LEAST_HALF
    others = (magnitudes >= _BEYOND_HALVES - _LEAST_HALF).nonzero()[0]
    found[others] = values[others].astype("<f2").view("<u2")
    return found


def _rectangles(matrix: Matrix, start: int, count: int) -> Iterator[tuple[slice, slice, slice]]:
    """Cut elements into pieces that have whole rows, or lie in one row; yield their rows, columns, and places."""
    columns = matrix.columns
    if start + count > matrix.rows * columns:
        raise ValueError("the elements reach beyond their matrix")
    done = 0
    while done < count:
        row, column = divmod(start + done, columns)
        left = count - done
        height, width = 1, min(columns - column, left, _PIECE_ELEMENTS)
        if width == columns:
            height = min(left // columns, max(1, _PIECE_ELEMENTS // columns))
        yield slice(row, row + height), slice(column, column + width), slice(done, done + height * width)
        done += height * width
