"""Floats of 4 bytes that are floats of 2 bytes times one number for each row: half-precision checkpoints, exported.

Networks are often kept as float16. An export that folds batch normalisation into them multiplies each channel by a
float32, and nothing shows any more that a weight has 11 bits and not 24. The number of a row, its *unit*, is found
again: it is the largest weight divided by one of 1,024 mantissas, and only the right one makes mantissas of the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["ORIGIN", "Units", "find_units"]

# Mantissas of floats of 2 bytes, with the bit that is not written.
_LEAST, _BEYOND = 1024, 2048
# How far a quotient of two floats of 4 bytes, of 2,048 at most, is from what it would be without rounding.
_TOLERANCE = 6e-4
# Elements of a row that choose among the mantissas: each leaves one in 800, of 1,024.
_TELLING = 4
# Elements of a row that are asked where its largest ones leave more than a few mantissas.
_DIFFERENT, _FEW_MANTISSAS = 64, 8
# Rows that are looked at first, among so many of which some may be zero; rows and elements at a time, whose arrays take
# some megabytes.
_FIRST_ROWS, _LOOKED_AT, _ROWS, _ELEMENTS = 2, 16, 64, 1 << 16
# Rows with fewer elements tell too little.
_MIN_COLUMNS = 4
# The largest element of a row is below two to this: small ones then keep their bits, and there is room to double it.
_TOP = 14
# The top byte of a float of 2 bytes beyond those, without its sign.
ORIGIN = (_TOP - 1 + 15 + 1) << 3

Singles = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Units:
    """The units of a tensor's rows or columns.

    Attributes:
        units: of each; finite and above 0.
        by_columns: whether each column has one.
        halves: the elements in these units, rows by columns: floats of 2 bytes whose products with the units, rounded
            to 4 bytes, are exactly the tensor.
    """

    units: Singles
    by_columns: bool
    halves: npt.NDArray[np.float16]


def find_units(values: Singles, *, by_columns: bool) -> Units | None:
    """Return the units of a tensor, None if it has none.

    Args:
        values: rows by columns.
        by_columns: whether to look for units of columns.
    """
    rows = values.T if by_columns else values
    # Most weights have none, which two rows tell.
    first = [row for row in range(min(len(rows), _LOOKED_AT)) if rows[row].any()][:_FIRST_ROWS]
    if rows.shape[1] < _MIN_COLUMNS or not first or _units_of(rows[first]) is None:
        return None
    units, halves = np.ones(len(rows), np.float32), np.zeros(values.shape, np.float16)
    of_rows = halves.T if by_columns else halves
    filled = np.flatnonzero(rows.any(axis=1))
    step = max(1, min(_ROWS, _ELEMENTS // rows.shape[1]))
    for start in range(0, len(filled), step):
        some = filled[start : start + step]
        found = _units_of(rows[some])
        if found is None:
            return None
        units[some], of_rows[some] = found
    return Units(units, by_columns, halves)


def _units_of(rows: Singles) -> tuple[Singles, npt.NDArray[np.float16]] | None:
    """Return the units of some rows, none of which is zero, and the rows in them; None if one has none."""
    if not np.isfinite(rows).all():
        return None
    magnitudes = np.abs(rows).astype(np.float64)
    telling = min(_TELLING + 1, rows.shape[1])
    largest = np.sort(np.partition(magnitudes, -telling, axis=1)[:, -telling:], axis=1)
    fits = _off((largest[:, :-1] / largest[:, -1:])[:, :, None] * np.arange(_LEAST, _BEYOND)).max(axis=1) < _TOLERANCE
    units, halves = np.zeros(len(rows), np.float32), np.zeros(rows.shape, np.float16)
    for row, of_row in enumerate(magnitudes):
        found = _unit_of(of_row, np.flatnonzero(fits[row]) + _LEAST)
        if found is None:
            return None
        units[row], halves[row] = found
    return units, np.where(np.signbit(rows), -halves, halves)


def _unit_of(row: Doubles, mantissas: npt.NDArray[np.intp]) -> tuple[np.float32, npt.NDArray[np.float16]] | None:
    """Return the unit of a row whose largest element may have one of some mantissas, and the row in it."""
    top = row.max()
    if len(mantissas) > _FEW_MANTISSAS:
        # The largest elements are equal, as where they were clipped: others tell more.
        different = np.unique(row)
        some = different[np.linspace(0, len(different) - 1, min(len(different), _DIFFERENT)).astype(int)]
        mantissas = mantissas[_off((some / top)[:, None] * mantissas).max(axis=0) < _TOLERANCE]
        mantissas = np.array([one for one in mantissas.tolist() if _exact(some, top / one) is not None], np.intp)
    for mantissa in mantissas.tolist():
        found = _exact(row, top / mantissa)
        if found is not None:
            return found
    return None


def _off(quotients: Doubles) -> Doubles:
    """Return how far numbers are from having 11 bits, in units of the last of these."""
    mantissas, _ = np.frexp(quotients)
    mantissas *= _BEYOND
    off: Doubles = np.abs(mantissas - np.rint(mantissas))
    return off


def _exact(row: Doubles, unit: float) -> tuple[np.float32, npt.NDArray[np.float16]] | None:
    """Return the unit near to one with which all elements of a row are halves, exactly, and those; None if none is."""
    # A power of two makes no difference to what is exact, but to what is too small.
    unit *= 2.0 ** (int(np.frexp(row.max() / unit)[1]) - _TOP)
    halves = (row / unit).astype(np.float16)
    of_halves = halves.astype(np.float64)
    filled = halves > 0
    if filled.sum() != np.count_nonzero(row):
        return None
    spacing = np.spacing(row.astype(np.float32))[filled] / 2
    low = ((row[filled] - spacing) / of_halves[filled]).max()
    high = ((row[filled] + spacing) / of_halves[filled]).min()
    if low > high:
        return None
    near = np.float32((low + high) / 2)
    for single in (near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(np.inf))):
        if np.array_equal((of_halves * np.float64(single)).astype(np.float32), row):
            return single, halves
    return None
