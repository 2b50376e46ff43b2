"""Deflates a member of the target symbol by symbol: as the patch says, and not as some version of zlib would.

Whatever wrote the member, its bytes come out again, and nothing is searched for but the nearest places of some matches:
several times as quick as zlib. Blocks of weights are short, and numpy takes as long for a small array as for one that
is not, so several segments are written at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from artifacts.errors import PatchInvalid
from artifacts.patch.bit_sink import BitSink
from artifacts.patch.huffman import (
    CODE_LENGTH_ORDER,
    DISTANCE_BASES,
    DISTANCE_EXTRA_BITS,
    DISTANCE_SYMBOLS,
    END_OF_BLOCK,
    FIXED_LENGTHS,
    LENGTH_BASES,
    LENGTH_EXTRA_BITS,
    LENGTH_SYMBOLS,
    LITERAL_SYMBOLS,
    MAX_DISTANCE,
    MAX_DISTANCES,
    MAX_LITERALS,
    MAX_RUNS,
    MIN_MATCH,
    RUN_EXTRA_BITS,
    codes_of,
    symbols_of,
)
from artifacts.patch.repeats import Repeats
from artifacts.patch.symbols import (
    FARTHEST_SEARCHED,
    LONG_GAP,
    NO_RANK,
    Codes,
    Kind,
    Matches,
    Segment,
    covered_by,
    expected_lengths,
    frequencies,
    with_differences,
)

__all__ = ["Kept", "SymbolDeflater"]

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]

# So many bytes of segments are written at once, and as many at most that matches make, one segment at least. What they
# become takes five times as much memory, and for those of matches thirty times.
_BATCH_BYTES: Final = 1 << 17
_BATCH_MATCHED: Final = 1 << 13

# What a match takes is put into the places of its first three bytes, in parts of so many bits.
_PART_BITS: Final = 16
# Numbers before a block's code lengths: its kind, how many literals, distances and runs there are.
_FIELDS: Final = 4
_FIELD_BITS: Final = np.array([3, 5, 5, 4], np.uint8)
_ORDER: Final = np.array(CODE_LENGTH_ORDER)
# Of each symbol that writes code lengths, the bits that say what its run adds.
_ADDED_BITS: Final = np.array([RUN_EXTRA_BITS.get(symbol, 0) for symbol in range(MAX_RUNS)], np.uint8)


class Kept(NamedTuple):
    """The beginning of a member that is written before anything is deflated.

    Attributes:
        raw: how many of the raw bytes it holds.
        bits: of its last byte, if that is not whole.
        used: how many bits of that byte they are.
    """

    raw: int = 0
    bits: int = 0
    used: int = 0


class SymbolDeflater:
    """One member of the target while it is deflated.

    Args:
        raw: bytes that are to be deflated.
        deflated: bytes that these make.
        kept: its beginning.
        read: reads the next segment; it is told whether a block begins there.
    """

    def __init__(self, raw: int, deflated: int, kept: Kept, read: Callable[[bool], Segment]) -> None:
        self._read = read
        self._left = deflated
        self.raw_left = raw
        self._skipped = kept.raw
        self._sink = BitSink(kept.bits, kept.used)
        # What came in, behind what matches may be of: at first that is nothing, which no match is of.
        self._waiting = bytearray(FARTHEST_SEARCHED)
        self._before = 0
        self._is_last = False
        self._codes: _Codes | None = None
        self._batch: list[Segment] = []
        self._batch_bytes = self._batch_matched = 0
        self._segment: Segment | None = read(True)

    def take(self, content: bytes | memoryview) -> bytes:
        """Take more bytes, and return those that come out of them, or of those before.

        Raises:
            PatchInvalid: a segment cannot be right, or more comes out than was said.
        """
        self.raw_left -= len(content)
        skipped = min(self._skipped, len(content))
        self._skipped -= skipped
        self._waiting += content
        self._forget(skipped)
        made = []
        while not self._skipped and self._segment is not None:
            length = self._segment.length
            if len(self._waiting) - FARTHEST_SEARCHED < self._batch_bytes + length:
                break
            matches = self._segment.matches
            matched = 0 if matches is None else sum(matches.lengths) + MIN_MATCH * len(matches.lengths)
            if (
                matches is None
                or self._batch_bytes + length > _BATCH_BYTES
                or self._batch_matched + matched > _BATCH_MATCHED
            ):
                made.append(self._written())
            if matches is None:
                made.append(self._stored(self._segment))
            else:
                self._batch.append(self._segment)
                self._batch_bytes += length
                self._batch_matched += matched
            self._next(self._segment)
        if self._segment is None and len(self._waiting) > FARTHEST_SEARCHED + self._batch_bytes:
            raise PatchInvalid("the segments of a deflated member are not as long as it is")
        return self._counted(b"".join(made))

    def end(self) -> bytes:
        """Return what comes out at the end.

        Raises:
            PatchInvalid: the segments make something else, or all of it has another length than was said.
        """
        last = self._written()
        if self._segment is not None or len(self._waiting) != FARTHEST_SEARCHED or self._skipped:
            raise PatchInvalid("the segments of a deflated member are not as long as it is")
        last = self._counted(last + self._sink.pad())
        if self._left:
            raise PatchInvalid("a deflated member has another length than the patch says")
        return last

    def _counted(self, deflated: bytes) -> bytes:
        self._left -= len(deflated)
        if self._left < 0:
            raise PatchInvalid("a deflated member has another length than the patch says")
        return deflated

    def _next(self, done: Segment) -> None:
        if done.kind != Kind.GOES_ON:
            self._is_last = done.is_last
        self._segment = None if done.ends and self._is_last else self._read(done.ends)

    def _forget(self, length: int) -> None:
        """Let bytes be behind what waits."""
        del self._waiting[:length]
        self._before += length

    def _stored(self, segment: Segment) -> bytes:
        head = np.zeros(4, np.uint16), np.zeros(4, np.uint8)
        head[0][0], head[1][0] = int(segment.is_last), 3
        length = segment.length.to_bytes(2, "little") + (segment.length ^ 0xFFFF).to_bytes(2, "little")
        raw = self._waiting[FARTHEST_SEARCHED : FARTHEST_SEARCHED + segment.length]
        self._forget(segment.length)
        return b"".join((self._sink.put(*head), self._sink.pad(), length, raw))

    def _written(self) -> bytes:
        """Return the bytes of the segments that wait, as far as they are whole."""
        if not self._batch:
            return b""
        content = bytes(memoryview(self._waiting)[: FARTHEST_SEARCHED + self._batch_bytes])
        before = self._before
        self._forget(self._batch_bytes)
        batch = _Batch(self._batch, content, before, self._codes)
        made = self._sink.put(*batch.slots())
        self._codes = batch.last_codes()
        self._batch, self._batch_bytes, self._batch_matched = [], 0, 0
        return made


class _Codes:
    """The codes of several blocks.

    Args:
        lengths: of the codes in bits: of literals and of distances, of each block, of each symbol.
    """

    def __init__(self, lengths: Bytes) -> None:
        self.lengths = lengths
        self.literal_bits, self.distance_bits = lengths
        self.literals, self.distances = codes_of(lengths.reshape(-1, LITERAL_SYMBOLS)).reshape(lengths.shape)


class _Batch:
    """Segments that are written at once.

    Args:
        segments: none is stored.
        content: their bytes, behind `FARTHEST_SEARCHED` others.
        before: how many of these there are in the member.
        codes: in its last row the codes of the block before.

    Raises:
        PatchInvalid: a match is of nothing, or there are no such codes.
    """

    def __init__(self, segments: Sequence[Segment], content: bytes, before: int, codes: _Codes | None) -> None:
        self._segments = segments
        self._raw = np.frombuffer(content, np.uint8, offset=FARTHEST_SEARCHED)
        lengths = [segment.length for segment in segments]
        self._starts = np.cumsum(lengths, dtype=np.int64) - np.array(lengths, np.int64)
        matches = [segment.matches for segment in segments if segment.matches is not None]
        self._rows = np.arange(len(segments)).repeat([len(one.lengths) for one in matches])
        self._lengths = np.frombuffer(b"".join([one.lengths for one in matches]), np.uint8).astype(np.int64)
        self._lengths += MIN_MATCH
        self._places = self._found_places(matches)
        self._distances = _distances(content, self._places, matches, before)
        self._covered = covered_by(self._places, self._lengths)
        try:
            self._codes = _Codes(self._code_lengths(codes))
        except ValueError as problem:
            raise PatchInvalid(f"the codes of a block are wrong: {problem}") from problem

    def _found_places(self, matches: Sequence[Matches]) -> Places:
        """Return where the matches begin.

        Raises:
            PatchInvalid: one does not end in its segment.
        """
        gaps = np.frombuffer(b"".join([one.gaps for one in matches]), np.uint8)
        places: Places = gaps.cumsum(dtype=np.int64)[gaps != LONG_GAP]
        ends = self._lengths.cumsum()
        places += ends - self._lengths
        # So far each is counted from the first segment's start, as if there were no literals behind a last match.
        skipped = np.array([sum(one.gaps) for one in matches], np.int64)
        counts = np.array([len(one.lengths) for one in matches], np.int64)
        matched = np.concatenate((np.zeros(1, np.int64), ends))[counts.cumsum() - counts]
        places += (self._starts - (skipped.cumsum() - skipped) - matched)[self._rows]
        stops = np.append(self._starts[1:], len(self._raw))
        if bool((places + self._lengths > stops[self._rows]).any()):
            raise PatchInvalid("a match ends behind its segment")
        return places

    def last_codes(self) -> _Codes:
        """Return the codes of the last segment's block, for one that goes on."""
        return self._codes

    def slots(self) -> tuple[NDArray[np.uint16], Bytes]:
        """Return codes and their lengths in bits: of each byte one, behind those of the head of its block."""
        codes, heads = self._codes, self._heads()
        starts, at = [], 0
        for segment, (values, _) in zip(self._segments, heads, strict=True):
            at += len(values)
            starts.append(at)
            # Behind each segment there is a place for the end of the block.
            at += segment.length + 1
        found, bits = np.zeros(at + 3 & ~3, np.uint16), np.zeros(at + 3 & ~3, np.uint8)
        for row, (segment, start, (values, widths)) in enumerate(zip(self._segments, starts, heads, strict=True)):
            found[start - len(values) : start], bits[start - len(values) : start] = values, widths
            first, end = int(self._starts[row]), start + segment.length
            raw = self._raw[first : first + segment.length]
            codes.literals[row].take(raw, out=found[start:end], mode="clip")
            codes.literal_bits[row].take(raw, out=bits[start:end], mode="clip")
            if segment.ends:
                found[end], bits[end] = codes.literals[row, END_OF_BLOCK], codes.literal_bits[row, END_OF_BLOCK]
        covered = self._covered + (np.array(starts, np.int64) - self._starts)[self._rows].repeat(self._lengths)
        found[covered], bits[covered] = self._match_codes()
        return found, bits

    def _match_codes(self) -> tuple[NDArray[np.uint16], Bytes]:
        """Return what stands in the places that matches cover, and how many bits of it.

        A match has the places of its first three bytes for its code, 16 bits each; the others have none.
        """
        codes, rows = self._codes, self._rows
        near, far = LENGTH_SYMBOLS[self._lengths - MIN_MATCH], DISTANCE_SYMBOLS[self._distances - 1]
        symbols = near.astype(np.intp) + END_OF_BLOCK + 1
        whole = codes.literals[rows, symbols].astype(np.int64)
        used = codes.literal_bits[rows, symbols].astype(np.int64)
        for values, widths in (
            (self._lengths - LENGTH_BASES[near], LENGTH_EXTRA_BITS[near]),
            (codes.distances[rows, far], codes.distance_bits[rows, far]),
            (self._distances - DISTANCE_BASES[far], DISTANCE_EXTRA_BITS[far]),
        ):
            whole |= values.astype(np.int64) << used
            used += widths
        found, bits = np.zeros(len(self._covered), np.uint16), np.zeros(len(self._covered), np.uint8)
        places = self._lengths.cumsum() - self._lengths
        for part in range(MIN_MATCH):
            found[places + part] = whole & 0xFFFF
            bits[places + part] = np.minimum(used, _PART_BITS)
            whole >>= _PART_BITS
            used = np.maximum(used - _PART_BITS, 0)
        return found, bits

    def _code_lengths(self, before: _Codes | None) -> Bytes:
        """Return the lengths of each segment's codes, as `_Codes` has them."""
        counts = frequencies(
            self._raw, self._starts.tolist(), self._rows, self._lengths, self._distances, self._covered
        )
        expected = expected_lengths(counts)
        lengths = np.zeros((2, len(self._segments), LITERAL_SYMBOLS), np.uint8)
        lengths[0, :, :MAX_LITERALS], lengths[1, :, :MAX_DISTANCES] = np.split(expected, [MAX_LITERALS], axis=1)
        for row, segment in enumerate(self._segments):
            if segment.codes is not None:
                with_differences(segment.codes, *lengths[:, row])
            elif segment.kind == Kind.FIXED:
                lengths[:, row] = FIXED_LENGTHS
            elif row:
                lengths[:, row] = lengths[:, row - 1]
            else:
                # No member begins with a segment that goes on.
                assert before is not None
                lengths[:, row] = before.lengths[:, -1]
        return lengths

    def _heads(self) -> list[tuple[NDArray[np.uint16], Bytes]]:
        """Return what stands before each segment, as codes."""
        own = [(row, segment, segment.codes) for row, segment in enumerate(self._segments) if segment.codes is not None]
        heads = [_short_head(segment) for segment in self._segments]
        if not own:
            return heads
        of_runs = np.zeros((len(own), MAX_RUNS), np.uint8)
        fields = np.zeros((len(own), _FIELDS + MAX_RUNS), np.uint16)
        widths = np.zeros((len(own), _FIELDS + MAX_RUNS), np.uint8)
        widths[:, :_FIELDS] = _FIELD_BITS
        for place, (_, segment, codes) in enumerate(own):
            runs = np.frombuffer(codes.runs, np.uint8)
            of_runs[place, _ORDER[: len(runs)]] = runs
            fields[place, :_FIELDS] = _kind_bits(segment), codes.literals - 257, codes.distances - 1, len(runs) - 4
            fields[place, _FIELDS : _FIELDS + len(runs)] = runs
            widths[place, _FIELDS : _FIELDS + len(runs)] = 3
        try:
            written = codes_of(of_runs)
        except ValueError as problem:
            raise PatchInvalid(f"the codes of code lengths are wrong: {problem}") from problem
        for place, ((row, _, _), (symbols, added)) in enumerate(zip(own, self._symbols(own), strict=True)):
            # Behind each symbol stands what its run adds; of most that has no bits.
            count = _FIELDS + MAX_RUNS
            values, bits = np.empty(count + 2 * len(symbols), np.uint16), np.empty(count + 2 * len(symbols), np.uint8)
            values[:count], bits[:count] = fields[place], widths[place]
            values[count::2], values[count + 1 :: 2] = written[place, symbols], added
            bits[count::2], bits[count + 1 :: 2] = of_runs[place, symbols], _ADDED_BITS[symbols]
            heads[row] = values, bits
        return heads

    def _symbols(self, own: Sequence[tuple[int, Segment, Codes]]) -> list[tuple[Bytes, Bytes]]:
        """Return the symbols that write the code lengths of blocks, with what their runs add."""
        sides, starts, at = [], [], 0
        for row, _, codes in own:
            for side, count in (
                (self._codes.literal_bits, codes.literals),
                (self._codes.distance_bits, codes.distances),
            ):
                sides.append(side[row, :count])
                starts.append(at)
                at += count
        symbols, added, ends = symbols_of(np.concatenate(sides), starts)
        usual = zip(np.split(symbols, ends[2::2]), np.split(added, ends[2::2]), strict=True)
        return [
            each if codes.symbols is None else codes.symbols for each, (_, _, codes) in zip(usual, own, strict=True)
        ]


def _kind_bits(segment: Segment) -> int:
    return int(segment.is_last) | segment.kind - 1 << 1


def _short_head(segment: Segment) -> tuple[NDArray[np.uint16], Bytes]:
    """Return what stands before a segment without codes of its own."""
    if segment.kind == Kind.GOES_ON:
        return np.zeros(0, np.uint16), np.zeros(0, np.uint8)
    return np.array([_kind_bits(segment)], np.uint16), np.array([3], np.uint8)


def _distances(content: bytes, places: Places, matches: Sequence[Matches], before: int) -> Places:
    """Return how far away each match is of.

    Args:
        content: the bytes of segments, behind `FARTHEST_SEARCHED` others.
        places: of the matches in the segments.
        matches: of each segment.
        before: how many of the bytes before there are in the member.

    Raises:
        PatchInvalid: a match is of nothing.
    """
    ranks = np.frombuffer(b"".join([one.ranks for one in matches]), np.uint8)
    found = np.empty(len(places), np.int64)
    is_searched = ranks != NO_RANK
    if not is_searched.all():
        far = [np.frombuffer(one.distances, np.uint8).reshape(2, -1) for one in matches]
        low, high = np.concatenate(far, axis=1).astype(np.int64)
        found[~is_searched] = (low | high << 8) + 1
        if int(found[~is_searched].max()) > MAX_DISTANCE:
            raise PatchInvalid("a match is of farther away than deflate reaches")
    if is_searched.any():
        repeats = Repeats(content, places[is_searched] + FARTHEST_SEARCHED)
        nearest = repeats.distances(ranks[is_searched])
        if int(nearest.min()) == 0 or int(nearest.max()) > FARTHEST_SEARCHED:
            raise PatchInvalid("a match is of nothing")
        found[is_searched] = nearest
    if bool((found > places + before).any()):
        raise PatchInvalid("a match is of nothing")
    return found
