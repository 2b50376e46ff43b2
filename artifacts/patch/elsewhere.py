"""What of some tensors lies in the base as it is, but elsewhere: rows in another order, say.

Tensors are aligned as wholes or in long parts. Where short rows of an embedding or of a classifier were sorted anew,
none of that fits, and yet all can be copied. It is found by samples: nothing else in a plan depends on it, and mostly
there is nothing to find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from artifacts.patch.alignments import Bytes, Places, equal_length
from artifacts.patch.block_hashes import BLOCK_BYTES, STRIDE_BYTES, HashFilter, blocks, hashes
from artifacts.patch.opened import LetGo, Opened

__all__ = ["Elsewhere", "Part", "found_elsewhere"]

# Bytes of a sample, which holds a whole row of most embeddings; samples of one tensor; and of all together, one for so
# many bytes and no more (or one of each).
_SAMPLE_BYTES = 256
_MIN_SAMPLES, _MAX_SAMPLES = 16, 128
_BYTES_PER_SAMPLE, _ALL_SAMPLES = 1 << 12, 4096
# Bytes that are compared to see how long a piece is that was found.
_MAX_PIECE = 1 << 14
# What a copy takes in a patch, in bits: a length and a place that follow no pattern.
_COPY_BITS = 8 * 3.0
# Upper bits of a hash that each of two filters does not look at: what passes both is hardly ever another block.
_SKIPPED = 0, 26
_NO_HASHES = np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What a sample tells of a part of the target.

    Attributes:
        bits: about what it takes if it is copied as far as possible.
        sources: addresses in the base from which some of it would be copied.
    """

    bits: float
    sources: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the target: where it starts, its bytes, and the address of as many in the base that it is coded with.

    ``base`` is None if there are none.
    """

    start: int
    length: int
    base: int | None


def found_elsewhere(old: Opened, new: Opened, parts: Sequence[Part], new_bits: float) -> list[Elsewhere]:
    """Return for parts of the target what they would take as copies from anywhere in the base.

    Args:
        old: the base.
        new: the target.
        parts: of the target.
        new_bits: what a byte takes that is not in the base.
    """
    base, target = np.frombuffer(old.content, np.uint8), np.frombuffer(new.content, np.uint8)
    total = max(1, sum(part.length for part in parts))
    least = max(1, min(_MIN_SAMPLES, _ALL_SAMPLES // max(1, len(parts))))
    some = min(_ALL_SAMPLES, total // _BYTES_PER_SAMPLE)
    changed = []
    memory = LetGo(old, new)
    for part in parts:
        changed.append(_changed(base, target, part, max(least, some * part.length // total)))
        memory.after(part.length)
    memory.now()
    known = _Known(memory, base, target, [sample for one in changed for sample in one.samples])
    return [_told(base, target, known, one, new_bits) for one in changed]


@dataclass(frozen=True, slots=True)
class _Changed:
    """How many bytes of a part are in blocks that are not equal to its base's, and the start and end of some of them.

    All that is equal is copied whatever else is: to look at it as well would tell less of what matters.
    """

    length: int
    samples: list[tuple[int, int]]


def _changed(base: Bytes, target: Bytes, part: Part, most: int) -> _Changed:
    blocks = np.arange(0, part.length, _SAMPLE_BYTES)
    if part.base is not None:
        differs = target[part.start : part.start + part.length] != base[part.base : part.base + part.length]
        blocks = blocks[np.logical_or.reduceat(differs, blocks)]
    starts = part.start + blocks
    ends = np.minimum(starts + _SAMPLE_BYTES, part.start + part.length)
    some = np.unique(np.linspace(0, len(blocks) - 1, min(most, _MAX_SAMPLES, len(blocks))).astype(int))
    samples = list(zip(starts[some].tolist(), ends[some].tolist(), strict=True))
    return _Changed(int((ends - starts).sum()), samples)


class _Known:
    """Where blocks of the samples are in the base: the first place of each."""

    def __init__(self, memory: LetGo, base: Bytes, target: Bytes, samples: Sequence[tuple[int, int]]) -> None:
        count = sum(end - start for start, end in samples)
        filters = [HashFilter(count, skipped) for skipped in _SKIPPED]
        for start, end in samples:
            of_sample = _hashes(target, start, end)
            for passes in filters:
                passes.add(of_sample)
        found: list[npt.NDArray[np.uint64]] = [_NO_HASHES]
        places: list[Places] = [np.empty(0, np.int64)]
        for first, of_base in blocks(base, memory.after):
            likely = np.arange(len(of_base))
            for passes in filters:
                likely = likely[passes(of_base[likely])]
            found.append(of_base[likely])
            places.append((likely + first) * STRIDE_BYTES)
        self._hashes, at = np.unique(np.concatenate(found), return_index=True)
        self._sources = np.concatenate(places)[at]
        self._target = target

    def places(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return places in a sample at which a block begins that the base seems to have, each with the base's place."""
        if not len(self._hashes):
            return []
        of_sample = _hashes(self._target, start, end)
        at = np.minimum(np.searchsorted(self._hashes, of_sample), len(self._hashes) - 1)
        there = np.flatnonzero(self._hashes[at] == of_sample)
        return list(zip((there + start).tolist(), self._sources[at[there]].tolist(), strict=True))


def _hashes(target: Bytes, start: int, end: int) -> npt.NDArray[np.uint64]:
    count = end - start - BLOCK_BYTES + 1
    return hashes(target, start, count, 1) if count > 0 else _NO_HASHES


def _told(base: Bytes, target: Bytes, known: _Known, changed: _Changed, new_bits: float) -> Elsewhere:
    """Return what the samples tell of what changed in a part."""
    bits, seen = 0.0, 0
    sources: list[int] = []
    for at, end in changed.samples:
        seen += end - at
        for place, source in known.places(at, end):
            if place < at:
                continue
            behind = equal_length(target[place : place + _MAX_PIECE], base[source : source + _MAX_PIECE])
            if behind < BLOCK_BYTES:
                continue
            reach = min(place, source, _MAX_PIECE)
            before = equal_length(target[place - reach : place][::-1], base[source - reach : source][::-1])
            start, stop = max(at, place - before), min(end, place + behind)
            bits += (start - at) * new_bits + (stop - start) * _COPY_BITS / (before + behind)
            sources.append(source)
            at = stop
        bits += (end - at) * new_bits
    return Elsewhere(bits * changed.length / max(1, seen), tuple(sources))
