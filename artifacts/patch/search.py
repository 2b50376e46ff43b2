"""Which alignments there are between a target, its base and its own start.

First what is long, by hashes of blocks, in files of any length. Then, in what lies outside of long equal stretches,
what is short, by sorting suffixes, if memory allows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from artifacts.patch.alignments import Alignment, Bytes, Places, equal_length, worthwhile_length
from artifacts.patch.block_hashes import BLOCK_BYTES, STRIDE_BYTES, BlockIndex
from artifacts.patch.suffixes import BYTES_PER_BYTE, Nearest, nearest

Ranges = Sequence[tuple[int, int]]

# An equal stretch at least this long needs no other candidate.
_SETTLED = 64
# What of it is looked at again at both ends.
_MARGIN = 16
_CHUNK = 1 << 20
# The shortest equal stretch that is worth an operation.
_LEAST = 8
# From this length on it is tried whether the bytes around are nearly equal.
_LEAST_EXTENDED = 16
_RECENT = 8


@dataclass(frozen=True, slots=True)
class Found:
    """What was found.

    Attributes:
        alignments: in the order in which they were found.
        gaps: parts of the target that lie outside of long equal stretches.
        places: of the bytes of the gaps.
        near: what agrees with each of them; None if there was no memory to find out.
        old_bytes: the length of the base, where the gaps begin in ``near``.
    """

    alignments: list[Alignment]
    gaps: list[tuple[int, int]]
    places: Places
    near: Nearest | None
    old_bytes: int

    @property
    def known_gaps(self) -> list[tuple[int, int]]:
        """The gaps, if it is known what agrees with their bytes."""
        return [] if self.near is None else self.gaps


def search(old: Bytes, new: Bytes, ranges: Ranges, max_bytes: int) -> Found:
    """Find alignments for the target's ``ranges``, with at most ``max_bytes`` of memory beside the files."""
    found: list[Alignment] = []
    index = BlockIndex(old)
    for start, end in ranges:
        extender = _Extender(old, new, start, end, found)
        for targets, sources in index.anchors(new, start, end):
            extender.extend(targets, sources - targets, np.full(len(targets), BLOCK_BYTES), own=False)
    del index
    gaps = _unsettled(old, new, ranges, found)
    size = len(old) + sum(end - start for start, end in gaps)
    if not gaps or size * BYTES_PER_BYTE > max_bytes:
        return Found(found, gaps, np.zeros(0, np.int64), None, len(old))
    places = np.concatenate([np.arange(start, end) for start, end in gaps])
    near = nearest(np.concatenate([old, *(new[start:end] for start, end in gaps)]), len(old), places)
    _extend_near(old, new, ranges, gaps, places, near, found)
    return Found(found, gaps, places, near, len(old))


def _unsettled(old: Bytes, new: Bytes, ranges: Ranges, found: list[Alignment]) -> list[tuple[int, int]]:
    settled = sorted(stretch for alignment in found for stretch in _equal_stretches(old, new, alignment))
    gaps = []
    at_settled = 0
    for start, end in ranges:
        at = start
        while at_settled < len(settled) and settled[at_settled][0] < end:
            first, last = settled[at_settled]
            at_settled += 1
            if last <= at:
                continue
            if first + _MARGIN > at:
                gaps.append((at, min(first + _MARGIN, end)))
            at = max(at, last - _MARGIN)
        if at < end:
            gaps.append((at, end))
    return gaps


def _equal_stretches(old: Bytes, new: Bytes, alignment: Alignment) -> list[tuple[int, int]]:
    stretches: list[tuple[int, int]] = []
    last = alignment.start
    for start in range(alignment.start, alignment.end, _CHUNK):
        end = min(start + _CHUNK, alignment.end)
        differing = np.flatnonzero(new[start:end] != old[start + alignment.shift : end + alignment.shift]) + start
        if not len(differing):
            continue
        before = np.concatenate(([last], differing[:-1] + 1))
        long = differing - before >= _SETTLED
        stretches += zip(before[long].tolist(), differing[long].tolist(), strict=True)
        last = int(differing[-1]) + 1
    if alignment.end - last >= _SETTLED:
        stretches.append((last, alignment.end))
    return stretches


def _extend_near(
    old: Bytes,
    new: Bytes,
    ranges: Ranges,
    gaps: list[tuple[int, int]],
    places: Places,
    near: Nearest,
    found: list[Alignment],
) -> None:
    part = np.concatenate([np.full(end - start, number) for number, (start, end) in enumerate(gaps)])
    longest = near.best()
    own_place = np.where(near.own.places >= 0, places[np.maximum(near.own.places - len(old), 0)], -1)
    almost = np.maximum(longest - 4, _LEAST)
    candidates = [(some.places, some.lengths, almost, False) for some in near.longest]
    candidates += [(some.places, some.lengths, np.full(len(places), _LEAST), False) for some in near.expected]
    candidates.append((own_place, near.own.lengths, np.maximum(longest + 8, _LEAST), True))
    for sources, lengths, least, own in candidates:
        shifts = sources - places
        same_part = part[1:] == part[:-1]
        rises = np.ones(len(places), np.bool_)
        rises[1:] = (lengths[1:] >= lengths[:-1]) | ~same_part
        again = np.zeros(len(places), np.bool_)
        again[1:] = (shifts[1:] == shifts[:-1]) & same_part & (lengths[:-1] >= least[:-1])
        wanted = rises & (lengths >= least) & ~again
        for start, end in ranges:
            inside = np.flatnonzero(wanted[slice(*np.searchsorted(places, (start, end)))]) + np.searchsorted(
                places, start
            )
            if len(inside):
                _Extender(old, new, start, end, found).extend(places[inside], shifts[inside], lengths[inside], own=own)


class _Extender:
    """Makes alignments from places where two files are equal, each only once."""

    def __init__(self, old: Bytes, new: Bytes, start: int, end: int, found: list[Alignment]) -> None:
        self._old, self._new, self._start, self._end = old, new, start, end
        self._found = found
        self._known: dict[tuple[int, bool], list[tuple[int, int]]] = {}
        for alignment in found:
            self._remember(alignment)
        self._recent: list[Alignment] = []

    def extend(self, targets: Places, shifts: Places, lengths: Places, *, own: bool) -> None:
        """Add alignments at places in the target, ascending, that agree with those ``shifts`` further in a source."""
        fresh = np.ones(len(targets), np.bool_)
        fresh[1:] = (shifts[1:] != shifts[:-1]) | (np.diff(targets) > STRIDE_BYTES)
        places, wanted, equal = targets[fresh].tolist(), shifts[fresh].tolist(), lengths[fresh].tolist()
        at = 0
        while at < len(places):
            place, shift = places[at], wanted[at]
            covered = self._covered(place, shift, own)
            if covered:
                at = bisect_left(places, place + covered, at + 1)
                continue
            self._add(place, shift, equal[at], own)
            at += 1

    def _covered(self, place: int, shift: int, own: bool) -> int:
        """Return for how many bytes no more is to be looked for."""
        for start, end in self._known.get((shift, own), ()):
            if start <= place < end:
                return 1
        covered = 0
        for other in self._recent[-_RECENT:]:
            if other.start <= place < other.end:
                source = self._new if other.own else self._old
                length = equal_length(self._new[place : other.end], source[place + other.shift :])
                if length >= _SETTLED:
                    covered = max(covered, length - BLOCK_BYTES)
        return covered

    def _add(self, place: int, shift: int, equal: int, own: bool) -> None:
        source = self._new if own else self._old
        how_far = worthwhile_length if equal >= _LEAST_EXTENDED else equal_length
        forward = how_far(self._new[place : self._end], source[place + shift :])
        back = how_far(self._new[self._start : place][::-1], source[: place + shift][::-1])
        if forward + back < _LEAST:
            return
        alignment = Alignment(place - back, place + forward, shift, own)
        self._remember(alignment)
        self._recent.append(alignment)
        if not own:
            self._found.append(alignment)
            return
        # Only what is written before an operation begins can be read by it.
        for start in range(alignment.start, alignment.end, -shift):
            self._found.append(Alignment(start, min(start - shift, alignment.end), shift, True))

    def _remember(self, alignment: Alignment) -> None:
        self._known.setdefault((alignment.shift, alignment.own), []).append((alignment.start, alignment.end))
