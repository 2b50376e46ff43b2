"""Elements whose dimensions are in another order than those of their base: a matrix transposed, channels first or last.

Exporters choose the order in which they write weights: one multiplies by a matrix, the next by its transpose, and where
one has the channels of an image behind everything else, another has them before.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_AXES", "Axes"]

# Weights have no more dimensions that are longer than one; of volumes they have five, which are rare.
MAX_AXES = 5
# Elements: their places have 4 bytes each in a decoder.
MAX_ELEMENTS = (1 << 31) - 1
# Elements whose places are computed at a time.
_CHUNK = 1 << 13

Places = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Axes:
    """How dimensions are arranged.

    Attributes:
        sizes: of the target's dimensions, from the outside in.
        order: which of them is the base's outermost one, and so on.

    Raises:
        ValueError: they do not fit each other.
    """

    sizes: tuple[int, ...]
    order: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.sizes) <= MAX_AXES or min(self.sizes) < 1:
            raise ValueError("the number of dimensions, or a size of one, is out of bounds")
        if sorted(self.order) != list(range(len(self.sizes))):
            raise ValueError("the order of dimensions does not name each of them once")
        if self.count > MAX_ELEMENTS:
            raise ValueError("dimensions have too many elements")

    @property
    def count(self) -> int:
        """How many elements there are."""
        return prod(self.sizes)

    def places(self, elements: npt.NDArray[np.integer[Any]]) -> Places:
        """Return the places in the base of elements of the target."""
        strides, stride = [0] * len(self.order), 1
        for axis in reversed(self.order):
            strides[axis], stride = stride, stride * self.sizes[axis]
        found, left = np.zeros(len(elements), np.int32), elements.astype(np.int64)
        for size, of_axis in zip(reversed(self.sizes), reversed(strides), strict=True):
            left, index = np.divmod(left, size)
            found += (index * of_axis).astype(np.int32)
        return found

    def places_of_run(self, start: int, count: int) -> Places:
        """Return the places in the base of a run of elements of the target, in little memory beside them."""
        found = np.empty(count, np.int32)
        for at in range(0, count, _CHUNK):
            stop = min(at + _CHUNK, count)
            found[at:stop] = self.places(np.arange(start + at, start + stop))
        return found

    def arranged(self, base: memoryview, width: int) -> bytes:
        """Return elements of the base, of some bytes each, in the order of the target."""
        elements = np.frombuffer(base, f"<u{width}").reshape([self.sizes[axis] for axis in self.order])
        return elements.transpose(np.argsort(self.order)).tobytes()
