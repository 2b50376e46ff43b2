"""What decoding a patch costs in time, counted in units of some microseconds of a reference decoder.

Operations could make nearly nothing at great cost: bytes one by one, frames of five bytes, tables that nothing uses. So
each step has a price, and there are only so many units for the bytes that are made. An honest patch uses a small part.
"""

from __future__ import annotations

from typing import Final

from artifacts.errors import PatchInvalid
from artifacts.patch.matrix import Matrix

__all__ = ["Work"]

# The first units are free, so that small files may consist of small pieces; then each stands for so many bytes made.
ALLOWED_UNITS: Final = 1 << 18
BYTES_PER_UNIT: Final = 16

# The price of a copy and the like; of elements, a table, a matrix or a deflated member; and of a frame.
OPERATION_UNITS: Final = 1
ELEMENTS_UNITS: Final = 16
FRAME_UNITS: Final = 4
# A segment of a deflated member may be all that is written at once.
SEGMENT_UNITS: Final = 64
# What a unit buys: bytes of a prefix, factors of a matrix, and products of two of them.
PREFIX_BYTES_PER_UNIT: Final = 4096
FACTORS_PER_UNIT: Final = 64
PRODUCTS_PER_UNIT: Final = 4096


class Work:
    """Counts the units of one patch.

    Args:
        target_length: of the file that it makes, in bytes.

    Raises:
        PatchInvalid: from every method, when more would be spent than is allowed.
    """

    def __init__(self, target_length: int) -> None:
        self.spent = 0
        self._allowed = ALLOWED_UNITS + target_length // BYTES_PER_UNIT

    def operation(self) -> None:
        """Count an operation on bytes."""
        self._spend(OPERATION_UNITS)

    def elements(self) -> None:
        """Count an operation on elements, or a table."""
        self._spend(ELEMENTS_UNITS)

    def deflate(self, raw_length: int) -> None:
        """Count a deflated member, whose bytes are made too."""
        self._allowed += raw_length // BYTES_PER_UNIT
        self._spend(ELEMENTS_UNITS)

    def segment(self) -> None:
        """Count what a patch says of how some bytes of a deflated member are written."""
        self._spend(SEGMENT_UNITS)

    def frame(self) -> None:
        """Count a frame."""
        self._spend(FRAME_UNITS)

    def prefix(self, length: int) -> None:
        """Count what a frame's prefix of so many bytes costs beside the frame."""
        self._spend(FRAME_UNITS + length // PREFIX_BYTES_PER_UNIT)

    def matrix(self, matrix: Matrix) -> None:
        """Count what the rows and columns of a matrix have."""
        sides = (matrix.rows + matrix.columns) * (matrix.rank + 1) if matrix.has_sides else 0
        self._spend(ELEMENTS_UNITS + sides // FACTORS_PER_UNIT)

    def prediction(self, matrix: Matrix, count: int) -> None:
        """Count the products for a block of elements."""
        self._spend(count * matrix.rank // PRODUCTS_PER_UNIT)

    def arranged(self, length: int) -> None:
        """Count what it takes to find a block's elements among so many bytes of a base in another order."""
        self._spend(length // PREFIX_BYTES_PER_UNIT)

    def go_on_from(self, spent: int, raw_length: int) -> None:
        """Take over what another counter had counted, whose deflated members had so many bytes."""
        self._allowed += raw_length // BYTES_PER_UNIT
        # What was read again on the way here was counted before.
        self.spent = spent

    def _spend(self, units: int) -> None:
        self.spent += units
        if self.spent > self._allowed:
            raise PatchInvalid("the patch takes too many steps for what it makes")
