"""Arrays of numbers in bytes of which nothing is known, found by how often bytes occur at each place of an element.

The top byte of a float holds its sign and most of its exponent, so in an array of weights it takes few values, at every
second, fourth or eighth place; what is below is close to random. Small integers are close to zero at every place. Text
and compressed bytes are neither.

The file is looked at in blocks, of which every second group of eight bytes is counted; the ends of what is found are
then moved to the element.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from artifacts.patch.weights.tensor import WIDTHS, Tensor

# The shortest array that is found. Half of a block is counted, 128 bytes at each of eight places.
BLOCK_BYTES = 2048
_PLACES = 8
_SAMPLES = BLOCK_BYTES // _PLACES // 2
# Blocks that are counted at once: 32 bytes of memory for each byte that is counted, so some 16 MB.
_CHUNK_BLOCKS = 512
# Integers are told by less than floats are, so chance finds more of them; fewer in a row count for nothing.
_MIN_INTEGER_BYTES = 8 * BLOCK_BYTES
# Blocks between two parts of one array that look like nothing, because they hold zeros or a header.
_MAX_GAP_BLOCKS = 2

# Shares of a block's counted bytes, in 128ths. Real weights reach 127 at the place of the exponent; random bytes reach
# 21 there, for float16 71, and 32 and 64 for small integers. Of pruned weights nine of ten are zero.
_MOST = 120
_SOME = 4
_RANDOM_AT_MOST = 90
# How many more zeros there may be below the top byte than in it.
_ZEROS_BELOW = 48
_SMALL_AT_LEAST, _MEDIUM_AT_LEAST = 45, 84
_SPREAD_AT_MOST = 32
_SIDE_AT_LEAST = 8
_ZEROS_AT_MOST = 64

_Bytes = NDArray[np.uint8]


def _exponents() -> NDArray[np.bool_]:
    """Tell the top bytes of floats with the exponent of eight bits or more: 2**-31 to 2**11, of either sign."""
    top = np.arange(256) & 0x7F
    return (top >= 0x30) & (top <= 0x44)


def _half_exponents() -> NDArray[np.bool_]:
    """Tell the top bytes of float16 numbers from 2**-16 to 2**3."""
    top = np.arange(256) & 0x7F
    return (top >= 0x01) & (top <= 0x47)


def _distance(center: int) -> NDArray[np.int64]:
    return np.abs((np.arange(256) - center + 128) % 256 - 128)


_FLOAT, _HALF, _ZERO, _SMALL, _MEDIUM, _SMALL_UNSIGNED, _MEDIUM_UNSIGNED, _HIGH = range(8)


def _properties() -> NDArray[np.uint64]:
    """Return, for each byte, a lane of eight bits for each property; so that one sum counts them all, up to 255."""
    properties = (
        _exponents(),
        _half_exponents(),
        # Where weights were pruned, half of the zeros are negative.
        np.arange(256) & 0x7F == 0,
        _distance(0) < 32,
        _distance(0) < 64,
        _distance(128) < 32,
        _distance(128) < 64,
        np.arange(256) >= 128,
    )
    lanes = [lane.astype(np.uint64) << np.uint64(8 * number) for number, lane in enumerate(properties)]
    return np.asarray(np.bitwise_or.reduce(lanes))


_PROPERTIES = _properties()

# A kind of array: the type of its elements and the place of its elements' top bytes.
_NOTHING, _ZEROS = 0, 1


@dataclass(frozen=True, slots=True)
class _Kind:
    """A type of elements, and where in eight bytes their first bytes are."""

    dtype: str
    phase: int


_KINDS = (
    *(_Kind("f32", phase) for phase in range(4)),
    *(_Kind("f64", phase) for phase in range(8)),
    *(_Kind(dtype, phase) for dtype in ("f16", "bf16") for phase in range(2)),
    _Kind("i8", 0),
    _Kind("u8", 0),
)
_FIRST_KIND = 2
_CODES = {kind: code for code, kind in enumerate(_KINDS, _FIRST_KIND)}


def find_arrays(view: memoryview) -> Iterator[Tensor]:
    """Yield what looks like arrays of floats or of small integers, in order, without names.

    Args:
        view: the bytes to search.
    """
    data = np.frombuffer(view, np.uint8)
    kinds = [_classify(data[start:stop]) for start, stop in _chunks(len(data))]
    if not kinds:
        return
    end = 0
    for code, first, last in _runs(np.concatenate(kinds)):
        kind = _KINDS[code - _FIRST_KIND]
        start, stop = _grown(data, kind, first * BLOCK_BYTES, last * BLOCK_BYTES)
        # Aligned as the array is, and behind what was found before.
        width = WIDTHS[kind.dtype]
        start = max(start, end + (kind.phase - end) % width)
        count = (stop - start) // width
        if count * width >= (BLOCK_BYTES if width > 1 else _MIN_INTEGER_BYTES):
            end = start + count * width
            yield Tensor("", start, count * width, kind.dtype, (count,))


def _chunks(length: int) -> Iterator[tuple[int, int]]:
    size = _CHUNK_BLOCKS * BLOCK_BYTES
    whole = length - length % BLOCK_BYTES
    for start in range(0, whole, size):
        yield start, min(start + size, whole)


def _classify(data: _Bytes) -> NDArray[np.uint8]:
    """Return for each block what kind of array it looks like."""
    blocks = len(data) // BLOCK_BYTES
    # Samples first: a sum over the first axis is a sum of long rows.
    groups = data.reshape(blocks, 2 * _SAMPLES, _PLACES)[:, ::2]
    samples = np.ascontiguousarray(groups.transpose(1, 0, 2)).reshape(_SAMPLES, blocks * _PLACES)
    counts = _PROPERTIES[samples].sum(axis=0, dtype=np.uint64).view(np.uint8).reshape(blocks, _PLACES, 8)
    kinds = np.full(blocks, _NOTHING, np.uint8)
    kinds[(counts[:, :, _ZERO] >= _MOST).all(axis=1)] = _ZEROS
    for code, matches in (*_integers(counts), *_halves(counts), *_doubles(counts), *_floats(counts)):
        kinds[matches] = code
    return kinds


_Matches = Iterator[tuple[int, NDArray[np.bool_]]]


def _floats(counts: _Bytes) -> _Matches:
    for phase in range(4):
        tops = [(phase + 3) % 4, (phase + 3) % 4 + 4]
        yield _CODES[_Kind("f32", phase)], _tops(counts, _FLOAT, tops)


def _doubles(counts: _Bytes) -> _Matches:
    for phase in range(8):
        yield _CODES[_Kind("f64", phase)], _tops(counts, _FLOAT, [(phase + 7) % 8])


def _halves(counts: _Bytes) -> _Matches:
    for phase in range(2):
        tops = [place for place in range(_PLACES) if place % 2 != phase]
        rest = [place for place in range(_PLACES) if place % 2 == phase]
        # What is below the top byte is hardly ever zero if that is not.
        zeros = counts[:, :, _ZERO].astype(int)
        rich = (zeros[:, rest] <= zeros[:, tops] + _ZEROS_BELOW).all(axis=1)
        # Both signs occur: in sorted indices and in text they do not.
        rich &= _both_halves(counts[:, tops])
        yield _CODES[_Kind("f16", phase)], _tops(counts, _HALF, tops) & rich
        # A float16 between 2**-3 and 2**3 has the same top byte, but weights are smaller.
        yield _CODES[_Kind("bf16", phase)], _tops(counts, _FLOAT, tops) & rich


def _tops(counts: _Bytes, lane: int, tops: list[int]) -> NDArray[np.bool_]:
    """Tell the blocks that have an exponent, or zero, at the places ``tops``, and at no other."""
    others = [place for place in range(_PLACES) if place not in tops]
    exponents, zeros = counts[:, tops, lane].astype(int), counts[:, tops, _ZERO].astype(int)
    here = (exponents * _SAMPLES >= (_SAMPLES - zeros) * _MOST) & (exponents >= _SOME)
    elsewhere = counts[:, others, lane] > _RANDOM_AT_MOST
    return np.asarray(here.all(axis=1) & ~elsewhere.any(axis=1))


def _integers(counts: _Bytes) -> _Matches:
    for dtype, small, medium in (("i8", _SMALL, _MEDIUM), ("u8", _SMALL_UNSIGNED, _MEDIUM_UNSIGNED)):
        near, wider = counts[:, :, small].astype(int), counts[:, :, medium]
        even = near.max(axis=1) - near.min(axis=1) <= _SPREAD_AT_MOST
        small_enough = (near >= _SMALL_AT_LEAST).all(axis=1) & (wider >= _MEDIUM_AT_LEAST).all(axis=1)
        rich = (counts[:, :, _ZERO] <= _ZEROS_AT_MOST).all(axis=1)
        # Text has none of the upper half.
        yield _CODES[_Kind(dtype, 0)], even & small_enough & rich & _both_halves(counts)


def _both_halves(counts: _Bytes) -> NDArray[np.bool_]:
    """Tell the blocks that have bytes above and below 128 at each of these places."""
    high = counts[:, :, _HIGH]
    return np.asarray(((high >= _SIDE_AT_LEAST) & (high <= _SAMPLES - _SIDE_AT_LEAST)).all(axis=1))


def _runs(kinds: NDArray[np.uint8]) -> Iterator[tuple[int, int, int]]:
    """Yield runs of blocks of one kind: its code, the first block and the one behind the last.

    Short runs of other kinds and any number of zeros do not end a run.
    """
    edges = np.flatnonzero(np.diff(kinds)) + 1
    starts, stops = [0, *edges.tolist()], [*edges.tolist(), len(kinds)]
    whole = [
        (int(kinds[start]), start, stop)
        for start, stop in zip(starts, stops, strict=True)
        if kinds[start] >= _FIRST_KIND and (stop - start > _MAX_GAP_BLOCKS or _alone(kinds, start, stop))
    ]
    code, first, last = _NOTHING, 0, 0
    for kind, start, stop in whole:
        between = kinds[last:start]
        if kind == code and np.count_nonzero(between != _ZEROS) <= _MAX_GAP_BLOCKS:
            last = stop
            continue
        if code != _NOTHING:
            yield code, first, last
        code, first, last = kind, start, stop
    if code != _NOTHING:
        yield code, first, last


def _alone(kinds: NDArray[np.uint8], start: int, stop: int) -> bool:
    """Tell whether a run is not a part of another kind's, of which it has blocks on both sides."""
    return start == 0 or stop == len(kinds) or kinds[start - 1] < _FIRST_KIND or kinds[start - 1] != kinds[stop]


def _grown(data: _Bytes, kind: _Kind, start: int, stop: int) -> tuple[int, int]:
    """Move the ends of an array from those of blocks to those of the elements that look like the others.

    The elements of a block may begin before it or within it, so two blocks are looked at, one on either side.
    """
    width = WIDTHS[kind.dtype]
    if width == 1:
        # The last block is rarely whole.
        return start, len(data) if len(data) - stop < BLOCK_BYTES else stop
    phase = kind.phase % width
    first = max(0, start - BLOCK_BYTES)
    first += (phase - first) % width
    breaks = _breaks(data[first : min(start + BLOCK_BYTES, stop)], kind)
    low = first + width * (int(breaks[-1]) + 2 if len(breaks) else 0)
    first = max(low, stop - BLOCK_BYTES)
    first += (phase - first) % width
    near = data[first : stop + BLOCK_BYTES]
    breaks = _breaks(near, kind)
    return low, first + width * (int(breaks[0]) if len(breaks) else len(near) // width)


def _breaks(data: _Bytes, kind: _Kind) -> NDArray[np.intp]:
    """Return where two elements, one after the other, do not look like the elements of an array.

    One alone is nothing: weights can be very small.
    """
    width = WIDTHS[kind.dtype]
    elements = data[: len(data) // width * width].reshape(-1, width)
    lane = _HALF if kind.dtype == "f16" else _FLOAT
    odd = (_PROPERTIES[elements[:, -1]] >> np.uint64(8 * lane)) & np.uint64(1) == 0
    odd &= elements[:, :-1].any(axis=1) | (elements[:, -1] & 0x7F != 0)
    return np.flatnonzero(odd[:-1] & odd[1:])
