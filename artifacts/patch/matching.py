"""Bytes that no parser knows: how a file is made from pieces of another one, of its own start, and of new bytes.

Three kinds of operation cover the target: a copy, new bytes, and new bytes as differences to an old piece that is
nearly the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from mmap import mmap

import numpy as np

from artifacts.patch.alignments import Alignment, Bytes, Places, equal_length, worthwhile_length
from artifacts.patch.block_hashes import BLOCK_BYTES, BlockIndex
from artifacts.patch.choose import NEW, Clusters, Prices, Step, choose, clusters

__all__ = ["Add", "Copy", "Data", "MatchLimits", "Operation", "match"]


@dataclass(frozen=True, slots=True)
class Copy:
    """Bytes as they are at an address: of the base, or beyond its end of the target as far as it is made."""

    source: int
    length: int


@dataclass(frozen=True, slots=True)
class Data:
    """New bytes: the target's from ``start``."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Add:
    """The target's bytes from ``start`` as differences, modulo 256, to those at the address ``source``."""

    source: int
    start: int
    length: int


Operation = Copy | Add | Data


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
    old, new = np.frombuffer(base, np.uint8), np.frombuffer(target, np.uint8)
    found = alignments(old, new, ranges)
    return list(operations(old, new, ranges, found, Prices(), 64))


def alignments(old: Bytes, new: Bytes, ranges: Sequence[tuple[int, int]]) -> list[Alignment]:
    index = BlockIndex(old)
    found: list[Alignment] = []
    for start, end in ranges:
        for targets, sources in index.anchors(new, start, end):
            _extend(old, new, start, end, targets, sources, found)
    return found


def _extend(
    old: Bytes, new: Bytes, start: int, end: int, targets: Places, sources: Places, found: list[Alignment]
) -> None:
    shifts = sources - targets
    fresh = np.ones(len(targets), np.bool_)
    fresh[1:] = (shifts[1:] != shifts[:-1]) | (np.diff(targets) > 16)
    places, shifts = targets[fresh].tolist(), shifts[fresh].tolist()
    at = 0
    while at < len(places):
        place, shift = places[at], shifts[at]
        skip = 0
        for other in found[-8:]:
            if other.start <= place < other.end:
                if other.shift == shift:
                    skip = max(skip, 1)
                length = equal_length(new[place : other.end], old[place + other.shift :])
                if length >= 2 * BLOCK_BYTES:
                    skip = max(skip, length - BLOCK_BYTES)
        if skip:
            at = bisect_left(places, place + skip, at + 1)
            continue
        at += 1
        forward = worthwhile_length(new[place:end], old[place + shift :])
        if forward < 16:
            continue
        back = worthwhile_length(new[start:place][::-1], old[: place + shift][::-1])
        found.append(Alignment(place - back, place + forward, shift, False))


def operations(
    old: Bytes, new: Bytes, ranges: Sequence[tuple[int, int]], found: list[Alignment], prices: Prices, run: int
) -> Iterator[Operation]:
    for start, end in ranges:
        inside = [a for a in found if a.start < end and a.end > start]
        differences = [clusters(new, new if a.own else old, a, prices) for a in inside]
        for step in choose(start, end, inside, differences, prices):
            if step.alignment == NEW:
                yield Data(step.start, step.end - step.start)
            else:
                yield from _aligned(step, inside[step.alignment], differences[step.alignment], len(old), run)


def _aligned(step: Step, alignment: Alignment, found: Clusters, own: int, run: int) -> Iterator[Operation]:
    """Yield copies where at least ``run`` bytes are equal, and differences between them."""
    shift = alignment.shift + (own if alignment.own else 0)
    inside = (found.ends > step.start) & (found.starts < step.end)
    at = step.start
    add = None
    for start, end in zip(found.starts[inside].tolist(), found.ends[inside].tolist(), strict=True):
        start, end = max(start, step.start), min(end, step.end)
        if start - at >= run or (add is None and start > at and False):
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
