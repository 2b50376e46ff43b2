"""Parts that two sets of tensors share, wherever they are: found by the exponents of a few elements in a row.

When weights change a little, most of them keep sign and exponent. So a hash over those of a dozen elements in a row
finds the same place in the old file, though its bytes have changed, rows were put before it, or it has another name.
Places are chosen by their hash, on both sides the same ones, so one in thirty-two is enough to find every longer part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from artifacts.patch.similarity import View, bits, is_float, ordered
from artifacts.patch.weights.tensor import Tensor

# Elements that are hashed together: signs and exponents of weights have some three bits of information.
WINDOW = 12
_CHOSEN = 32
# Elements that are hashed at once.
_CHUNK = 1 << 14
# A hash that is in this many places of the old file says nothing: it is of zeros, or of one number repeated.
_MAX_PLACES = 8
# Places that are kept in the index, and looked up for one tensor: those of 500 MB of float32.
_MAX_INDEXED = 4_000_000
# Hits that must agree on how far a part has moved.
_MIN_HITS = 4
MAX_PARTS = 4096
# Elements around the hits that a part may reach: where it goes on, the next hit is a few dozen away.
_REACH = 1 << 16

_SIGNIFICANT = {"f16": 10, "bf16": 7, "f32": 23, "f64": 52, "i8": 4, "u8": 4}
# An odd number without a pattern, and its powers.
_POWERS = {power: np.uint64(pow(0x9E3779B97F4A7C15, power, 1 << 64)) for power in (1, 2, 4)}


_Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Part:
    """A run of elements that is found in an old tensor: where it starts on both sides, and how long it is."""

    start: int
    base: int
    base_start: int
    count: int


class Anchors:
    """An index of the tensors of the old file that have one type of elements.

    Args:
        tensors: the old tensors, all of one type.
        view: returns the bytes of the old file at an address and of a length.
    """

    def __init__(self, tensors: Sequence[Tensor], view: View) -> None:
        self._tensors = tensors
        self._view = view
        hashes: list[NDArray[np.uint64]] = []
        places: list[_Numbers] = []
        owners: list[_Numbers] = []
        left = _MAX_INDEXED
        for number, tensor in enumerate(tensors):
            for found, at in _chosen(tensor, view):
                hashes.append(found)
                places.append(at)
                owners.append(np.full(len(at), number))
                left -= len(at)
            if left < 0:
                break
        self._hashes = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
        order = np.argsort(self._hashes, kind="stable")
        self._hashes = self._hashes[order]
        self._places = (np.concatenate(places) if places else np.empty(0, np.int64))[order]
        self._owners = (np.concatenate(owners) if owners else np.empty(0, np.int64))[order]

    def parts(self, tensor: Tensor, view: View, unrelated: float) -> list[Part]:
        """Return the parts of a new tensor that are in old ones, in order and without overlap.

        Args:
            tensor: the new tensor, of the old ones' type.
            view: returns the bytes of the new file.
            unrelated: bits that an element needs against elements that have nothing in common with it.
        """
        rows = _rows(*self._hits(tensor, view))
        return list(self._parts(rows[:MAX_PARTS], _Extent(tensor, view, self._tensors, self._view, unrelated)))

    def _hits(self, tensor: Tensor, view: View) -> tuple[_Numbers, _Numbers, _Numbers]:
        """Return places of the new tensor that are found, the old tensor of each, and how far it has moved there."""
        found: list[tuple[_Numbers, _Numbers, _Numbers]] = []
        left = _MAX_INDEXED
        for hashes, places in _chosen(tensor, view):
            low = np.searchsorted(self._hashes, hashes, "left")
            counts = np.searchsorted(self._hashes, hashes, "right") - low
            counts[counts > _MAX_PLACES] = 0
            # For each place the entries of the index, one after the other.
            firsts = np.repeat(low - np.cumsum(counts) + counts, counts)
            entries = firsts + np.arange(counts.sum())
            new = np.repeat(places, counts)
            found.append((new, self._owners[entries], self._places[entries] - new))
            left -= len(new)
            if left < 0:
                break
        if not found:
            return (np.empty(0, np.int64),) * 3
        places, owners, shifts = (np.concatenate(column) for column in zip(*found, strict=True))
        return places, owners, shifts

    def _parts(self, rows: list[_Row], extent: _Extent) -> Iterator[Part]:
        if not rows:
            return
        start = extent.before(rows[0], max(0, -rows[0].shift))
        for row, following in pairwise(rows):
            stop, next_start = extent.between(row, following)
            yield row.part(start, stop)
            start = next_start
        last = rows[-1]
        yield last.part(start, extent.behind(last, min(extent.count, self._tensors[last.owner].count - last.shift)))


@dataclass(frozen=True, slots=True)
class _Row:
    """Hits in a row that agree on the old tensor and on how far the elements have moved there."""

    owner: int
    shift: int
    first: int
    last: int

    def part(self, start: int, stop: int) -> Part:
        """Return the part that reaches from ``start`` to ``stop``."""
        return Part(start, self.owner, start + self.shift, stop - start)


class _Extent:
    """How far the parts of one tensor reach beyond the hits that found them: as long as there is a gain.

    Args:
        tensor: the new tensor.
        view: of the new file.
        old: the old tensors.
        old_view: of the old file.
        unrelated: bits that an element needs against unrelated ones.
    """

    def __init__(self, tensor: Tensor, view: View, old: Sequence[Tensor], old_view: View, unrelated: float) -> None:
        self.count = tensor.count
        self._tensor, self._view = tensor, view
        self._old, self._old_view = old, old_view
        # A bit less: elements that have nothing in common must lose, or the end would be where chance puts it.
        self._least = unrelated - 1

    def before(self, row: _Row, limit: int) -> int:
        """Return where a part begins, not before ``limit``; there, if only a few elements would be left out."""
        first = max(limit, row.first - _REACH)
        start = row.first - _best_length(self._gains(row, first, row.first)[::-1])
        return limit if start - limit < WINDOW else start

    def behind(self, row: _Row, limit: int) -> int:
        """Return where a part ends, not behind ``limit``; there, if only a few elements would be left out."""
        stop = row.last + _best_length(self._gains(row, row.last, min(limit, row.last + _REACH)))
        return limit if limit - stop < WINDOW else stop

    def between(self, row: _Row, following: _Row) -> tuple[int, int]:
        """Return where a part ends and where the next one begins."""
        stop = self.behind(row, min(following.first, self._old[row.owner].count - row.shift))
        start = self.before(following, max(row.last, -following.shift))
        if stop <= start and start - stop >= WINDOW:
            return stop, start
        # They meet, or nearly: at the place where both together gain most.
        low, high = min(stop, start), max(stop, start)
        one, other = self._gains(row, low, high), self._gains(following, low, high)
        sums = np.concatenate(([0.0], np.cumsum(one))) + np.concatenate((np.cumsum(other[::-1])[::-1], [0.0]))
        meet = low + int(np.argmax(sums))
        return min(meet, self._old[row.owner].count - row.shift), max(meet, -following.shift)

    def _gains(self, row: _Row, first: int, last: int) -> NDArray[np.float64]:
        """Return for each element from ``first`` to ``last`` the bits that it saves, where the old tensor has one."""
        gains = np.full(last - first, -64.0)
        low, high = max(first, -row.shift), min(last, self._old[row.owner].count - row.shift)
        if high > low:
            dtype = self._tensor.dtype
            new = ordered(bits(self._view, self._tensor, low, high - low), dtype)
            old = ordered(bits(self._old_view, self._old[row.owner], low + row.shift, high - low), dtype)
            gains[low - first : high - first] = self._least - np.log2(1.0 + np.abs(new - old))
        return gains


def _best_length(gains: NDArray[np.float64]) -> int:
    """Return how many of the first elements gain most together."""
    return int(np.argmax(np.concatenate(([0.0], np.cumsum(gains)))))


def _rows(places: _Numbers, owners: _Numbers, shifts: _Numbers) -> list[_Row]:
    """Return the rows of hits in which enough agree, in the order of the new tensor.

    Args:
        places: of the hits in the new tensor, in order.
        owners: the old tensor of each.
        shifts: how far it has moved there.
    """
    # Old tensors are far shorter than 2**40 elements.
    keys, votes = _counted((owners << 40) + shifts)
    # Of several hits in one place, the one that most others agree with.
    order = np.lexsort((keys, -votes, places))
    firsts = np.concatenate(([True], np.diff(places[order]) > 0)) if len(order) else np.empty(0, np.bool_)
    best = order[firsts & (votes[order] >= _MIN_HITS)]
    for _ in range(2):
        # Hits of few that interrupt a row are chance; without them it may be one row.
        edges = np.flatnonzero(np.diff(keys[best])) + 1
        lengths = np.diff(np.concatenate(([0], edges, [len(best)])))
        best = best[np.repeat(lengths >= _MIN_HITS, lengths)]
    edges = np.flatnonzero(np.diff(keys[best])) + 1
    runs = [run for run in np.split(best, edges) if len(run)]
    return [_Row(int(owners[run[0]]), int(shifts[run[0]]), int(places[run[0]]), int(places[run[-1]])) for run in runs]


def _counted(keys: _Numbers) -> tuple[_Numbers, _Numbers]:
    """Return small numbers that stand for the keys, and for each how often its key occurs."""
    _, numbers, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return numbers, counts[numbers]


def _chosen(tensor: Tensor, view: View) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    """Yield, piece by piece, the hashes of a tensor that are chosen, and where they are."""
    if tensor.dtype not in _SIGNIFICANT:
        return
    for first in range(0, tensor.count - WINDOW + 1, _CHUNK):
        count = min(_CHUNK + WINDOW - 1, tensor.count - first)
        hashes = _hashes(bits(view, tensor, first, count), tensor.dtype)
        chosen = np.flatnonzero((hashes >> np.uint64(40)) % np.uint64(_CHOSEN) == 0)
        yield hashes[chosen], chosen + first


def _hashes(raw: NDArray[np.unsignedinteger], dtype: str) -> NDArray[np.uint64]:
    """Return the hash of every window: of signs and exponents, or of the upper halves of small integers."""
    symbols = (raw >> _SIGNIFICANT[dtype]).astype(np.uint64) + np.uint64(1)
    if not is_float(dtype):
        # Rounded, so that a number near zero does not change its upper half with its sign.
        symbols = ((raw.astype(np.uint64) + np.uint64(8)) & np.uint64(0xFF)) >> np.uint64(4)
    symbols = (symbols + np.uint64(1)) * _POWERS[1]
    symbols ^= symbols >> np.uint64(29)
    pairs = symbols[:-1] * _POWERS[1] + symbols[1:]
    fours = pairs[:-2] * _POWERS[2] + pairs[2:]
    eights = fours[:-4] * _POWERS[4] + fours[4:]
    twelves = eights[:-4] * _POWERS[4] + fours[8:]
    return np.asarray(twelves ^ (twelves >> np.uint64(31)))
