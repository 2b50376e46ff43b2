"""Where blocks of one file lie in another, by hashes: every so many bytes of the one, at every byte of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from artifacts.patch.alignments import Bytes, Places

Words = npt.NDArray[np.uint64]

# A block is found wherever an equal stretch holds one that begins at a multiple of the stride: in all of 47 bytes.
BLOCK_BYTES = 32
STRIDE_BYTES = 16
# Hashes that are computed at a time; each takes some 30 bytes.
_CHUNK = 1 << 14

# An odd number without a pattern: the golden ratio's first 64 bits.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
# Bits of a filter for each of its hashes, and the bounds of all of them.
_FILTER_SPREAD_LOG = 3
_MIN_FILTER_LOG, _MAX_FILTER_LOG = 16, 26
# The bit of a byte for each number of three bits.
_BITS = (1 << np.arange(8)).astype(np.uint8)

# Places up to here have four bytes in the index.
_MAX_SHORT_PLACE = (1 << 32) - 1


def hashes(data: Bytes, start: int, count: int, stride: int) -> Words:
    """Return the hashes of ``count`` blocks, the first at ``start``, each ``stride`` bytes after the one before."""
    result = np.zeros(count, np.uint64)
    for word in range(0, BLOCK_BYTES, 8):
        result *= _MULTIPLIER
        result += np.ndarray((count,), "<u8", data, start + word, (stride,))
        result ^= result >> np.uint64(29)
    return result * _MULTIPLIER


def blocks(source: Bytes, worked: Callable[[int], None]) -> Iterator[tuple[int, Words]]:
    """Yield the hashes of the blocks that begin at multiples of the stride, each time with the number of the first one.

    Args:
        source: the bytes.
        worked: is told after how many further bytes were seen, and their hashes used.
    """
    count = block_count(source)
    for first in range(0, count, _CHUNK):
        some = min(_CHUNK, count - first)
        yield first, hashes(source, first * STRIDE_BYTES, some, STRIDE_BYTES)
        worked(some * STRIDE_BYTES)


def block_count(source: Bytes) -> int:
    """Return how many blocks begin at multiples of the stride."""
    return max(0, (len(source) - BLOCK_BYTES) // STRIDE_BYTES + 1)


class HashFilter:
    """Tells of most hashes that they are not among some (Bloom 1970, with one bit for each).

    Args:
        count: of the hashes that will be added.
        skipped: upper bits of a hash that it does not look at: filters that skip different ones err independently.
    """

    def __init__(self, count: int, skipped: int = 0) -> None:
        log = min(max(_MIN_FILTER_LOG, count.bit_length() + _FILTER_SPREAD_LOG), _MAX_FILTER_LOG)
        self._up, self._down = np.uint64(skipped), np.uint64(64 - log)
        self._bits = np.zeros(1 << (log - 3), np.uint8)

    def add(self, found: Words) -> None:
        """Add hashes."""
        bytes_, bits = self._places(found)
        np.bitwise_or.at(self._bits, bytes_, bits)

    def __call__(self, found: Words) -> npt.NDArray[np.bool_]:
        """Return which hashes may be among those that were added."""
        bytes_, bits = self._places(found)
        return np.asarray(self._bits[bytes_] & bits != 0)

    def _places(self, found: Words) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint8]]:
        places = (found << self._up >> self._down).astype(np.intp)
        return places >> 3, _BITS[places & 7]


class BlockIndex:
    """The places in a source at which blocks with a hash begin.

    Args:
        source: the bytes.
        worked: is told after how many further bytes of them it has seen; they are not looked at again.
    """

    def __init__(self, source: Bytes, worked: Callable[[int], None]) -> None:
        count = block_count(source)
        found = np.empty(count, np.uint64)
        for first, some in blocks(source, worked):
            found[first : first + len(some)] = some
        order = np.argsort(found, kind="stable")
        self._hashes = found[order]
        del found
        self._places: npt.NDArray[Any] = order.astype(np.uint32 if len(source) <= _MAX_SHORT_PLACE else np.int64)
        del order
        self._places *= STRIDE_BYTES
        self._filter = HashFilter(count)
        for first in range(0, count, _CHUNK):
            self._filter.add(self._hashes[first : first + _CHUNK])

    def anchors(
        self, target: Bytes, start: int, end: int, wanted: Callable[[int, int], npt.NDArray[np.bool_]]
    ) -> Iterator[tuple[Places, Places]]:
        """Yield places in the target, ascending, with places in the source that have the same hash.

        Of several, the one is taken that is nearest to the distance of the last place that had only one.

        Args:
            target: where to look.
            start: the first place.
            end: behind the last byte.
            wanted: says of the places from one to another whether anything is to be found for them. It is asked when
                all places before them were yielded.
        """
        if not len(self._places):
            return
        shift = 0
        for chunk in range(start, end - BLOCK_BYTES + 1, _CHUNK):
            places = np.flatnonzero(wanted(chunk, min(chunk + _CHUNK, end - BLOCK_BYTES + 1)))
            if not len(places):
                continue
            seen = hashes(target, chunk, int(places[-1]) + 1, 1)[places]
            likely = np.flatnonzero(self._filter(seen))
            likely, seen = places[likely], seen[likely]
            first = np.searchsorted(self._hashes, seen)
            found = self._hashes[np.minimum(first, len(self._hashes) - 1)] == seen
            if not found.any():
                continue
            first = first[found]
            last = np.searchsorted(self._hashes, seen[found], side="right") - 1
            targets = likely[found] + chunk
            sources, shift = self._nearest(targets, first, last, shift)
            yield targets, sources

    def _nearest(self, targets: Places, first: Places, last: Places, shift: int) -> tuple[Places, int]:
        single = np.flatnonzero(first == last)
        shifts = np.concatenate(([shift], self._places[first[single]] - targets[single]))
        nearby = np.cumsum(first == last)
        wished = targets + shifts[nearby]
        low, high = first.copy(), last.copy()
        while (low < high).any():
            middle = (low + high) >> 1
            before = self._places[middle] < wished
            low = np.where(before & (low < high), middle + 1, low)
            high = np.where(before, high, middle)
            high = np.maximum(high, low)
        previous = np.maximum(low - 1, first)
        nearer = wished - self._places[previous] < np.abs(self._places[low] - wished)
        return self._places[np.where(nearer, previous, low)].astype(np.int64), int(shifts[-1])
