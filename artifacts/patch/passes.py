"""Choosing again and again, each time with prices that were learned from the time before.

What the cheapest operations are depends on what a compressor makes of them, and that depends on all of them together:
edits that follow a pattern cost little, once most of them are written in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from artifacts.patch.alignments import Alignment, Bytes, Places, differing
from artifacts.patch.choose import NEW, Step, choose, new_bytes
from artifacts.patch.differences import MIN_CLUSTER_LOG, Differences, Rates, differences_of
from artifacts.patch.operations import Add, Copy, Data, Operation
from artifacts.patch.prices import Chosen, Counts, Prices, difference_symbols, learned, learned_differences
from artifacts.patch.search import Found, Ranges
from artifacts.patch.timeline import timeline

__all__ = ["Choice", "Choices", "Compared", "Files", "seen_differences"]

_CHUNK = 1 << 20
# No more clusters than these are looked at; if there are more, they are made longer. Where more is aligned than twice
# this number of the shortest clusters, most of that is different, or it does not matter.
_MAX_CLUSTERS = 1 << 17
_ALIGNED_BYTES_PER_CLUSTER = 1 << 19
_NEW_BYTES_PER_STEP = 16
_ALIGNED_BYTES_PER_STEP = 1 << 10
# Alignments from this length on tell how the files differ, before anything is chosen.
_TELLING_BYTES = 256
# An earlier occurrence that was copied may be a copy of one that was written as new bytes, and so on so often.
_MAX_REPEATED_COPIES = 8


@dataclass(frozen=True, slots=True)
class Files:
    """What is made of what: the base, the target, and its ranges."""

    old: Bytes
    new: Bytes
    ranges: Ranges

    def source(self, alignment: Alignment) -> Bytes:
        """Return the file that an alignment takes bytes from."""
        return self.new if alignment.own else self.old

    def differing(self, alignment: Alignment, start: int, end: int) -> Iterator[tuple[int, Bytes, Places]]:
        """Yield what `alignments.differing` does, of a part of an alignment."""
        return differing(self.new, self.source(alignment), alignment.shift, start, end)


class Choice:
    """What one pass chose for one range.

    Args:
        files: what is made of what.
        steps: through the alignments.
        alignments: what was there to choose from.
        equal: for each of them, whether it is all equal to the target.
    """

    def __init__(self, files: Files, steps: list[Step], alignments: Sequence[Alignment], equal: Sequence[bool]) -> None:
        self.steps, self.alignments = steps, alignments
        self._files, self._equal = files, equal

    def parts(self) -> Iterator[tuple[int, Alignment | None]]:
        """Yield where each step ends, and what it comes from; None if that is new."""
        for step in self.steps:
            yield step.end, None if step.alignment == NEW else self.alignments[step.alignment]

    def operations(self, run: int) -> Iterator[Operation]:
        """Yield what makes the range; from ``run`` on, equal bytes are copies, fewer are zeros among differences."""
        for step in self.steps:
            if step.alignment == NEW:
                yield Data(step.start, step.end - step.start)
                continue
            one = self.alignments[step.alignment]
            shift = one.shift + (len(self._files.old) if one.own else 0)
            if self._equal[step.alignment]:
                yield Copy(step.start + shift, step.end - step.start)
            else:
                yield from _cut(step, shift, self._files.differing(one, step.start, step.end), run)


class Compared:
    """How alignments differ, each compared once for all choices that have it.

    Args:
        files: what is made of what.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._log = 0
        self._known: dict[Alignment, Differences] = {}

    def of(self, alignments: Sequence[Alignment], log: int) -> list[Differences]:
        """Return how each alignment differs, in clusters of at most ``1 << log`` bytes."""
        if log != self._log:
            # Clusters of another length are not asked for again, most likely.
            self._log = log
            self._known.clear()
        unknown = [one for one in alignments if one not in self._known]
        for own, source in ((False, self._files.old), (True, self._files.new)):
            some = [one for one in unknown if one.own == own]
            found = differences_of(self._files.new, source, some, log)
            self._known.update(zip(some, found, strict=True))
        return [self._known[one] for one in alignments]


class Choices:
    """What can be chosen, and what was found out about it that prices do not change."""

    def __init__(self, files: Files, found: Found, compared: Compared) -> None:
        self.files, self.found = files, found
        aligned = sum(one.end - one.start for one in found.alignments)
        self._aligned = aligned
        log = max(MIN_CLUSTER_LOG, (aligned // _ALIGNED_BYTES_PER_CLUSTER).bit_length())
        while True:
            differences = compared.of(found.alignments, log)
            clusters = sum(len(how.starts) for how in differences)
            if clusters <= _MAX_CLUSTERS:
                break
            log += (clusters // _MAX_CLUSTERS).bit_length()
        self._ranges = []
        for start, end in files.ranges:
            inside = [n for n, one in enumerate(found.alignments) if one.start < end and one.end > start]
            alignments, how = [found.alignments[n] for n in inside], [differences[n] for n in inside]
            rates = Rates(how)
            changes = timeline(start, end, alignments, how)
            self._ranges.append((changes, alignments, rates, [not len(one.starts) for one in how]))

    @property
    def steps(self) -> int:
        """How many steps one pass takes: places where one of some can be chosen, and what else takes as long."""
        places = sum(changes.steps for changes, *_ in self._ranges)
        others = len(self.found.places) // _NEW_BYTES_PER_STEP + self._aligned // _ALIGNED_BYTES_PER_STEP
        return places + len(self.found.alignments) + others

    def passes(self, prices: Prices, *, prefixed: bool, different: Counts | None = None) -> Iterator[list[Choice]]:
        """Yield choices, without an end: one for each range, and each time hopefully better ones.

        Args:
            prices: to begin with.
            prefixed: new bytes are compressed with the base's bytes before them.
            different: how often each of the `difference_symbols` may be expected; None for a guess.
        """
        if different is not None:
            prices = learned_differences(prices, different)
        written: Sequence[Choice] | None = None
        # Both ways to cut are tried: which is better depends on the files.
        for late in cycle((True, False)):
            repeats = _repeats(self.found, written, prefixed=prefixed)
            new = new_bytes(self.files.new, self.found.places, repeats, prices)
            written = []
            for changes, alignments, rates, equal in self._ranges:
                steps = choose(changes, alignments, rates(prices), prices, new, late=late)
                written.append(Choice(self.files, steps, alignments, equal))
            yield written
            prices = learned(prices, _chosen(self.files, written))


def seen_differences(files: Files, found: Found) -> Counts:
    """Return how often each of the `difference_symbols` occurs in long alignments."""
    counts = Chosen().different
    for alignment in found.alignments:
        if alignment.end - alignment.start >= _TELLING_BYTES:
            _count(counts, files, alignment, alignment.start, alignment.end)
    return counts


def _repeats(found: Found, written: Sequence[Choice] | None, *, prefixed: bool) -> Places:
    """Return for each byte of the gaps how long it repeats what a compressor of new bytes has seen before."""
    near = found.near
    if near is None:
        return np.zeros(0, np.int64)
    lengths = near.own.lengths
    if written is not None:
        new = np.zeros(len(lengths), np.bool_)
        for choice in written:
            for step in choice.steps:
                if step.alignment == NEW:
                    new[slice(*np.searchsorted(found.places, (step.start, step.end)))] = True
        lengths, source = lengths.copy(), near.own.places.astype(np.int64)
        for _ in range(_MAX_REPEATED_COPIES):
            copied = np.flatnonzero((source >= 0) & ~new[source])
            before = source[copied]
            lengths[copied] = np.minimum(lengths[copied], near.own.lengths[before])
            source[copied] = near.own.places[before]
        lengths[(source < 0) | ~new[source]] = 0
    return np.maximum(lengths, near.best() if prefixed else 0).astype(np.int64)


def _chosen(files: Files, choices: Sequence[Choice]) -> Chosen:
    chosen = Chosen()
    last: tuple[int, bool] | None = None
    for choice in choices:
        for step in choice.steps:
            length = step.end - step.start
            if step.alignment == NEW:
                chosen.news[length] += 1
                for at in range(step.start, step.end, _CHUNK):
                    chosen.new += np.bincount(files.new[at : min(at + _CHUNK, step.end)], minlength=256)
                continue
            alignment = choice.alignments[step.alignment]
            chosen.copies[length] += 1
            _count(chosen.different, files, alignment, step.start, step.end)
            start = step.start + alignment.shift
            if last is not None and last[1] == alignment.own:
                chosen.distances[start - last[0]] += 1
            last = start + length, alignment.own
    return chosen


def _count(counts: Counts, files: Files, alignment: Alignment, start: int, end: int) -> None:
    for _, difference, places in files.differing(alignment, start, end):
        counts += np.bincount(difference_symbols(difference, places), minlength=len(counts))


def _cut(step: Step, shift: int, different: Iterator[tuple[int, Bytes, Places]], run: int) -> Iterator[Operation]:
    """Yield copies where at least ``run`` bytes are equal, and differences between them."""
    # What lies before `made` is in an operation already; what lies from `equal` on does not differ, as far as known.
    made = equal = step.start
    for at, _, found in different:
        places = found + at
        starts = np.concatenate(([equal], places[:-1] + 1))
        long = places - starts >= run
        for start, end in zip(starts[long].tolist(), places[long].tolist(), strict=True):
            if start > made:
                yield Add(made + shift, made, start - made)
            yield Copy(start + shift, end - start)
            made = end
        equal = int(places[-1]) + 1
    if equal == step.start or step.end - equal >= run:
        if equal > made:
            yield Add(made + shift, made, equal - made)
        yield Copy(equal + shift, step.end - equal)
    elif step.end > made:
        yield Add(made + shift, made, step.end - made)
