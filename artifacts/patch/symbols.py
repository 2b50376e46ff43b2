"""What a patch says of a deflated member that is made symbol by symbol (`docs/patch-format.md`, section 9).

A member's bytes are made by operations like any others; a *segment* says how deflate writes some of them: where matches
stand, and in which codes. Where a match comes from is mostly the nearest place with the same bytes, and the lengths of
codes follow from how often each symbol occurs, so little of both has to be said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from artifacts.errors import PatchInvalid
from artifacts.patch.format import varint
from artifacts.patch.huffman import (
    DISTANCE_SYMBOLS,
    END_OF_BLOCK,
    LEAST_DISTANCES,
    LEAST_LITERALS,
    LEAST_RUNS,
    LENGTH_SYMBOLS,
    MAX_CODE_BITS,
    MAX_DISTANCES,
    MAX_LITERALS,
    MAX_RUN_BITS,
    MAX_RUNS,
    MIN_MATCH,
    RUN_EXTRA_BITS,
)

__all__ = [
    "FARTHEST_SEARCHED",
    "MAX_GAPS",
    "MAX_SEGMENT_BYTES",
    "NO_RANK",
    "SEGMENT_STREAMS",
    "Beginning",
    "Codes",
    "Kind",
    "Matches",
    "Segment",
    "Symbols",
    "add_differences",
    "covered_by",
    "differences_of",
    "expected_lengths",
    "frequencies",
    "read_segment",
    "segment_parts",
]

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]

MAX_SEGMENT_BYTES: Final = 1 << 15
"""A decoder holds so many bytes, and what it makes of them. Blocks are seldom longer."""

MAX_GAPS: Final = 1 << 12
"""Of a segment: a decoder holds a match in some ten numbers. Weights have fewer than a hundred in a block."""

MAX_STORED_BYTES: Final = 0xFFFF
"""Of a stored block (RFC 1951, 3.2.4)."""

FARTHEST_SEARCHED: Final = 1 << 12
"""So far back a decoder looks for the bytes of a match: zlib takes no match of three bytes from farther away, and of
weights there are few others."""

NO_RANK: Final = 255
"""In place of a rank: the distance is written out."""

LONG_GAP: Final = 255
"""So many literals, and no match behind them yet."""

SEGMENT_STREAMS: Final = 6
"""What segments say is in so many streams: numbers, gaps, lengths, ranks, distances, code lengths."""
_NUMBERS, _GAPS, _LENGTHS, _RANKS, _DISTANCES, _CODES = range(SEGMENT_STREAMS)

# Bits of a segment's first number.
_KIND, _LAST, _ENDS = 3, 4, 8
# Bits of the number that begins a block's code lengths.
_LITERALS_BITS, _DISTANCES_BITS = 5, 5
# What a patch takes for a match and for a segment, nearly, in bits.
_MATCH_BITS, _SEGMENT_BITS = 11.0, 240.0


class Kind(IntEnum):
    """What a segment begins with."""

    GOES_ON = 0
    STORED = 1
    FIXED = 2
    OWN_CODES = 3


@dataclass(frozen=True, slots=True)
class Matches:
    """The matches of a segment, as a patch has them: a byte for each, but of distances two.

    Attributes:
        gaps: how many literals stand before each, after a byte for each 255 of them.
        lengths: how long each is, minus 3.
        ranks: which of the places before it a match is of: of those with its first three bytes 0 is the nearest; or
            `NO_RANK`.
        distances: of those without a rank, minus 1: all lower bytes, then all higher ones.
    """

    gaps: bytes = b""
    lengths: bytes = b""
    ranks: bytes = b""
    distances: bytes = b""


@dataclass(frozen=True, slots=True)
class Codes:
    """What stands before a block with codes of its own (RFC 1951, 3.2.7).

    Attributes:
        literals: for how many literals and lengths there are codes: 257 to 286.
        distances: for how many distances: 1 to 30.
        differences: of the lengths of all these codes to the expected ones (`expected_lengths`), modulo 16: two a byte.
        runs: lengths of the codes that these lengths are written with, in the order of `CODE_LENGTH_ORDER`: 4 to 19.
        symbols: what they are written with, and what the run of each adds; None for `symbols_of` the two sides.
    """

    literals: int
    distances: int
    differences: bytes
    runs: bytes
    symbols: tuple[Bytes, Bytes] | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """How some of a member's bytes are written.

    Attributes:
        kind: what it begins.
        length: how many bytes; all of a stored block.
        is_last: whether the block that it begins is the last one.
        ends: whether the block ends with it.
        matches: None in a stored block.
        codes: of a block that has codes of its own.
    """

    kind: Kind
    length: int
    is_last: bool = False
    ends: bool = True
    matches: Matches | None = None
    codes: Codes | None = None


class Beginning(NamedTuple):
    """How a deflated member begins, if another one does so too.

    Attributes:
        raw_length: bytes that it inflates to.
        bits: how long it is.
        address: of its first byte.
    """

    raw_length: int
    bits: int
    address: int


@dataclass(frozen=True, slots=True)
class Symbols:
    """A member that is deflated symbol by symbol.

    Attributes:
        segments: of its bytes, but those that are kept.
        kept: how it begins, if a member of the base begins so too.
    """

    segments: tuple[Segment, ...]
    kept: Beginning | None = None

    @property
    def bits(self) -> float:
        """About what a patch takes to say it."""
        matches = sum(len(each.matches.lengths) for each in self.segments if each.matches is not None)
        return _SEGMENT_BITS * len(self.segments) + _MATCH_BITS * matches


def covered_by(places: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the places of all bytes that matches make."""
    starts = lengths.cumsum()
    total = int(starts[-1]) if len(starts) else 0
    starts -= lengths
    return np.repeat(places - starts, lengths) + np.arange(total, dtype=np.int64)


# ---- code lengths


def frequencies(
    raw: Bytes, starts: Sequence[int], rows: Places, lengths: Places, distances: Places, covered: Places
) -> NDArray[np.int64]:
    """Return how often segments have each literal and length, the end of a block once, and each distance.

    There is a row for each segment.

    Args:
        raw: the bytes of the segments, one after the other.
        starts: where each segment begins.
        rows: in which segment each match is.
        lengths: of the matches.
        distances: likewise.
        covered: the places of the bytes that they make.
    """
    found = np.empty((len(starts), MAX_LITERALS + MAX_DISTANCES), np.int64)
    literals, near, far = found[:, :END_OF_BLOCK], found[:, END_OF_BLOCK + 1 : MAX_LITERALS], found[:, MAX_LITERALS:]
    ends = [*starts[1:], len(raw)]
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        literals[row] = np.bincount(raw[start:end], minlength=END_OF_BLOCK)
    literals -= _counted(raw[covered], rows.repeat(lengths), literals.shape)
    found[:, END_OF_BLOCK] = 1
    near[:] = _counted(LENGTH_SYMBOLS[lengths - MIN_MATCH], rows, near.shape)
    far[:] = _counted(DISTANCE_SYMBOLS[distances - 1], rows, far.shape)
    return found


def _counted(symbols: Bytes, rows: Places, shape: tuple[int, ...]) -> NDArray[np.intp]:
    return np.bincount(rows * shape[1] + symbols, minlength=shape[0] * shape[1]).reshape(shape)


def expected_lengths(counts: NDArray[np.int64]) -> Bytes:
    """Return about how long the codes of blocks are: the whole number nearest to the logarithm of each symbol's share.

    Args:
        counts: of the first segment of each block, by `frequencies`.

    Returns:
        lengths in bits, 1 to 15, in the same form; 0 of a symbol that does not occur.
    """
    # One bit more for each of 14 bounds that are not reached; squares, since the half of a bit is a root.
    bounds = np.empty_like(counts)
    for side in (slice(MAX_LITERALS), slice(MAX_LITERALS, None)):
        bounds[:, side] = counts[:, side].sum(axis=1, keepdims=True)
    bounds *= bounds
    squares = counts * counts
    squares <<= 1
    lengths = np.ones(counts.shape, np.uint8)
    for _ in range(1, MAX_CODE_BITS):
        squares <<= 2
        lengths += squares < bounds
    lengths[counts == 0] = 0
    return lengths


def add_differences(codes: Codes, literals: Bytes, distances: Bytes) -> None:
    """Add to the expected lengths of a block's codes what they differ by; those beyond its codes become 0.

    Args:
        codes: what the patch says.
        literals: expected lengths of the codes for literals and lengths, in bits.
        distances: those for distances.
    """
    packed = np.frombuffer(codes.differences, np.uint8)
    differences = np.empty(2 * len(packed), np.uint8)
    differences[0::2], differences[1::2] = packed & 15, packed >> 4
    literals[: codes.literals] += differences[: codes.literals]
    literals &= 15
    literals[codes.literals :] = 0
    distances[: codes.distances] += differences[codes.literals : codes.literals + codes.distances]
    distances &= 15
    distances[codes.distances :] = 0


def differences_of(literals: Bytes, distances: Bytes, expected: Bytes) -> bytes:
    """Return what a patch says of the lengths of a block's codes: their differences to those expected."""
    likely = expected[: len(literals)], expected[MAX_LITERALS : MAX_LITERALS + len(distances)]
    differences = np.concatenate((literals, distances)) - np.concatenate(likely) & 15
    padded = np.zeros(len(differences) + 1 & ~1, np.uint8)
    padded[: len(differences)] = differences
    return (padded[0::2] | padded[1::2] << 4).tobytes()


# ---- written


def segment_parts(segment: Segment) -> Iterator[tuple[int, bytes]]:
    """Yield what a patch says of a segment: bytes, each after the number of their stream among those of segments."""
    numbers = [segment.kind | _LAST * segment.is_last | _ENDS * segment.ends, segment.length]
    matches, codes = segment.matches, segment.codes
    if matches is not None:
        numbers.append(len(matches.gaps))
    if codes is not None:
        packed = len(codes.runs) - LEAST_RUNS << _DISTANCES_BITS | codes.distances - LEAST_DISTANCES
        packed = packed << _LITERALS_BITS | codes.literals - LEAST_LITERALS
        numbers.append(packed << 1 | (codes.symbols is not None))
        if codes.symbols is not None:
            numbers.append(len(codes.symbols[0]))
    yield _NUMBERS, b"".join(map(varint, numbers))
    if matches is not None:
        yield _GAPS, matches.gaps
        yield _LENGTHS, matches.lengths
        yield _RANKS, matches.ranks
        yield _DISTANCES, matches.distances
    if codes is not None:
        yield _CODES, codes.differences + codes.runs
        if codes.symbols is not None:
            symbols, added = codes.symbols
            yield _CODES, symbols.tobytes() + added[symbols >= min(RUN_EXTRA_BITS)].tobytes()


# ---- read


def read_segment(number: Callable[[], int], take: Callable[[int, int], bytes], *, begins: bool) -> Segment:
    """Read what a patch says of a segment, and check it.

    Args:
        number: reads a number of the first stream.
        take: takes bytes of one of the streams.
        begins: whether a block begins here.

    Raises:
        PatchInvalid: it cannot be right.
    """
    first, length = number(), number()
    kind, is_last, ends = Kind(first & _KIND), bool(first & _LAST), bool(first & _ENDS)
    if first >= _ENDS << 1 or (kind == Kind.GOES_ON) == begins or (is_last and not begins):
        raise PatchInvalid("a segment begins as none can here")
    if kind == Kind.STORED:
        if length > MAX_STORED_BYTES or not ends:
            raise PatchInvalid("a stored block has another length than any has")
        return Segment(kind, length, is_last)
    if length > MAX_SEGMENT_BYTES:
        raise PatchInvalid(f"a segment has {length} bytes")
    count = number()
    if count > min(length, MAX_GAPS):
        raise PatchInvalid(f"a segment of {length} bytes has {count} gaps")
    codes = _read_counts(number) if kind == Kind.OWN_CODES else None
    matches = _read_matches(take, count)
    return Segment(kind, length, is_last, ends, matches, None if codes is None else codes(take))


def _read_matches(take: Callable[[int, int], bytes], count: int) -> Matches:
    gaps = take(_GAPS, count)
    matches = count - gaps.count(LONG_GAP)
    lengths, ranks = take(_LENGTHS, matches), take(_RANKS, matches)
    return Matches(gaps, lengths, ranks, take(_DISTANCES, 2 * ranks.count(NO_RANK)))


def _read_counts(number: Callable[[], int]) -> Callable[[Callable[[int, int], bytes]], Codes]:
    """Read how many code lengths there are; return what reads them."""
    packed = number()
    spelled, packed = packed & 1, packed >> 1
    literals = (packed & (1 << _LITERALS_BITS) - 1) + LEAST_LITERALS
    packed >>= _LITERALS_BITS
    distances = (packed & (1 << _DISTANCES_BITS) - 1) + LEAST_DISTANCES
    runs = (packed >> _DISTANCES_BITS) + LEAST_RUNS
    symbols = number() if spelled else 0
    if literals > MAX_LITERALS or distances > MAX_DISTANCES or runs > MAX_RUNS or symbols > literals + distances:
        raise PatchInvalid("a block has codes for more symbols than there are")

    def read(take: Callable[[int, int], bytes]) -> Codes:
        differences, of_runs = take(_CODES, (literals + distances + 1) // 2), take(_CODES, runs)
        if max(of_runs) > MAX_RUN_BITS:
            raise PatchInvalid("a code for code lengths is too long")
        if not spelled:
            return Codes(literals, distances, differences, of_runs)
        written = np.frombuffer(take(_CODES, symbols), np.uint8)
        if symbols and int(written.max()) >= MAX_RUNS:
            raise PatchInvalid("code lengths are written with a symbol that is none")
        is_run = written >= min(RUN_EXTRA_BITS)
        added = np.zeros(symbols, np.uint8)
        added[is_run] = np.frombuffer(take(_CODES, int(np.count_nonzero(is_run))), np.uint8)
        pairs = zip(written[is_run].tolist(), added[is_run].tolist(), strict=True)
        if any(more >> RUN_EXTRA_BITS[symbol] for symbol, more in pairs):
            raise PatchInvalid("a run of code lengths is longer than any")
        return Codes(literals, distances, differences, of_runs, (written, added))

    return read
