"""How large the elements of each row and of each column are: half octaves of their means.

A model of independent rows and columns: the mean of an element's magnitude is a number of its row times a number of its
column. On fine-tunes this is worth 1 to 10 % of float32 and up to 25 % of float16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["STEPS", "Scales", "fit_scales", "half_octaves"]

# Levels per octave. Coarser ones cost 0.3 % more, finer ones gain less than they cost.
STEPS: Final = 2
# Passes over rows and columns in turn; a fourth changed nothing.
_PASSES = 3
# Rows and columns are told apart over so many octaves; what is smaller hardly has a bit left.
_RANGE = 24 * STEPS

# Beyond these, sums and quotients of floats of 4 bytes may be none.
_LARGE, _TINY = 1e30, 1e-30

Singles = npt.NDArray[np.float32]
Levels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scales:
    """Half octaves of a matrix: one for all, and what rows and columns add to it, which is not negative."""

    level: int
    rows: Levels
    columns: Levels

    def octaves_above(self, floor: int) -> float:
        """Return by how many octaves elements are above a level, on average; those below it are not above it."""
        of_rows, of_columns = np.bincount(self.rows), np.bincount(self.columns)
        levels = self.level - floor + np.arange(len(of_rows))[:, None] + np.arange(len(of_columns))
        weights = of_rows[:, None] * of_columns
        return float((np.maximum(levels, 0) * weights).sum() / weights.sum()) / STEPS


def half_octaves(magnitude: float) -> int:
    """Return the logarithm of a magnitude above 0 in half octaves."""
    return round(STEPS * float(np.log2(magnitude)))


def fit_scales(magnitudes: Singles) -> Scales | None:
    """Return how large rows and columns are, None if all is zero.

    Args:
        magnitudes: of the elements, rows by columns; finite and not negative.
    """
    rows, columns = magnitudes.shape
    peak = float(magnitudes.max())
    if peak <= _TINY:
        return None
    # Where some are nearly as large as floats can be, their sums would be infinite.
    scaled: Singles = magnitudes if peak < _LARGE else magnitudes / np.float32(peak)
    of_columns: Singles = np.ones(columns, np.float32)
    for _ in range(_PASSES):
        of_rows: Singles = scaled @ _inverse(of_columns) / np.float32(columns)
        of_columns = _inverse(of_rows) @ scaled / np.float32(rows)
    rows_level, row_levels = _levels(of_rows)
    columns_level, column_levels = _levels(of_columns)
    unit = 0 if scaled is magnitudes else half_octaves(peak)
    return Scales(unit + rows_level + columns_level, row_levels, column_levels)


def _inverse(scales: Singles) -> Singles:
    found = np.zeros_like(scales)
    np.divide(np.float32(1), scales, out=found, where=scales > _TINY)
    return found


def _levels(scales: Singles) -> tuple[int, Levels]:
    logs = np.full(len(scales), -np.inf)
    np.log2(scales, out=logs, where=scales > _TINY, dtype=np.float64)
    highest = float(logs.max())
    if not np.isfinite(highest):
        return 0, np.zeros(len(scales), np.int64)
    levels = np.round(STEPS * np.maximum(logs, highest - _RANGE / STEPS)).astype(np.int64)
    lowest = int(levels.min())
    return lowest, levels - lowest
