"""By what rows or columns of a tensor were multiplied: exports that fold batch normalisation into weights do that.

A training step changes the statistics that a layer is normalised by, and with them every weight of a channel by one
factor, which hides how little the weights themselves changed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["GAIN_BITS", "SIDES", "GainSums"]

# What a gain takes in a patch: of its 32 bits most are noise.
GAIN_BITS = 28

# What may have gains of its own.
SIDES = ("all", "rows", "columns")

Doubles = npt.NDArray[np.float64]


class GainSums:
    """Sums of squares and products of a tensor and its base, by rows and columns: a least-squares fit needs no more.

    Args:
        split: rows and columns.
    """

    def __init__(self, split: tuple[int, int]) -> None:
        self._split = split
        # Of target by target, target by base, base by base.
        self._rows = np.zeros((3, split[0]))
        self._columns = np.zeros((3, split[1]))

    def add(self, target: npt.NDArray[Any], base: npt.NDArray[Any], row: int) -> None:
        """Take the elements of whole rows from ``row`` on."""
        new, old = (values.astype(np.float64).reshape(-1, self._split[1]) for values in (target, base))
        with np.errstate(over="ignore"):
            for place, (one, other) in enumerate(((new, new), (new, old), (old, old))):
                self._rows[place, row : row + len(new)] = np.einsum("ij,ij->i", one, other)
                self._columns[place] += np.einsum("ij,ij->j", one, other)

    def gains(self, side: str) -> npt.NDArray[np.float32]:
        """Return the gains of rows or columns, or one that all rows have."""
        _, product, square = self._of(side)
        gains = np.ones(len(square))
        np.divide(product, square, out=gains, where=square > 0)
        with np.errstate(over="ignore"):
            single = gains.astype(np.float32)
        found = np.where(np.isfinite(single), single, np.float32(1))
        return np.repeat(found, self._split[0]) if side == "all" else found

    def saved_bits(self, side: str, rounding: float) -> float:
        """Return about how many bits gains save, beside what they take.

        Args:
            side: one of `SIDES`.
            rounding: sum of squares of what rounding adds to all elements.
        """
        new, product, old = self._of(side)
        each = self._split[0] * self._split[1] / len(new)
        floor = rounding / len(new) + 1e-300
        with np.errstate(over="ignore", invalid="ignore"):
            without = np.maximum(new - 2 * product + old, 0.0) + floor
            fitted = np.maximum(new - np.divide(product**2, old, out=np.zeros(len(old)), where=old > 0), 0.0) + floor
            saved = 0.5 * each * np.log2(without / fitted) - GAIN_BITS
        return float(saved.sum()) if np.isfinite(saved).all() else 0.0

    def _of(self, side: str) -> Doubles:
        if side == "all":
            return np.asarray(self._rows.sum(axis=1, keepdims=True))
        return self._columns if side == "columns" else self._rows
