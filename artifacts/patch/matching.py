"""Bytes that no parser knows: how a file is made from pieces of another one, of its own start, and of new bytes.

Three kinds of operation cover the target: a copy, new bytes, and new bytes as differences to an old piece that is
nearly the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from mmap import mmap

import numpy as np

from artifacts.patch.alignments import Alignment, Bytes
from artifacts.patch.choose import NEW, Differences, NewBytes, Step, choose, differences, new_bytes
from artifacts.patch.operations import Add, Copy, Data, Operation
from artifacts.patch.prices import Prices, difference_symbols, learned
from artifacts.patch.search import Found, Ranges, search

__all__ = ["Add", "Copy", "Data", "MatchLimits", "Operation", "match"]


@dataclass(frozen=True, slots=True)
class MatchLimits:
    """What matching may cost.

    Attributes:
        max_bytes: memory beside the two files.
    """

    max_bytes: int = 256 * 1024 * 1024


def match(
    base: bytes | bytearray | memoryview | mmap,
    target: bytes | bytearray | memoryview | mmap,
    ranges: Sequence[tuple[int, int]],
    limits: MatchLimits | None = None,
) -> list[Operation]:
    """Return operations that make the target's ``ranges``, in their order.

    Args:
        base: the old file.
        target: the new one.
        ranges: start and end of what is to be made, ascending and apart.
        limits: what it may cost.
    """
    limits = limits or MatchLimits()
    old, new = np.frombuffer(base, np.uint8), np.frombuffer(target, np.uint8)
    found = search(old, new, ranges, limits.max_bytes)
    *_, last = passes(old, new, ranges, found, prefixed=False)
    return list(operations(last, len(old), 64))


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass chose."""

    steps: list[list[Step]]
    alignments: list[list[Alignment]]
    differences: list[list[Differences]]


def passes(
    old: Bytes,
    new: Bytes,
    ranges: Ranges,
    found: Found,
    *,
    prefixed: bool,
    similar: bool = False,
    count: int = 3,
    prices: Prices | None = None,
) -> Iterator[Pass]:
    """Choose operations several times, each time with prices that were learned from the time before."""
    prices = prices or Prices()
    if similar:
        counts = np.zeros_like(prices.different, dtype=np.int64)
        for alignment in found.alignments:
            if alignment.end - alignment.start >= 256:
                _count(counts, new, new if alignment.own else old, alignment.start, alignment.end, alignment.shift)
        prices = learned(prices, None, counts, None)
    repeats = _repeats(found, prefixed)
    for number in range(count):
        fresh = new_bytes(new, found.gaps if repeats is not None else [], repeats, prices)
        inside = [[a for a in found.alignments if a.start < end and a.end > start] for start, end in ranges]
        differ = [[differences(new, new if a.own else old, a, prices) for a in some] for some in inside]
        steps = [
            choose(start, end, some, how, prices, fresh)
            for (start, end), some, how in zip(ranges, inside, differ, strict=True)
        ]
        yield Pass(steps, inside, differ)
        if number + 1 < count:
            prices = _learn(old, new, prices, steps, inside)
            repeats = _repeats(found, prefixed, steps)


MASK = True


def _repeats(found: Found, prefixed: bool, steps: list[list[Step]] | None = None):
    """Return for each byte of the gaps how long it repeats what a compressor of new bytes has seen."""
    near = found.near
    if near is None:
        return None
    lengths = near.own.lengths
    if steps is not None and MASK:
        new = np.zeros(len(lengths), np.bool_)
        places = np.concatenate([np.arange(start, end) for start, end in found.gaps])
        for some in steps:
            for step in some:
                if step.alignment == NEW:
                    new[slice(*np.searchsorted(places, (step.start, step.end)))] = True
        lengths, source = lengths.copy(), np.maximum(near.own.places - found.old_bytes, -1)
        for _ in range(8):
            # Where the last occurrence was not written as new bytes, the one before it may have been.
            copied = np.flatnonzero((source >= 0) & ~new[source])
            before = source[copied]
            lengths[copied] = np.minimum(lengths[copied], near.own.lengths[before])
            source[copied] = np.maximum(near.own.places[before] - found.old_bytes, -1)
        lengths[(source < 0) | ~new[source]] = 0
    if prefixed:
        lengths = np.maximum(lengths, near.best())
    return lengths


def _learn(old: Bytes, new: Bytes, prices: Prices, steps: list[list[Step]], inside: list[list[Alignment]]) -> Prices:
    fresh = np.zeros(256, np.int64)
    different = np.zeros_like(prices.different, dtype=np.int64)
    distances: Counter[int] = Counter()
    copies: Counter[int] = Counter()
    news: Counter[int] = Counter()
    last: tuple[int, bool] | None = None
    for some, alignments in zip(steps, inside, strict=True):
        for step in some:
            if step.alignment == NEW:
                news[step.end - step.start] += 1
                fresh += np.bincount(new[step.start : step.end], minlength=256)
                continue
            alignment = alignments[step.alignment]
            copies[step.end - step.start] += 1
            source = new if alignment.own else old
            start, end = step.start + alignment.shift, step.end + alignment.shift
            _count(different, new, source, step.start, step.end, alignment.shift)
            if last is not None and last[1] == alignment.own:
                distances[start - last[0]] += 1
            last = end, alignment.own
    return learned(prices, fresh, different, distances, copies, news)


def _count(counts, new, source, start, end, shift):
    for at in range(start, end, 1 << 20):
        stop = min(end, at + (1 << 20))
        difference = new[at:stop] - source[at + shift : stop + shift]
        differing = np.flatnonzero(difference)
        symbols = difference_symbols(np.diff(differing, prepend=-1), difference[differing])
        np.add.at(counts, symbols, 1)


def operations(chosen: Pass, own: int, run: int) -> Iterator[Operation]:
    for steps, alignments, found in zip(chosen.steps, chosen.alignments, chosen.differences, strict=True):
        for step in steps:
            if step.alignment == NEW:
                yield Data(step.start, step.end - step.start)
            else:
                yield from _aligned(step, alignments[step.alignment], found[step.alignment], own, run)


def _aligned(step: Step, alignment: Alignment, found: Differences, own: int, run: int) -> Iterator[Operation]:
    """Yield copies where at least ``run`` bytes are equal, and differences between them."""
    shift = alignment.shift + (own if alignment.own else 0)
    inside = (found.ends > step.start) & (found.starts < step.end)
    at = step.start
    add = None
    for start, end in zip(found.starts[inside].tolist(), found.ends[inside].tolist(), strict=True):
        start, end = max(start, step.start), min(end, step.end)
        if start - at >= run:
            if add is not None:
                yield Add(add + shift, add, at - add)
            yield Copy(at + shift, start - at)
            add = start
        elif add is None:
            add = at
        at = end
    if add is None:
        yield Copy(at + shift, step.end - at)
    elif step.end - at >= run:
        yield Add(add + shift, add, at - add)
        yield Copy(at + shift, step.end - at)
    else:
        yield Add(add + shift, add, step.end - add)
