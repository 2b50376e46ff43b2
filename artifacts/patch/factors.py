"""Few factors for each row and column whose products come near an update: a truncated singular value decomposition.

The decomposition is found with random projections (Halko, Martinsson, Tropp 2011, "Finding structure with randomness",
algorithms 4.4 and 5.1). Its factors are rounded to whole numbers so coarsely that what the rounding adds is a fraction
of what the update has beside them: many coarse factors are worth more than few fine ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from numpy.random import default_rng

from artifacts.patch.matrix import MAX_EXPONENT, MAX_FACTOR, MAX_FACTORS, MAX_RANK, MAX_SHIFT, MIN_EXPONENT, Factors

__all__ = ["Decomposition", "decompose", "rounded_factors", "without_parts", "worthwhile_parts", "worthwhile_rank"]

# Random directions beyond the rank that is wanted, and multiplications by the matrix and its transpose.
_OVERSAMPLING = 8
_POWERS = 2
# The square of a part, as a share of that of the largest, that is none but the rounding of floats of 4 bytes.
_NO_PART = 1e-14
# So many directions are enough for most tensors; where more than the second number are worth it, there may be more.
_FEW_PARTS, _FEW_WORTH = 24, 16
# What a factor takes in a patch when it is rounded as below, in bits.
_FACTOR_BITS = 3.5
# What rounding adds, as a share of what the factors leave (of squares).
_ROUNDING_SHARE = 0.3
# A component that is greater than another by an octave gets so many octaves more in its factors than equal rounding
# errors of both would need.
_SHIFT_SHARE = 0.75
# What is beside the parts is summed in pieces: a copy of the matrix would be large.
_PIECE_ELEMENTS = 64 * 1024
# Below this many rows or columns, factors cost more than they tell.
_MIN_SIDE = 8
# Rows of which an orthonormal basis is made at a time; and the smallest part of a direction, as a share of that of the
# largest, beside those before it, of which as much is left after rounding that single precision is exact.
_QR_ROWS, _LEAST_REGULAR = 256, 1e-8
# Levels of factors: half octaves of their mean, from this one on.
_LEVEL_OF_ONE, _LEVEL_STEPS = 8, 2

Singles = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Decomposition:
    """The largest parts of a matrix: left vectors by columns, values in falling order, right vectors by rows.

    ``rest`` is the sum of squares of what is beside them. To take theirs from that of the whole matrix would not do:
    where nearly nothing is beside them, the difference is the rounding of a sum, which is another on another machine.
    """

    left: Singles
    values: Doubles
    right: Singles
    rest: float

    def beside(self, rank: int) -> float:
        """Return the sum of squares of what is beside the first ``rank`` parts."""
        return self.rest + float((self.values[rank:] ** 2).sum())

    def first(self, rank: int) -> Decomposition:
        """Return the first ``rank`` parts alone."""
        return Decomposition(self.left[:, :rank], self.values[:rank], self.right[:rank], self.beside(rank))

    def rows(self, start: int, stop: int) -> Singles:
        """Return what the parts tell of some rows."""
        rows: Singles = (self.left[start:stop] * self.values.astype(np.float32)) @ self.right
        return rows


def decompose(update: Singles, max_rank: int = MAX_RANK) -> Decomposition | None:
    """Return the largest parts of a matrix, None if it is too small to have any that are worth it.

    Args:
        update: finite numbers, rows by columns; they are scaled in place, because a copy would be large.
        max_rank: how many parts at most.
    """
    size = _scale(update)
    return _decomposed(update, size, min(max_rank, _max_rank(*update.shape))) if size > 0 else None


def worthwhile_parts(update: Singles, floor: float) -> tuple[Decomposition, int] | None:
    """Return the largest parts of a matrix and how many of them are worth it; None if none are.

    Args:
        update: as of `decompose`.
        floor: as of `worthwhile_rank`.
    """
    size = _scale(update)
    if size == 0:
        return None
    most = _max_rank(*update.shape)
    parts = _decomposed(update, size, min(_FEW_PARTS, most))
    worth = 0 if parts is None else worthwhile_rank(parts, floor)
    if worth > _FEW_WORTH and most > _FEW_PARTS and (parts := _decomposed(update, size, most)) is not None:
        worth = worthwhile_rank(parts, floor)
    return (parts, worth) if parts is not None and worth else None


def _max_rank(rows: int, columns: int) -> int:
    return min(MAX_RANK, min(rows, columns) // 2, MAX_FACTORS // (rows + columns))


def _scale(update: Singles) -> float:
    """Divide a matrix by the size of its largest element, and return that; 0 if there is nothing else."""
    size = float(max(update.max(), -update.min()))
    if size > 0:
        np.divide(update, np.float32(size), out=update)
    return size


def without_parts(update: Singles, max_rank: int, powers: int) -> tuple[Singles, int]:
    """Return a matrix without its largest parts, and how many those are; itself if it has none that are worth it.

    It is quicker than a decomposition: the parts are not told apart, so the squares of the few numbers that tell which
    directions they lie in are enough.

    Args:
        update: finite numbers, rows by columns.
        max_rank: how many parts at most.
        powers: multiplications by the matrix and its transpose; more find parts that are hardly larger than the rest.
    """
    rank = min(max_rank, _max_rank(*update.shape))
    scaled = update.copy()
    if rank < 1 or min(update.shape) < _MIN_SIDE or _scale(scaled) == 0:
        return update, 0
    basis = _basis(scaled, rank, powers)
    inside = (basis.T @ scaled).astype(np.float64)
    squares, directions = np.linalg.eigh(inside @ inside.T)
    rank = min(rank, int(np.count_nonzero(squares > squares[-1] * _NO_PART)))
    largest = directions[:, -rank:].astype(np.float32)
    size = np.float32(np.abs(update).max())
    return update - (basis @ largest) @ (largest.T @ inside.astype(np.float32) * size), rank


def _decomposed(scaled: Singles, size: float, rank: int) -> Decomposition | None:
    if rank < 1 or min(scaled.shape) < _MIN_SIDE:
        return None
    basis = _basis(scaled, rank, _POWERS)
    inside = basis.T @ scaled
    # The triangle has the same values, and its right vectors are the left ones of what is inside.
    _, values, turned = np.linalg.svd(_triangle(inside.T), full_matrices=False)
    rank = min(rank, int(np.count_nonzero(values[:rank] > values[0] * _NO_PART**0.5)))
    rest = (_outside(scaled, basis, inside) + float((values[rank:] ** 2).sum())) * size**2
    left, values = turned[:rank].astype(np.float32), values[:rank]
    return Decomposition(basis @ left.T, values * size, (left / values[:, None]).astype(np.float32) @ inside, rest)


def _outside(scaled: Singles, basis: Singles, inside: Singles) -> float:
    """Return the sum of squares of what lies in none of the basis' directions; ``inside``: what lies in each."""
    step = max(1, _PIECE_ELEMENTS // scaled.shape[1])
    pieces = (slice(start, start + step) for start in range(0, len(scaled), step))
    beside = (scaled[piece] - basis[piece] @ inside for piece in pieces)
    return sum(float(np.vdot(piece, piece)) for piece in beside)


def _basis(scaled: Singles, rank: int, powers: int) -> Singles:
    """Return directions among which those of the largest parts are."""
    # The seed is fixed: the same files make the same patch.
    directions = default_rng(0).standard_normal((scaled.shape[1], rank + _OVERSAMPLING), np.float32)
    basis = _orthonormal(scaled @ directions)
    for _ in range(powers):
        basis = _orthonormal(scaled @ _orthonormal(scaled.T @ basis))
    return basis


def _orthonormal(vectors: Singles) -> Singles:
    """Return an orthonormal basis of some columns.

    What is divided by the triangle of a QR decomposition is orthonormal to single precision, since that is a double.
    """
    triangle = _triangle(vectors)
    sizes = np.abs(np.diagonal(triangle))
    if len(triangle) < vectors.shape[1] or sizes.min() <= sizes.max() * _LEAST_REGULAR:
        basis, _ = np.linalg.qr(vectors)
        return np.asarray(basis, np.float32)
    inverse = np.linalg.inv(triangle)
    basis = np.empty_like(vectors)
    for start in range(0, len(vectors), _QR_ROWS):
        basis[start : start + _QR_ROWS] = vectors[start : start + _QR_ROWS] @ inverse
    return basis


def _triangle(vectors: Singles) -> Doubles:
    """Return the triangle of a QR decomposition, made piece by piece: numpy's would copy all rows several times.

    Demmel, Grigori, Hoemmen, Langou 2012, "Communication-optimal parallel and sequential QR and LU factorizations".
    """
    triangle = np.empty((0, vectors.shape[1]))
    for start in range(0, len(vectors), _QR_ROWS):
        stacked: Doubles = np.concatenate((triangle, vectors[start : start + _QR_ROWS]))
        # In this mode it is one array; numpy's types say otherwise.
        triangle = cast("Doubles", np.linalg.qr(stacked, mode="r"))
    return triangle


def worthwhile_rank(parts: Decomposition, floor: float) -> int:
    """Return how many parts save more than their factors cost.

    Args:
        parts: of the update.
        floor: sum of squares of what no prediction takes away: the rounding of the elements.
    """
    # What is beside the first of them, and the next, and so on; summed from the smallest on.
    beside = parts.rest + floor + np.concatenate([np.cumsum(parts.values[::-1] ** 2)[::-1], [0.0]])
    before, left = beside[:-1], beside[1:]
    rows, columns = parts.left.shape[0], parts.right.shape[1]
    saved = 0.5 * np.log2(before / np.maximum(left, 1e-300)) * rows * columns
    worth = np.cumsum(saved - _FACTOR_BITS * (rows + columns))
    best = int(worth.argmax())
    return best + 1 if worth[best] > 0 else 0


def rounded_factors(parts: Decomposition, rank: int, floor: float) -> tuple[Factors, int] | None:
    """Return the first ``rank`` parts as whole numbers, and the exponent of the unit of their products' sums.

    Args:
        parts: of the update.
        rank: at least 1.
        floor: as of `worthwhile_rank`.

    Returns:
        None if they do not fit into what factors may be.
    """
    values = parts.values[:rank]
    rows, columns = parts.left.shape[0], parts.right.shape[1]
    left = max(parts.beside(rank), parts.beside(0) * 1e-14) + floor
    shifts = np.minimum(np.round(_SHIFT_SHARE * np.log2(values[0] / values)), MAX_SHIFT)
    # Rounding both factors of a component, of which rows and columns have equally large ones, adds a sixth of its value
    # times the unit of its products, times the root of the number of elements.
    unit = 6 * _ROUNDING_SHARE * left / float((rows * columns) ** 0.5 * (values * 2.0**shifts).sum())
    balance = (rows / columns) ** 0.25
    exponent = max(round(float(np.log2(unit))), _least_exponent(parts, rank, shifts, balance))
    if not MIN_EXPONENT <= exponent <= MAX_EXPONENT:
        return None
    sizes = np.sqrt(values * 2.0 ** -(shifts + exponent))
    of_rows = np.round(parts.left[:, :rank].T * (sizes * balance)[:, None]).astype(np.int32)
    of_columns = np.round(parts.right[:rank] * (sizes / balance)[:, None]).astype(np.int32)
    levels = _levels(of_rows), _levels(of_columns)
    return Factors.narrowest(shifts.astype(np.uint8), *levels, of_rows, of_columns, exponent), exponent


def _least_exponent(parts: Decomposition, rank: int, shifts: Doubles, balance: float) -> int:
    """Return the exponent of the finest unit in which no factor is larger than factors may be."""
    values = parts.values[:rank]
    most_of_rows = np.abs(parts.left[:, :rank]).max(axis=0) * np.sqrt(values * 2.0**shifts) * balance
    most_of_columns = np.abs(parts.right[:rank]).max(axis=1) * np.sqrt(values * 2.0**-shifts) / balance
    most = float(max(most_of_rows.max(), most_of_columns.max()))
    # What a factor is rounded up by, and how coarse a step of the shift is.
    room = MAX_FACTOR - 1 - 2.0 ** float(shifts.max())
    return int(np.ceil(2 * np.log2(most / room))) if most > 0 else MIN_EXPONENT


def _levels(factors: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    means = np.maximum(np.abs(factors).mean(axis=1), 2.0**-4)
    levels: npt.NDArray[np.uint8] = np.round(_LEVEL_OF_ONE + _LEVEL_STEPS * np.log2(means)).astype(np.uint8)
    return levels
