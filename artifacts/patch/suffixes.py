"""The longest equal stretches between files of a few MB: by sorting all their suffixes.

Suffixes are sorted by their first 64 bytes, doubling what is compared from 4 (Manber and Myers 1990); two that agree in
64 bytes are found by any of their places, and made as long as they are by whoever asks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from artifacts.patch.alignments import Bytes, Places

__all__ = ["DEPTH", "RESULT_BYTES", "SORT_BYTES", "Near", "Nearest", "nearest"]

DEPTH = 64
# What sorting takes, for each byte of the text, and what the result takes, for each of the second part.
SORT_BYTES = 46
RESULT_BYTES = 100

# Places that are compared at a time.
_PIECE = 1 << 15
_NONE = np.zeros(0, np.int32)
# Where so many bytes occur once in the first part, that place says where to expect what follows.
_TELLING_BYTES = 16
# So many bytes are looked for where they are expected.
_EXPECTED_BYTES = (8, 16)


@dataclass(frozen=True, slots=True)
class Near:
    """What agrees with each place of the second part.

    Attributes:
        places: in the base, or numbers of the second part's bytes; -1 if there is none.
        lengths: in how many bytes, up to `DEPTH`.
    """

    places: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Nearest:
    """What agrees with each place of the second part of a text.

    Attributes:
        longest: in the first part, the neighbours in the order of the suffixes.
        expected: in the first part, occurrences that are nearest to where they are expected.
        own: an earlier place in the second part.
    """

    longest: tuple[Near, ...]
    expected: tuple[Near, ...]
    own: Near

    def best(self) -> Places:
        """Return in how many bytes each place agrees with one in the first part."""
        best = self.longest[0].lengths
        for near in self.longest[1:]:
            best = np.maximum(best, near.lengths)
        return best.astype(np.int64)


def nearest(text: Bytes, old_places: Places, places: Places) -> Nearest:
    """Return what agrees with each place of the second part of ``text``.

    Args:
        text: two parts, of bytes from two files.
        old_places: of the first part's bytes in their file, ascending.
        places: of the second part's bytes in theirs.
    """
    border = len(old_places)
    padded = np.concatenate((text, np.zeros(DEPTH + 8, np.uint8)))
    words = np.ndarray((len(text) + DEPTH,), ">u8", padded, 0, (1,))
    second = np.arange(border, len(text))
    all_places = np.concatenate((old_places.astype(np.int32), np.arange(len(places), dtype=np.int32)))

    def near(found: Places | npt.NDArray[np.int32]) -> Near:
        lengths = _agreeing(words, second, found)
        in_file = np.where(found < 0, np.int32(-1), all_places[found])
        return Near(in_file, lengths)

    order = _Order(padded, len(text), border)
    earlier = np.full(len(second), -1)
    shifts: tuple[Places, ...] = ()
    expected = []
    while True:
        order.note_earlier(earlier)
        if order.length == _TELLING_BYTES:
            shifts = order.telling(old_places, places)
        if order.length >= DEPTH or order.all_differ():
            break
        order.double()
    longest = tuple(map(near, order.neighbours()))
    del order
    if shifts:
        # The order by few bytes is made anew instead of being kept all the time.
        again = _Order(padded, len(text), border)
        while again.length <= max(_EXPECTED_BYTES):
            if again.length in _EXPECTED_BYTES:
                expected += [near(again.expected(np.searchsorted(old_places, places + shift))) for shift in shifts]
            again.double()
    return Nearest(longest, tuple(expected), near(earlier))


class _Order:
    """The suffixes of a text in the order of their first bytes, and of their places where those are equal."""

    def __init__(self, padded: Bytes, count: int, border: int) -> None:
        self._count, self._border = count, border
        self.length = 4
        self._keys: npt.NDArray[np.unsignedinteger] = np.ndarray((count,), ">u4", padded, 0, (1,)).astype(np.uint32)
        self._sort()

    def _sort(self) -> None:
        self._order = np.argsort(self._keys, kind="stable").astype(np.int32)
        ordered = self._keys[self._order]
        self._keys = ordered[:0]
        self._fresh = np.ones(self._count, np.bool_)
        self._fresh[1:] = ordered[1:] != ordered[:-1]

    def all_differ(self) -> bool:
        return bool(self._fresh.all())

    def double(self) -> None:
        """Sort by twice as many bytes."""
        rank = np.empty(self._count, np.uint32)
        rank[self._order] = np.cumsum(self._fresh, dtype=np.uint32)
        self._keys = rank.astype(np.uint64)
        self._keys *= np.uint64(self._count + 1)
        self._keys[: -self.length] += rank[self.length :]
        del rank
        self.length *= 2
        self._sort()

    def note_earlier(self, earlier: Places) -> None:
        """Note for each place of the second part the last one before it that is equal so far."""
        same = np.flatnonzero(~self._fresh[1:] & (self._order[:-1] >= self._border))
        earlier[self._order[same + 1] - self._border] = self._order[same]

    def neighbours(self) -> tuple[Places, Places]:
        """Return for each place of the second part the places of the first that are next to it in the order."""
        at = np.arange(self._count, dtype=np.int32)
        is_first = self._order < self._border
        last = np.maximum.accumulate(np.where(is_first, at, -1))
        following = np.minimum.accumulate(np.where(is_first, at, self._count)[::-1])[::-1]
        wanted = np.flatnonzero(~is_first)
        found = []
        for neighbour in (last[wanted], following[wanted]):
            there = (neighbour >= 0) & (neighbour < self._count)
            places = np.full(len(wanted), -1)
            places[self._order[wanted] - self._border] = np.where(
                there, self._order[np.clip(neighbour, 0, self._count - 1)], -1
            )
            found.append(places)
        return found[0], found[1]

    def _groups(self) -> tuple[Places, Places, Places]:
        """Return for each place of the second part where its equals of the first are in the order, to which end."""
        wanted = np.flatnonzero(self._order >= self._border)
        back = np.empty(len(wanted), np.int64)
        back[self._order[wanted] - self._border] = wanted
        starts = np.flatnonzero(self._fresh).astype(np.int32)
        in_first = np.cumsum(self._order < self._border, dtype=np.int32)
        # Before each group, and before the end.
        before = np.concatenate(([0], in_first[starts[1:] - 1], in_first[-1:]))
        group = (np.cumsum(self._fresh, dtype=np.int32) - 1)[back]
        first = starts[group].astype(np.int64)
        return first, first + (before[group + 1] - before[group]), back

    def telling(self, old_places: Places, places: Places) -> tuple[Places, ...]:
        """Return where to expect each place, relative to it: by the last and by the next that occurs only once."""
        first, end, _ = self._groups()
        single = np.flatnonzero(end - first == 1)
        if not len(single):
            return ()
        shifts = old_places[self._order[first[single]]] - places[single]
        after = np.searchsorted(single, np.arange(len(places)), side="right")
        return shifts[np.maximum(after - 1, 0)], shifts[np.minimum(after, len(single) - 1)]

    def expected(self, wished: Places) -> npt.NDArray[np.int32]:
        """Return for each place of the second part its equal in the first part that is nearest to ``wished``."""
        first, end, _ = self._groups()
        return _by_pieces(self._nearest, first, end, wished)

    def _nearest(self, first: Places, end: Places, wished: Places) -> npt.NDArray[np.int32]:
        """Return, of the places from ``first`` to ``end`` in the order, the nearest to ``wished``; -1 without any."""
        low, high = first.copy(), end.copy()
        while (low < high).any():
            middle = (low + high) >> 1
            before = (low < high) & (self._order[np.minimum(middle, self._count - 1)] < wished)
            low, high = np.where(before, middle + 1, low), np.where(before, high, np.minimum(middle, high))
        after = np.minimum(low, end - 1)
        previous = np.maximum(low - 1, first)
        there = end > first
        after, previous = np.where(there, after, 0), np.where(there, previous, 0)
        nearer = np.abs(self._order[previous] - wished) < np.abs(self._order[after] - wished)
        return np.where(there, np.where(nearer, self._order[previous], self._order[after]), np.int32(-1))


def _by_pieces(
    found: Callable[..., npt.NDArray[np.int32]], first: Places, *others: npt.NDArray[Any]
) -> npt.NDArray[np.int32]:
    """Return what is found of arrays of one length, some places at a time: it takes several times their memory."""
    pieces = [slice(start, start + _PIECE) for start in range(0, len(first), _PIECE)]
    return np.concatenate([_NONE, *(found(first[one], *(other[one] for other in others)) for one in pieces)])


def _agreeing(
    words: npt.NDArray[np.uint64], ones: Places, others: Places | npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    """Return in how many bytes, up to `DEPTH`, the places agree; 0 where the other is negative."""
    return _by_pieces(partial(_agreeing_piece, words), ones, others)


def _agreeing_piece(
    words: npt.NDArray[np.uint64], ones: Places, others: Places | npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    length = np.zeros(len(ones), np.int32)
    active = np.flatnonzero(others >= 0)
    for done in range(0, DEPTH, 8):
        differs = words[ones[active] + done] ^ words[others[active] + done]
        whole = differs == 0
        # The highest byte that differs is the first in the file.
        part = differs[~whole].astype(np.uint64)
        equal = np.zeros(len(part), np.int64)
        for byte in range(1, 8):
            equal += part < np.uint64(1 << (64 - 8 * byte))
        length[active[~whole]] = done + equal
        active = active[whole]
        length[active] = done + 8
    return length
