"""Few factors for each row and column whose products come near an update: a truncated singular value decomposition.

The decomposition is found with random projections (Halko, Martinsson, Tropp 2011, "Finding structure with randomness",
algorithms 4.4 and 5.1), and its factors are rounded to whole numbers of about as many bits as they are worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from artifacts.patch.matrix import MAX_EXPONENT, MAX_FACTOR, MAX_FACTORS, MAX_RANK, MIN_EXPONENT

__all__ = ["Decomposition", "Factors", "decompose", "rounded_factors", "worthwhile_rank"]

# Random directions beyond the rank that is wanted, and multiplications by the matrix and its transpose.
_OVERSAMPLING = 8
_POWERS = 2
# What a factor takes in a patch when it is rounded as below, in bits.
FACTOR_BITS = 4.5
# Bits of a typical factor beside those by which the update is greater than what is left of it.
_EXTRA_BITS = 1.5
_MIN_BITS, _MAX_BITS = 3, 21
# Below this many rows or columns, factors cost more than they tell.
_MIN_SIDE = 8

Singles = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Decomposition:
    """The largest parts of a matrix: left vectors by columns, values in falling order, right vectors by rows.

    ``energy`` is the sum of squares of the whole matrix.
    """

    left: Singles
    values: Doubles
    right: Singles
    energy: float


@dataclass(frozen=True, slots=True)
class Factors:
    """Whole numbers for each row and each column; the products' sums count in units of ``2 ** exponent``."""

    rows: Doubles
    columns: Doubles
    exponent: int


def decompose(update: Singles, max_rank: int = MAX_RANK) -> Decomposition | None:
    """Return the largest parts of a matrix, None if it is too small to have any that are worth it.

    Args:
        update: finite numbers, rows by columns.
        max_rank: how many parts at most.
    """
    rows, columns = update.shape
    rank = min(max_rank, MAX_RANK, min(rows, columns) // 2, MAX_FACTORS // (rows + columns))
    if rank < 1 or min(rows, columns) < _MIN_SIDE:
        return None
    size = float(np.abs(update).max())
    if size == 0:
        return None
    # The seed is fixed: the same files make the same patch.
    directions = np.random.default_rng(0).standard_normal((columns, rank + _OVERSAMPLING), np.float32)
    scaled: Singles = update / np.float32(size)
    basis = _orthonormal(scaled @ directions)
    for _ in range(_POWERS):
        basis = _orthonormal(scaled @ _orthonormal(scaled.T @ basis))
    left, values, right = np.linalg.svd((basis.T @ scaled).astype(np.float64), full_matrices=False)
    energy = float(np.vdot(scaled, scaled)) * size**2
    return Decomposition((basis @ left)[:, :rank].astype(np.float32), values[:rank] * size, right[:rank], energy)


def _orthonormal(vectors: npt.NDArray[Any]) -> Singles:
    basis, _ = np.linalg.qr(vectors)
    return basis.astype(np.float32, copy=False)


def worthwhile_rank(parts: Decomposition, floor: float) -> int:
    """Return how many parts save more than their factors cost.

    Args:
        parts: of the update.
        floor: sum of squares of what no prediction takes away: the rounding of the elements.
    """
    left = np.maximum(parts.energy - np.cumsum(parts.values**2), 0.0) + floor
    before = np.concatenate([[parts.energy + floor], left[:-1]])
    rows, columns = parts.left.shape[0], parts.right.shape[1]
    saved = 0.5 * np.log2(before / np.maximum(left, 1e-300)) * rows * columns
    worth = np.cumsum(saved - FACTOR_BITS * (rows + columns))
    best = int(worth.argmax())
    return best + 1 if worth[best] > 0 else 0


def rounded_factors(parts: Decomposition, rank: int, floor: float) -> Factors | None:
    """Return the first ``rank`` parts as whole numbers; None if they do not fit into what a factor may be.

    Args:
        parts: of the update.
        rank: at least 1.
        floor: as of `worthwhile_rank`.
    """
    root = np.sqrt(parts.values[:rank])
    rows, columns = parts.left[:, :rank] * root, parts.right[:rank].T * root
    of_rows, of_columns = float(np.abs(rows).mean()), float(np.abs(columns).mean())
    if not (of_rows > 0 and of_columns > 0):
        return None
    left = max(parts.energy - float((parts.values[:rank] ** 2).sum()), 0.0) + floor
    bits = 0.5 * np.log2(parts.energy / max(left, parts.energy * 1e-13)) + _EXTRA_BITS
    # A typical factor is then half of 2^bits, and the unit of the products a power of two.
    exponent = round(float(np.log2(of_rows) + np.log2(of_columns) - 2 * (min(max(bits, _MIN_BITS), _MAX_BITS) - 1)))
    unit = 2.0 ** (exponent / 2)
    balance = (of_columns / of_rows) ** 0.5
    whole = Factors(np.round(rows * (balance / unit)), np.round(columns / (balance * unit)), exponent)
    if not MIN_EXPONENT <= exponent <= MAX_EXPONENT:
        return None
    if max(np.abs(whole.rows).max(), np.abs(whole.columns).max()) >= MAX_FACTOR:
        return None
    return whole
