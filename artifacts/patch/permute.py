"""Which old tensor a new one is the same as, or nearly, but for the order of its dimensions; from samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artifacts.patch.axes import MAX_AXES, Axes
from artifacts.patch.opened import Opened
from artifacts.patch.similarity import SAMPLES, cost, ordered, unrelated_cost
from artifacts.patch.tensors import Tensor

__all__ = ["Permuted"]

# Bits that an element must gain: what is unrelated gains a fraction of one.
_GAIN = 1.0
# Old tensors with the same dimensions that are tried, those with the same name first.
_MAX_TRIED = 16

_Key = tuple[str, tuple[int, ...]]


class Permuted:
    """The tensors of the base, by their dimensions in whatever order.

    Args:
        old: the base.
        new: the target.
    """

    def __init__(self, old: Opened, new: Opened) -> None:
        self._old, self._new = old, new
        self._known: dict[_Key, list[Tensor]] = defaultdict(list)
        for tensor in old.tensors:
            if (key := _key(tensor)) is not None:
                self._known[key].append(tensor)

    def base(self, tensor: Tensor) -> tuple[Tensor, Axes] | None:
        """Return the old tensor that a new one comes from, with the order of its dimensions; None if there is none."""
        key = _key(tensor)
        candidates = self._known.get(key, []) if key is not None else []
        if not candidates:
            return None
        places = np.unique(np.linspace(0, tensor.count - 1, SAMPLES).astype(np.int64))
        new = _sample(self._new, tensor, places)
        unrelated = unrelated_cost(new)
        best: tuple[float, tuple[Tensor, Axes]] | None = None
        for base in sorted(candidates, key=lambda one: one.name != tensor.name)[:_MAX_TRIED]:
            for axes in _axes(_long(tensor), _long(base)):
                gain = unrelated - cost(new, _sample(self._old, base, axes.places(places)))
                if gain > _GAIN and (best is None or gain > best[0]):
                    best = gain, (base, axes)
        return None if best is None else best[1]


def _long(tensor: Tensor) -> tuple[int, ...]:
    """Return the dimensions that are longer than one: the order of the others makes no difference."""
    return tuple(size for size in tensor.shape if size != 1)


def _key(tensor: Tensor) -> _Key | None:
    sizes = _long(tensor)
    if not 2 <= len(sizes) <= MAX_AXES or np.prod(sizes, dtype=object) != tensor.count:
        return None
    return tensor.dtype, tuple(sorted(sizes))


def _axes(new: Sequence[int], old: Sequence[int]) -> Iterator[Axes]:
    """Yield the orders of the new dimensions, other than their own, in which they have the old sizes."""
    for order in permutations(range(len(new))):
        if list(order) != sorted(order) and [new[axis] for axis in order] == list(old):
            yield Axes(tuple(new), order)


def _sample(opened: Opened, tensor: Tensor, places: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    content = opened.content[tensor.start : tensor.start + tensor.length]
    return ordered(np.frombuffer(content, f"<u{tensor.width}")[places], tensor.dtype)
