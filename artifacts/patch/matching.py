"""Bytes that no parser knows: how a file is made from pieces of another one, of its own start, and of new bytes.

Three kinds of operation cover the target: a copy, new bytes, and new bytes as differences to an old piece that is
nearly the same. Long equal pieces are found by hashes of blocks and made as long as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from mmap import mmap

import numpy as np
import numpy.typing as npt

__all__ = ["Add", "Copy", "Data", "MatchLimits", "Operation", "match"]

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]

_BLOCK = 32
_STRIDE = 16
_CHUNK = 1 << 20
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


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


@dataclass(frozen=True, slots=True)
class _Piece:
    start: int
    end: int
    source: int


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
    index = _index(old)
    operations: list[Operation] = []
    for start, end in ranges:
        operations += _operations(old, new, start, end, list(_pieces(old, new, start, end, index)))
    return operations


def _hashes(data: Bytes, start: int, count: int, stride: int) -> Words:
    result = np.zeros(count, np.uint64)
    for word in range(0, _BLOCK, 8):
        result *= _MULTIPLIER
        result += np.ndarray((count,), "<u8", data, start + word, (stride,))
        result ^= result >> np.uint64(29)
    return result * _MULTIPLIER


def _index(old: Bytes) -> tuple[Words, Places]:
    if len(old) < _BLOCK:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    count = (len(old) - _BLOCK) // _STRIDE + 1
    hashes = _hashes(old, 0, count, _STRIDE)
    keys, first = np.unique(hashes, return_index=True)
    return keys, first * _STRIDE


def _anchors(new: Bytes, start: int, end: int, index: tuple[Words, Places]) -> Iterator[tuple[Places, Places]]:
    keys, places = index
    if not len(keys):
        return
    seen = np.zeros(1 << 22, np.bool_)
    seen[keys >> np.uint64(42)] = True
    for chunk in range(start, end - _BLOCK + 1, _CHUNK):
        hashes = _hashes(new, chunk, min(_CHUNK, end - _BLOCK + 1 - chunk), 1)
        likely = np.flatnonzero(seen[hashes >> np.uint64(42)])
        found = np.minimum(np.searchsorted(keys, hashes[likely]), len(keys) - 1)
        right = keys[found] == hashes[likely]
        yield likely[right] + chunk, places[found[right]]


def _equal(one: Bytes, other: Bytes) -> int:
    """Return how many bytes are equal from the start of both."""
    length = min(len(one), len(other))
    done, step = 0, 64
    while done < length:
        differs = one[done : min(done + step, length)] != other[done : min(done + step, length)]
        if differs.any():
            return done + int(differs.argmax())
        done, step = min(done + step, length), min(step * 4, _CHUNK)
    return length


def _pieces(old: Bytes, new: Bytes, start: int, end: int, index: tuple[Words, Places]) -> Iterator[_Piece]:
    covered, shift = start, 0
    for targets, sources in _anchors(new, start, end, index):
        at = int(np.searchsorted(targets, covered))
        while at < len(targets):
            place, source = int(targets[at]), int(sources[at])
            if 0 <= place + shift <= len(old) - _BLOCK and place + shift != source:
                same = place + shift
                if (new[place : place + _BLOCK] == old[same : same + _BLOCK]).all():
                    source = same
            forward = _equal(new[place:end], old[source:])
            back = _equal(new[covered:place][::-1], old[:source][::-1])
            if forward < _BLOCK:
                at += 1
                continue
            covered, shift = place + forward, source - place
            yield _Piece(place - back, covered, source - back)
            at = int(np.searchsorted(targets, covered))


def _operations(old: Bytes, new: Bytes, start: int, end: int, pieces: list[_Piece]) -> Iterator[Operation]:
    for number, piece in enumerate(pieces):
        if piece.start > start:
            before = pieces[number - 1] if number else None
            yield from _gap(old, new, start, piece, before)
        yield Copy(piece.source, piece.end - piece.start)
        start = piece.end
    if start < end:
        yield Data(start, end - start)


def _gap(old: Bytes, new: Bytes, start: int, piece: _Piece, before: _Piece | None) -> Iterator[Operation]:
    length = piece.start - start
    source = piece.source - length
    same = before is not None and before.source - before.start == piece.source - piece.start
    if same and (new[start : piece.start] == old[source : piece.source]).mean() > 1 / 4:
        yield Add(source, start, length)
    else:
        yield Data(start, length)
