"""Which alignments there are between a target, its base and its own start.

First what is long, by hashes of blocks, in files of any length. Then, in what lies outside of long equal stretches,
what is short, by sorting suffixes, if memory allows.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from artifacts.patch.alignments import Alignment, Bytes, Places, differing, equal_length, unheard, worthwhile_length
from artifacts.patch.block_hashes import BLOCK_BYTES, STRIDE_BYTES, BlockIndex
from artifacts.patch.operations import united
from artifacts.patch.suffixes import RESULT_BYTES, SORT_BYTES, Nearest, nearest

Ranges = Sequence[tuple[int, int]]

# An equal stretch at least this long needs no other candidate.
_SETTLED = 64
# What of it is looked at again at both ends.
_MARGIN = 16
_CHUNK = 1 << 20
# The shortest equal stretch that is worth an operation.
_LEAST = 8
# From this length on it is tried whether the bytes around are nearly equal.
_LEAST_EXTENDED = 12
_RECENT = 8
# An alignment that differs in so few bytes is as good as another one that does not: to go there and back costs more.
_FEW = 2
# Unless that one leads elsewhere, and this one goes on in the base's order: as alignments of this length do.
_LONG = 128
# What repeats itself at a shorter distance is left to the compressor, and so is what repeats itself more often.
_LEAST_PERIOD = 64
_MAX_PERIODS = 64
# Alignments take time each, and for their length. Where any piece fits anywhere, only so many are made.
_FEW_ALIGNMENTS = 1 << 14
_BYTES_PER_ALIGNMENT = 1 << 11
_BASIC_LENGTH = 1 << 20
_MAX_OVERLAP = 8
# Gaps from this length on may be bridged, if one byte in eight is equal: one in 256 is by chance, in text one in 15.
_MIN_BRIDGE = 64
_MIN_EQUAL_SHARE = 8
# Pieces of so many bytes are looked for between the sources of what lies around them, if those are so near each other.
_MIN_PIECE, _MAX_BETWEEN = 4, 256
# So many bytes of a base are searched for short pieces, in a second: of a longer one, so much around where a gap's
# neighbours come from, and then what nothing was taken from.
_MOST_SORTED = 1 << 18
_MIN_AROUND, _MAX_AROUND = 1 << 10, 1 << 16
# More than this outside of long equal stretches is not searched for short pieces, nor chosen from again and again: most
# of it is new then, as weights are, and seconds would save some hundred bytes of it.
THOROUGH_BYTES = 256 * 1024
# Nor is what is less than such a part of what the patch takes elsewhere: thoroughness would save a thousandth of the
# patch (measured on models with tensors), and takes longer than all the rest.
_SMALL_PART = 16
# Places in files have 31 bits where there are many of them.
_MAX_PLACE = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Found:
    """What was found.

    Attributes:
        alignments: in the order in which they were found.
        gaps: parts of the target that lie outside of long equal stretches.
        places: of the bytes of the gaps.
        near: what agrees with each of them; None if there was no memory to find out, or it is not worth it.
        is_worth_effort: whether little is left to find, and enough for the patch.
    """

    alignments: list[Alignment]
    gaps: list[tuple[int, int]]
    places: Places
    near: Nearest | None
    is_worth_effort: bool


def search(
    old: Bytes,
    new: Bytes,
    ranges: Ranges,
    max_bytes: int,
    elsewhere: int = 0,
    worked: Callable[[int], None] = unheard,
) -> Found:
    """Find alignments for the target's ``ranges``.

    Args:
        old: the base.
        new: the target.
        ranges: of the target.
        max_bytes: of memory beside the files.
        elsewhere: bytes that the patch takes for what is not in the ranges.
        worked: is told after how many further bytes of both files it has seen.
    """
    found: list[Alignment] = []
    allowance = _Allowance(sum(end - start for start, end in ranges))
    index = BlockIndex(old, worked)
    known = _Known(found)
    for start, end in ranges:
        extender = _Extender(old, new, start, end, known, allowance, worked)
        for targets, sources in index.anchors(new, start, end, extender.wanted):
            extender.extend(targets, sources - targets, np.full(len(targets), BLOCK_BYTES), own=False)
    del index
    gaps = _unsettled(old, new, ranges, found)
    # All that was found so far is from the base.
    ordered = sorted((one.start, one.end, one.shift) for one in found)
    found += [*_bridges(old, new, gaps, ordered), *_pieces_between(old, new, ranges, ordered)]
    open_bytes = sum(end - start for start, end in gaps)
    is_worth_effort = open_bytes <= THOROUGH_BYTES and open_bytes * _SMALL_PART >= elsewhere
    quick = Found(found, gaps, np.zeros(0, np.int64), None, is_worth_effort)
    if not is_worth_effort:
        return quick
    parts = _relevant(len(old), found, gaps, (max_bytes - RESULT_BYTES * open_bytes) // SORT_BYTES - open_bytes)
    if not gaps or not parts or len(old) > _MAX_PLACE:
        return quick
    places = _places(gaps)
    text = np.concatenate([*(old[start:end] for start, end in parts), *(new[start:end] for start, end in gaps)])
    near = nearest(text, _places(parts), places)
    _extend_near(old, new, ranges, gaps, places, near, found, allowance)
    return Found(found, gaps, places, near, is_worth_effort)


def _places(parts: Sequence[tuple[int, int]]) -> Places:
    return np.concatenate([np.zeros(0, np.int64), *(np.arange(start, end) for start, end in parts)])


def _bridges(
    old: Bytes, new: Bytes, gaps: Sequence[tuple[int, int]], ordered: Sequence[tuple[int, int, int]]
) -> list[Alignment]:
    """Return alignments over whole gaps at the distances of what lies around them, and at none.

    In arrays of numbers that all changed a little, nothing long is equal, and yet half of the bytes are.
    """
    bridges = []
    starts = [one[0] for one in ordered]
    for start, end in gaps:
        if end - start < _MIN_BRIDGE:
            continue
        after = bisect_left(starts, start)
        shifts = {0, len(old) - len(new)} | {shift for _, _, shift in ordered[max(0, after - 2) : after + 2]}
        for shift in sorted(shifts):
            first, last = max(start, -shift), min(end, len(old) - shift)
            if last - first >= _MIN_BRIDGE and _alike(new[first:last], old[first + shift : last + shift]):
                bridges.append(Alignment(first, last, shift, False))
    return bridges


def _pieces_between(old: Bytes, new: Bytes, ranges: Ranges, ordered: Sequence[tuple[int, int, int]]) -> list[Alignment]:
    """Return alignments for what lies between two, where the base has the same bytes between the sources of both.

    Where columns were removed from a matrix, every row has pieces too short to be found by themselves, and they are too
    many to sort all that is around them.
    """
    pieces = []
    for (_, start, shift), (end, _, next_shift) in pairwise(ordered):
        first, last = start + shift, end + next_shift
        if not _MIN_PIECE <= end - start < _SETTLED or not end - start < last - first <= _MAX_BETWEEN:
            continue
        at = old[first:last].tobytes().find(new[start:end].tobytes())
        place = bisect_right(ranges, start, key=lambda part: part[0]) - 1
        if at >= 0 and place >= 0 and end <= ranges[place][1]:
            # By chance, bytes beside it may be equal in what lies around it too.
            here = first + at - start
            low, high = max(ranges[place][0], start - _MARGIN, -here), min(ranges[place][1], end + _MARGIN)
            back = equal_length(new[low:start][::-1], old[low + here : start + here][::-1])
            forward = equal_length(new[end:high], old[end + here :])
            pieces.append(Alignment(start - back, end + forward, here, False))
    return pieces


def _alike(one: Bytes, other: Bytes) -> bool:
    pieces = range(0, len(one), _CHUNK)
    equal = sum(int(np.count_nonzero(one[at : at + _CHUNK] == other[at : at + _CHUNK])) for at in pieces)
    return equal * _MIN_EQUAL_SHARE >= len(one)


def _relevant(
    old_bytes: int, found: Sequence[Alignment], gaps: Sequence[tuple[int, int]], most: int
) -> list[tuple[int, int]]:
    """Return parts of the base, together at most as long as ``most``, in which something of the gaps may be.

    All of it, if that is short enough; or else what lies where the gaps' neighbours come from, and what was not taken.
    """
    most = min(most, _MOST_SORTED)
    if most <= 0:
        return []
    if old_bytes <= most:
        return [(0, old_bytes)] if old_bytes else []
    taken = sorted((one.start + one.shift, one.end + one.shift) for one in found if not one.own)
    ordered = sorted((one.start, one.shift) for one in found if not one.own)
    wanted: list[tuple[int, int]] = []
    around = min(_MAX_AROUND, max(_MIN_AROUND, most // (8 * max(1, len(gaps)))))
    for start, end in gaps:
        after = bisect_left(ordered, (start, 0))
        for _, shift in ordered[max(0, after - 2) : after + 2]:
            wanted.append((start + shift - around, end + shift + around))
    wanted += [(0, around), (old_bytes - around, old_bytes)]
    free, at = [], 0
    for start, end in [*taken, (old_bytes, old_bytes)]:
        if start > at:
            free.append((at - _MARGIN, start + _MARGIN))
        at = max(at, end)
    free.sort(key=lambda part: (part[1] - part[0], part))
    parts = united((max(0, start), min(old_bytes, end)) for start, end in wanted)
    left = most - sum(end - start for start, end in parts)
    for start, end in free if left >= 0 else ():
        left -= end - start
        if left < 0:
            break
        parts.append((max(0, start), min(old_bytes, end)))
    return _first_bytes(united(parts), most)


def _first_bytes(parts: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    first = []
    for start, end in parts:
        end = min(end, start + most)
        if start < end:
            first.append((start, end))
        most -= end - start
    return first


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
    for start, _, found in differing(new, old, alignment.shift, alignment.start, alignment.end):
        places = found + start
        before = np.concatenate(([last], places[:-1] + 1))
        long = places - before >= _SETTLED
        stretches += zip(before[long].tolist(), places[long].tolist(), strict=True)
        last = int(places[-1]) + 1
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
    allowance: _Allowance,
) -> None:
    part = np.concatenate([np.full(end - start, number) for number, (start, end) in enumerate(gaps)])
    longest = near.best()
    own_place = np.where(near.own.places >= 0, places[near.own.places], -1)
    almost = np.maximum(longest - 4, _LEAST)
    candidates = [(some.places, some.lengths, almost, False) for some in near.longest]
    candidates += [(some.places, some.lengths, np.full(len(places), _LEAST), False) for some in near.expected]
    candidates.append((own_place, near.own.lengths, np.maximum(longest + 8, _LEAST), True))
    same_part = part[1:] == part[:-1]
    known = _Known(found)
    for sources, lengths, least, own in candidates:
        shifts = sources - places
        rises = np.ones(len(places), np.bool_)
        rises[1:] = (lengths[1:] >= lengths[:-1]) | ~same_part
        again = np.zeros(len(places), np.bool_)
        again[1:] = (shifts[1:] == shifts[:-1]) & same_part & (lengths[:-1] >= least[:-1])
        wanted = rises & (lengths >= least) & ~again
        for start, end in ranges:
            first, last = np.searchsorted(places, (start, end))
            inside = np.flatnonzero(wanted[first:last]) + first
            if len(inside):
                _Extender(old, new, start, end, known, allowance).extend(
                    places[inside], shifts[inside], lengths[inside], own=own
                )


class _Allowance:
    """How many alignments may be made, and how long they may be together."""

    def __init__(self, made: int) -> None:
        self.number = _FEW_ALIGNMENTS + made // _BYTES_PER_ALIGNMENT
        self.length = _BASIC_LENGTH + _MAX_OVERLAP * made


class _Known:
    """The alignments that were found so far, and where those of one shift are.

    Args:
        found: the list that further ones go to as well.
    """

    def __init__(self, found: list[Alignment]) -> None:
        self.found = found
        self._parts: dict[tuple[int, bool], list[tuple[int, int]]] = {}
        for alignment in found:
            self.remember(alignment)

    def remember(self, alignment: Alignment) -> None:
        """Keep where an alignment is."""
        self._parts.setdefault((alignment.shift, alignment.own), []).append((alignment.start, alignment.end))

    def end(self, place: int, shift: int, *, own: bool) -> int:
        """Return where an alignment of a shift ends that a place is in; 0 if it is in none."""
        return max((end for start, end in self._parts.get((shift, own), ()) if start <= place < end), default=0)


class _Extender:
    """Makes alignments from places where two files are equal, each only once."""

    def __init__(
        self,
        old: Bytes,
        new: Bytes,
        start: int,
        end: int,
        known: _Known,
        allowance: _Allowance,
        worked: Callable[[int], None] = unheard,
    ) -> None:
        self._worked = worked
        self._old, self._new, self._start, self._end = old, new, start, end
        self._allowance = allowance
        self._known = known
        self._recent: list[Alignment] = []
        self._order = 0

    def extend(self, targets: Places, shifts: Places, lengths: Places, *, own: bool) -> None:
        """Add alignments at places in the target, ascending, that agree with those ``shifts`` further in a source."""
        fresh = np.ones(len(targets), np.bool_)
        fresh[1:] = (shifts[1:] != shifts[:-1]) | (np.diff(targets) > STRIDE_BYTES)
        firsts = np.flatnonzero(fresh)
        lasts = np.append(firsts[1:], len(targets))
        skipped = 0
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
            if self._allowance.number <= 0 or self._allowance.length <= 0:
                return
            skipped = self._extend_run(targets[first:last], int(shifts[first]), lengths[first:last], skipped, own)

    def _extend_run(self, targets: Places, shift: int, lengths: Places, skipped: int, own: bool) -> int:
        """Add an alignment at the first place of a run that wants one; no more is looked for before ``skipped``.

        Returns:
            the place before which no more is to be looked for.
        """
        at = 0
        while at < len(targets):
            place = int(targets[at])
            if place >= skipped:
                known = self._known.end(place, shift, own=own)
                covered = 0 if known else self._covered(place, shift, int(lengths[at]))
                if not known and not covered:
                    self._add(place, shift, int(lengths[at]), own)
                    break
                skipped = max(skipped, place + covered)
                # What covers the start of a long run may not cover all of it.
                place = max(known, place + max(covered, BLOCK_BYTES))
            at += 1 + int(np.searchsorted(targets[at + 1 :], max(place, skipped)))
        return skipped

    def wanted(self, start: int, end: int) -> npt.NDArray[np.bool_]:
        """Return which places begin a block that is not, or not all equal, in a recent alignment."""
        wanted = np.ones(end - start, np.bool_)
        for one in self._recent[-2:]:
            first, last = max(start, one.start), min(end + BLOCK_BYTES, one.end)
            if last - first > BLOCK_BYTES:
                source = self._new if one.own else self._old
                differs = self._new[first:last] != source[first + one.shift : last + one.shift]
                sums = np.concatenate(([0], np.cumsum(differs, dtype=np.int32)))
                wanted[first - start : last - start - BLOCK_BYTES] &= sums[BLOCK_BYTES:-1] > sums[: -BLOCK_BYTES - 1]
        return wanted

    def _covered(self, place: int, shift: int, equal: int) -> int:
        """Return for how many bytes no more is to be looked for."""
        covered = 0
        for other in self._recent[-_RECENT:]:
            if other.start <= place < other.end:
                source = self._new if other.own else self._old
                length = equal_length(self._new[place : other.end], source[place + other.shift :], self._worked)
                if length >= _SETTLED:
                    covered = max(covered, length - BLOCK_BYTES)
                elif length < equal <= other.end - place:
                    here = self._new[place : place + equal] != source[place + other.shift : place + other.shift + equal]
                    # In the order of the base comes what lies nearest to the distance of the last long alignment.
                    ordered = abs(shift - self._order) < abs(other.shift - self._order)
                    covered = max(covered, int(np.count_nonzero(here) <= _FEW and not ordered))
                elif length >= equal:
                    covered = max(covered, 1)
        return covered

    def _add(self, place: int, shift: int, equal: int, own: bool) -> None:
        source = self._new if own else self._old
        how_far = worthwhile_length if equal >= _LEAST_EXTENDED else equal_length
        forward = how_far(self._new[place : self._end], source[place + shift :], self._worked)
        back = how_far(self._new[self._start : place][::-1], source[: place + shift][::-1], self._worked)
        if forward + back < _LEAST or (own and -shift < _LEAST_PERIOD):
            return
        alignment = Alignment(place - back, place + forward, shift, own)
        self._known.remember(alignment)
        self._recent.append(alignment)
        if not own and forward + back >= _LONG:
            self._order = shift
        self._allowance.number -= 1
        self._allowance.length -= forward + back
        if not own:
            self._known.found.append(alignment)
            return
        # Only what is written before an operation begins can be read by it.
        for start in range(alignment.start, min(alignment.end, alignment.start - _MAX_PERIODS * shift), -shift):
            self._known.found.append(Alignment(start, min(start - shift, alignment.end), shift, True))
