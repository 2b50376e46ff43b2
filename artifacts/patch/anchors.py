"""Parts that two sets of tensors share, wherever they are: found by the exponents of a few elements in a row.

When weights change a little, most of them keep sign and exponent. So a hash over those of a dozen elements in a row
finds the same place in the old file, though its bytes have changed, rows were put before it, or it has another name.
Places are chosen by their hash, on both sides the same ones, so one in thirty-two is enough to find every longer part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from artifacts.patch.similarity import View, bits, is_float, ordered
from artifacts.patch.weights.tensor import Tensor

# Elements that are hashed together: signs and exponents of weights have some three bits of information.
WINDOW = 12
_CHOSEN = 32
# Elements that are hashed at once.
_CHUNK = 1 << 18
# A hash that is in this many places of the old file says nothing: it is of zeros, or of one number repeated.
_MAX_PLACES = 8
# Places that are kept in the index, and looked up for one tensor: those of 500 MB of float32.
_MAX_INDEXED = 4_000_000
# Hits that must agree on how far a part has moved.
_MIN_HITS = 4
MAX_PARTS = 256
# Elements around the hits that a part may reach: where it goes on, the next hit is a few dozen away.
_REACH = 1 << 16

_SIGNIFICANT = {"f16": 10, "bf16": 7, "f32": 23, "f64": 52, "i8": 4, "u8": 4}
# An odd number without a pattern, and its powers.
_POWERS = {power: np.uint64(pow(0x9E3779B97F4A7C15, power, 1 << 64)) for power in (1, 2, 4)}


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
        places: list[NDArray[np.int64]] = []
        owners: list[NDArray[np.int32]] = []
        left = _MAX_INDEXED
        for number, tensor in enumerate(tensors):
            for found, at in _chosen(tensor, view):
                hashes.append(found)
                places.append(at)
                owners.append(np.full(len(at), number, np.int32))
                left -= len(at)
            if left < 0:
                break
        self._hashes = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
        order = np.argsort(self._hashes, kind="stable")
        self._hashes = self._hashes[order]
        self._places = (np.concatenate(places) if places else np.empty(0, np.int64))[order]
        self._owners = (np.concatenate(owners) if owners else np.empty(0, np.int32))[order]

    def parts(self, tensor: Tensor, view: View, unrelated: float) -> list[Part]:
        """Return the parts of a new tensor that are in old ones, in order and without overlap.

        Args:
            tensor: the new tensor, of the old ones' type.
            view: returns the bytes of the new file.
            unrelated: bits that an element needs against elements that have nothing in common with it.
        """
        hits = self._hits(tensor, view)
        votes = Counter((owner, shift) for _, owner, shift in hits)
        rows: list[_Row] = []
        for place, owner, shift in _best(hits, votes):
            if rows and (rows[-1].owner, rows[-1].shift) == (owner, shift):
                rows[-1].take(place)
            else:
                rows.append(_Row(owner, shift, place, place))
        rows = [row for row in rows if row.hits >= _MIN_HITS][:MAX_PARTS]
        return list(self._parts(rows, _Extent(tensor, view, self._tensors, self._view, unrelated)))

    def _hits(self, tensor: Tensor, view: View) -> list[_Hit]:
        """Return places of the new tensor that are found, with the old tensor and how far it has moved there."""
        hits: list[_Hit] = []
        for hashes, places in _chosen(tensor, view):
            low = np.searchsorted(self._hashes, hashes, "left")
            high = np.searchsorted(self._hashes, hashes, "right")
            telling = (high > low) & (high - low <= _MAX_PLACES)
            for place, first, last in zip(places[telling], low[telling], high[telling], strict=True):
                hits.extend(
                    (int(place), int(self._owners[at]), int(self._places[at]) - int(place)) for at in range(first, last)
                )
            if len(hits) > _MAX_INDEXED:
                break
        return hits

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


@dataclass(slots=True)
class _Row:
    """Hits in a row that agree on the old tensor and on how far the elements have moved there."""

    owner: int
    shift: int
    first: int
    last: int
    hits: int = 1

    def take(self, place: int) -> None:
        """Take in one more hit."""
        self.last = place
        self.hits += 1

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


_Hit = tuple[int, int, int]


def _best(hits: list[_Hit], votes: Counter[tuple[int, int]]) -> Iterator[_Hit]:
    """Yield for each place the hit that most others agree with, in order; none where fewer than enough agree."""
    before: tuple[int, int] | None = None
    for _, candidates in groupby(hits, key=lambda hit: hit[0]):
        # Of equal tensors the one that was found before.
        best = max(candidates, key=lambda hit: (votes[hit[1:]], hit[1:] == before))
        if votes[best[1:]] >= _MIN_HITS:
            before = best[1:]
            yield best


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
