"""How much two tensors of one type have in common: the bits that their differences need, from a few samples.

Floats are compared as the codec codes them: their bits, mapped to integers that rise with the number, so that a small
change of a weight is a small difference whatever its exponent.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from artifacts.patch.matrix import converted
from artifacts.patch.weights.tensor import WIDTHS, Tensor

# Elements of a tensor that are looked at, in runs: the mean of their logarithms is then right to a tenth of a bit.
SAMPLES = 1024
_RUN = 64

# Of 64-bit elements the lowest bits do not matter here, and differences of the others do not overflow.
_DROPPED_BITS = 2

_UNSIGNED = {1: "<u1", 2: "<u2", 4: "<u4", 8: "<u8"}

Ordered = NDArray[np.int64]
View = Callable[[int, int], memoryview]


def is_float(dtype: str) -> bool:
    """Tell whether a type of elements is one of floats."""
    return dtype in ("f16", "bf16", "f32", "f64")


def bits(view: View, tensor: Tensor, first: int = 0, count: int | None = None) -> NDArray[np.unsignedinteger]:
    """Return elements of a tensor as unsigned integers, without a copy.

    Args:
        view: returns the bytes at a start and of a length.
        tensor: whose elements are wanted.
        first: the first of them.
        count: how many; all that follow if None.
    """
    count = tensor.count - first if count is None else count
    piece = view(tensor.start + first * tensor.width, count * tensor.width)
    return np.frombuffer(piece, np.dtype(_UNSIGNED[tensor.width]))


def ordered(raw: NDArray[np.unsignedinteger], dtype: str) -> Ordered:
    """Return integers that are in the order of the numbers that these bits stand for."""
    width = raw.dtype.itemsize
    wide = raw.astype(np.uint64)
    sign = np.uint64(1 << (8 * width - 1))
    if is_float(dtype):
        wide = np.where(wide & sign, ~wide & (sign | (sign - np.uint64(1))), wide | sign)
    elif dtype.startswith("i"):
        wide ^= sign
    return (wide >> np.uint64(_DROPPED_BITS if width == 8 else 0)).astype(np.int64)


def sample(view: View, tensor: Tensor, first: int = 0, count: int | None = None, dtype: str = "") -> Ordered:
    """Return a sample of a tensor's elements, in order: the same places for the same ``count``.

    Args:
        view: returns the bytes at a start and of a length.
        tensor: whose elements are wanted.
        first: the first of those to choose from.
        count: how many there are to choose from; all that follow if None.
        dtype: a type of floats to convert other floats to first; none if it is empty or the tensor's own.
    """
    count = tensor.count - first if count is None else count
    if count <= SAMPLES:
        raw = bits(view, tensor, first, count)
    else:
        starts = np.linspace(0, count - _RUN, SAMPLES // _RUN).astype(int)
        raw = np.concatenate([bits(view, tensor, first + int(start), _RUN) for start in starts])
    if dtype and dtype != tensor.dtype:
        raw = converted(raw, tensor.dtype == "bf16", WIDTHS[dtype], dtype == "bf16")
    return ordered(raw, dtype or tensor.dtype)


def cost(one: Ordered, other: Ordered) -> float:
    """Return the bits that an element's difference needs, on average."""
    if not len(one):
        return 0.0
    return float(np.log2(1.0 + np.abs(one - other)).mean())


def unrelated_cost(one: Ordered) -> float:
    """Return the cost against elements that have the same distribution and nothing else in common: its own, moved."""
    if len(one) < 2:
        return 64.0
    # Far enough that neighbours, which are often alike, do not meet.
    return cost(one, np.roll(one, len(one) // 2 + 1))
