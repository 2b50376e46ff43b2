"""A deflated stream is read into its blocks, and these into where they have matches: what a patch says of it.

Most bytes of weights are literals, a match comes after some hundreds of them. So a block's literals are not decoded one
by one: what the stream inflates to is known, so its codes are laid out as if there were no matches, and compared with
the stream; where they part there is a match.

Source: RFC 1951.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from artifacts.patch.huffman import (
    CODE_LENGTH_ORDER,
    DISTANCE_BASES,
    DISTANCE_EXTRA_BITS,
    END_OF_BLOCK,
    FIXED_LENGTHS,
    LEAST_DISTANCES,
    LEAST_LITERALS,
    LEAST_RUNS,
    LENGTH_BASES,
    LENGTH_EXTRA_BITS,
    MAX_CODE_BITS,
    MAX_DISTANCES,
    MAX_LITERALS,
    MAX_RUN_BITS,
    RUN_EXTRA_BITS,
    RUN_LEAST,
    codes_of,
    lookup_of,
)

__all__ = ["Block", "CodeLengths", "Dense", "ReadLimits", "Unreadable", "parsed"]

# Literals that are laid out at once, and of these, how many are compared at once: about as many as stand between two
# matches in a stream of weights.
_LAID_OUT = 8192
_COMPARED = 384
# Bytes of the stream that are held at once, and how far behind a code others are compared.
_HELD = 1 << 16
_AHEAD = _COMPARED * MAX_CODE_BITS // 8 + 16
# The longest length has two spellings; no deflater uses the one with all extra bits set.
_SECOND_SPELLING = (END_OF_BLOCK + 1 + 27, 31)
_RUNS: Final = (16, 17, 18)
# The bytes that all code lengths of a block take at most: 14 bits each.
_HEAD_BYTES = (MAX_LITERALS + MAX_DISTANCES) * 14 // 8 + 2
_CODE_MASK = (1 << MAX_CODE_BITS) - 1


class Unreadable(ValueError):
    """A stream that breaks a rule of RFC 1951, or that has something a patch cannot say."""


class Dense(ValueError):
    """A stream with more matches or blocks than it is read for.

    Attributes:
        matches: how many were read.
    """

    def __init__(self, matches: int) -> None:
        super().__init__("there are more matches or blocks than the stream is read for")
        self.matches = matches


class ReadLimits(NamedTuple):
    """How many matches and blocks of a stream are read: so many, and one more for so many bytes that it inflates to.

    A match takes some twenty microseconds, a block half a millisecond. Most deflaters make blocks of 11 KiB and more.
    """

    free_matches: int
    bytes_per_match: int
    free_blocks: int = 256
    bytes_per_block: int = 2048


@dataclass(frozen=True, slots=True)
class CodeLengths:
    """What stands before a block with codes of its own.

    Attributes:
        literals: lengths of the codes for literals and lengths, in bits, as many as the block says: 257 to 286.
        distances: those for distances: 1 to 30.
        runs: lengths of the codes that these are written with, in the order of `CODE_LENGTH_ORDER`: 4 to 19.
        symbols: the symbols that they are written with.
        added: what the run of each adds.
    """

    literals: bytes
    distances: bytes
    runs: bytes
    symbols: bytes
    added: bytes


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a stream.

    Attributes:
        kind: 0 stored, 1 with fixed codes, 2 with codes of its own.
        is_last: whether the stream ends with it.
        bit: where it begins in the stream.
        start: where the bytes begin that it inflates to.
        length: how many these are.
        codes: of a block of kind 2.
        places: where its matches begin, from the start of the block on.
        lengths: of the matches.
        distances: of the matches.
    """

    kind: int
    is_last: bool
    bit: int
    start: int
    length: int
    codes: CodeLengths | None
    places: NDArray[np.int64]
    lengths: NDArray[np.int64]
    distances: NDArray[np.int64]


def parsed(deflated: memoryview, raw: memoryview, limits: ReadLimits) -> Iterator[Block]:
    """Yield the blocks of a stream.

    Args:
        deflated: a raw stream, all of it.
        raw: what it inflates to.
        limits: how much is read.

    Raises:
        Unreadable: it is no such stream, something follows it, or a patch cannot say how it is written.
        Dense: it has more matches or blocks.
    """
    return _Parser(deflated, raw, limits).blocks()


class _Parser:
    def __init__(self, deflated: memoryview, raw: memoryview, limits: ReadLimits) -> None:
        self._deflated = deflated
        self._end = 8 * len(deflated)
        self._load(0)
        self._bytes, self._raw = raw, np.frombuffer(raw, np.uint8)
        self._limits = limits
        self._blocks = self._matches = 0
        self._bit = 0
        self._made = 0

    def blocks(self) -> Iterator[Block]:
        is_last = False
        while not is_last:
            self._blocks += 1
            if self._blocks > self._limits.free_blocks + self._made // self._limits.bytes_per_block:
                raise Dense(self._matches)
            begin, start = self._bit, self._made
            is_last, kind = bool(self._take(1)), self._take(2)
            codes, matches = None, array("q")
            if kind == 0:
                self._stored()
            elif kind == 1:
                matches = self._coded(*FIXED_LENGTHS)
            elif kind == 2:
                codes = self._code_lengths()
                literals, distances = (np.frombuffer(side, np.uint8) for side in (codes.literals, codes.distances))
                matches = self._coded(literals, distances)
            else:
                raise Unreadable("a block is of no kind")
            found = np.array(matches, np.int64).reshape(-1, 3)
            length = self._made - start
            yield Block(kind, is_last, begin, start, length, codes, found[:, 0] - start, found[:, 1], found[:, 2])
        if self._made != len(self._raw) or self._take(-self._bit % 8) or self._bit != self._end:
            raise Unreadable("the stream does not end where it should")

    def _peek(self, octets: int = 7) -> int:
        """Return the next bits, one byte less than so many at least."""
        if self._bit >= self._reload:
            self._load(self._bit >> 3)
        place = (self._bit >> 3) - self._origin
        return int.from_bytes(self._data[place : place + octets], "little") >> (self._bit & 7)

    def _load(self, start: int) -> None:
        """Hold the part of the stream that begins at a byte; all of it would take as much memory as the file."""
        self._origin = start
        self._data = bytes(self._deflated[start : start + _HELD]) + bytes(_AHEAD)
        # The 32 bits that begin at each byte.
        self._words = np.ndarray((len(self._data) - 3,), "<u4", self._data, strides=(1,))
        # Behind the last part there is room to look ahead.
        self._reload = 8 * (start + _HELD - _AHEAD) if start + _HELD < len(self._deflated) else self._end + 1

    def _take(self, bits: int) -> int:
        found = self._peek() & (1 << bits) - 1
        self._skip(bits)
        return found

    def _skip(self, bits: int) -> None:
        self._bit += bits
        if self._bit > self._end:
            raise Unreadable("the stream is cut off")

    def _stored(self) -> None:
        if self._take(-self._bit % 8):
            raise Unreadable("bits that mean nothing are not 0")
        length = self._take(16)
        if self._take(16) != length ^ 0xFFFF:
            raise Unreadable("a stored block has another length than it says")
        start = self._bit // 8
        if self._deflated[start : start + length] != self._bytes[self._made : self._made + length]:
            raise Unreadable("the stream holds something else than it inflates to")
        self._bit += 8 * length
        self._made += length

    def _code_lengths(self) -> CodeLengths:
        literals, distances = self._take(5) + LEAST_LITERALS, self._take(5) + LEAST_DISTANCES
        count = self._take(4) + LEAST_RUNS
        if literals > MAX_LITERALS or distances > MAX_DISTANCES:
            raise Unreadable("a block has codes for more symbols than there are")
        runs = bytes(self._take(3) for _ in range(count))
        of_runs = np.zeros(len(CODE_LENGTH_ORDER), np.uint8)
        of_runs[list(CODE_LENGTH_ORDER[:count])] = np.frombuffer(runs, np.uint8)
        lookup, bits = _lookup(of_runs, MAX_RUN_BITS).tolist(), of_runs.tolist()
        found, symbols, added = bytearray(), bytearray(), bytearray()
        # All that can come is looked at as one number: this is most of what a block takes that is not its literals.
        window, used = self._peek(_HEAD_BYTES), 0
        while len(found) < literals + distances:
            symbol = lookup[window & (1 << MAX_RUN_BITS) - 1]
            if symbol < 0 or (symbol == _RUNS[0] and not found):
                raise Unreadable("code lengths are damaged")
            count, more = bits[symbol], 0
            window >>= count
            if symbol < _RUNS[0]:
                found.append(symbol)
            else:
                extra = RUN_EXTRA_BITS[symbol]
                more = window & (1 << extra) - 1
                window >>= extra
                count += extra
                found += bytes([found[-1] if symbol == _RUNS[0] else 0]) * (RUN_LEAST[symbol] + more)
            symbols.append(symbol)
            added.append(more)
            used += count
        self._skip(used)
        if len(found) > literals + distances:
            raise Unreadable("there are more code lengths than symbols")
        return CodeLengths(bytes(found[:literals]), bytes(found[literals:]), runs, bytes(symbols), bytes(added))

    def _coded(self, literals: NDArray[np.uint8], distances: NDArray[np.uint8]) -> array[int]:
        """Read a block's symbols; return the place, the length and the distance of each match."""
        lookup, of_distances = _lookup(literals), _lookup(distances)
        bits, distance_bits = literals.tolist(), distances.tolist()
        masks = ((1 << literals[:END_OF_BLOCK].astype(np.int64)) - 1).astype(np.uint32)
        # A literal that has no code is at no place what stands in the stream.
        codes = np.where(masks == 0, 1, codes_of(literals[None])[0, :END_OF_BLOCK]).astype(np.uint32)
        # Not a list: the memory of many small objects is not given back as readily.
        found = array("q")
        laid = _LaidOut(self._raw, self._made, literals, codes, masks)
        while True:
            if self._made >= laid.end:
                laid = _LaidOut(self._raw, self._made, literals, codes, masks)
            self._literals(laid)
            if self._made == laid.end < len(self._raw):
                continue
            symbol = int(lookup[self._peek() & _CODE_MASK])
            if symbol < END_OF_BLOCK or symbol >= MAX_LITERALS:
                raise Unreadable("the stream holds something else than it inflates to")
            self._skip(bits[symbol])
            if symbol == END_OF_BLOCK:
                return found
            symbol -= END_OF_BLOCK + 1
            more = self._take(int(LENGTH_EXTRA_BITS[symbol]))
            if (symbol + END_OF_BLOCK + 1, more) == _SECOND_SPELLING:
                raise Unreadable("a length has an unusual spelling")
            length = int(LENGTH_BASES[symbol]) + more
            far = int(of_distances[self._peek() & _CODE_MASK])
            if not 0 <= far < MAX_DISTANCES:
                raise Unreadable("a distance is damaged")
            self._bit += distance_bits[far]
            distance = int(DISTANCE_BASES[far]) + self._take(int(DISTANCE_EXTRA_BITS[far]))
            source, end = self._made - distance, self._made + length
            if source < 0 or self._bytes[source : end - distance] != self._bytes[self._made : end]:
                raise Unreadable("a match is of other bytes")
            found.extend((self._made, length, distance))
            self._made += length
            self._matches += 1
            if self._matches > self._limits.free_matches + self._made // self._limits.bytes_per_match:
                raise Dense(self._matches)

    def _literals(self, laid: _LaidOut) -> None:
        """Go on over the literals that stand next in the stream."""
        while self._made < laid.end:
            if self._bit >= self._reload:
                self._load(self._bit >> 3)
            first = self._made - laid.start
            last = first + _COMPARED
            # Where each code begins in the stream, if all are literals from here on.
            bits = laid.bits[first:last] + (self._bit - laid.bits[first])
            words = self._words[(bits >> 3) - self._origin] >> (bits & 7).astype(np.uint32)
            differ = (words & laid.masks[first:last]) != laid.codes[first:last]
            same = int(differ.argmax())
            if differ[same]:
                self._made += same
                self._bit = int(bits[same])
                return
            self._made += len(bits)
            self._bit = int(bits[-1]) + int(laid.lengths[first + len(bits) - 1])


class _LaidOut:
    """What comes next of a stream's bytes, as the codes they have if they are literals.

    Attributes:
        start, end: of the bytes.
        lengths, codes, masks: of their codes.
        bits: where each code begins, from the first on.
    """

    def __init__(
        self,
        raw: NDArray[np.uint8],
        start: int,
        lengths: NDArray[np.uint8],
        codes: NDArray[np.uint32],
        masks: NDArray[np.uint32],
    ) -> None:
        part = raw[start : start + _LAID_OUT]
        self.start, self.end = start, start + len(part)
        self.lengths = lengths.take(part)
        self.codes = codes.take(part)
        self.masks = masks.take(part)
        self.bits = np.cumsum(self.lengths, dtype=np.int64) - self.lengths


def _lookup(lengths: NDArray[np.uint8], longest: int = MAX_CODE_BITS) -> NDArray[np.int16]:
    try:
        return lookup_of(lengths, longest)
    except ValueError as problem:
        raise Unreadable(str(problem)) from problem
