"""Deflates a member of the target symbol by symbol: as the patch says, and not as some version of zlib would.

Whatever wrote the member, its bytes come out again, and nothing is searched for but the nearest places of some matches,
so it takes about two thirds of zlib's time. Blocks of weights are short, and numpy takes as long for a short array as
for a long one, so several segments are written at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from artifacts.errors import PatchInvalid
from artifacts.patch.bit_sink import BitSink
from artifacts.patch.block_heads import BlockCodes, BlockHeads
from artifacts.patch.huffman import (
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
    MIN_MATCH,
)
from artifacts.patch.repeats import Repeats, candidates_for
from artifacts.patch.symbols import (
    FARTHEST_SEARCHED,
    LONG_GAP,
    NO_RANK,
    Kind,
    Matches,
    Segment,
    add_differences,
    covered_by,
    expected_lengths,
    frequencies,
)

__all__ = ["Kept", "SymbolDeflater"]

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]

# So many bytes of segments are written at once, and as many at most that matches make, one segment at least. What they
# become takes five times as much memory, and for those of matches thirty times.
_BATCH_BYTES: Final = 9 << 14
_BATCH_MATCHED: Final = 1 << 13
# Codes and heads of a segment take some fifteen kilobytes.
_BATCH_SEGMENTS: Final = 16
# So many codes are packed at once, in several times their memory: a multiple of four.
_PACKED_CODES: Final = 1 << 17
# So many places are looked at for all matches of a batch; where there are more, for those of each segment.
_MOST_PLACES: Final = 1 << 14

# What a match takes is put into the places of its first three bytes, in parts of so many bits.
_PART_BITS: Final = 16


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
        # Of the block that goes on.
        self._lengths: Bytes | None = None
        self._batch: list[Segment] = []
        self._batch_bytes = self._batch_matched = 0
        self._segment: Segment | None = read(True)

    def take(self, content: bytes | memoryview) -> Iterator[bytes]:
        """Take more bytes, and yield those that come out of them, or of those before.

        Raises:
            PatchInvalid: a segment cannot be right, or more comes out than was said.
        """
        self.raw_left -= len(content)
        skipped = min(self._skipped, len(content))
        self._skipped -= skipped
        self._waiting += content
        self._forget(skipped)
        while not self._skipped and self._segment is not None:
            length = self._segment.length
            if len(self._waiting) - FARTHEST_SEARCHED < self._batch_bytes + length:
                break
            matches = self._segment.matches
            matched = 0 if matches is None else sum(matches.lengths) + MIN_MATCH * len(matches.lengths)
            if (
                matches is None
                or len(self._batch) == _BATCH_SEGMENTS
                or self._batch_bytes + length > _BATCH_BYTES
                or self._batch_matched + matched > _BATCH_MATCHED
            ):
                yield self._counted(self._written())
            if matches is None:
                yield self._counted(self._stored(self._segment))
            else:
                self._batch.append(self._segment)
                self._batch_bytes += length
                self._batch_matched += matched
            self._next(self._segment)
        if self._segment is None and len(self._waiting) > FARTHEST_SEARCHED + self._batch_bytes:
            raise PatchInvalid("the segments of a deflated member are not as long as it is")

    def end(self) -> bytes:
        """Return what comes out at the end.

        Raises:
            PatchInvalid: the segments make something else, or all of it has another length than was said.
        """
        last = self._counted(self._written() + self._sink.pad())
        if self._segment is not None or len(self._waiting) != FARTHEST_SEARCHED or self._skipped:
            raise PatchInvalid("the segments of a deflated member are not as long as it is")
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
        batch = _Batch(self._batch, content, before, self._lengths)
        codes, bits = batch.slots()
        self._lengths = batch.last_lengths
        # Nothing but these is needed any more.
        del batch, content
        parts = (slice(start, start + _PACKED_CODES) for start in range(0, len(codes), _PACKED_CODES))
        made = b"".join([self._sink.put(codes[part], bits[part]) for part in parts])
        self._batch, self._batch_bytes, self._batch_matched = [], 0, 0
        return made


class _Batch:
    """Segments that are written at once.

    Args:
        segments: none is stored.
        content: their bytes, behind `FARTHEST_SEARCHED` others.
        before: how many of these there are in the member.
        lengths: of the codes of the block before, in bits: of literals and of distances, of each symbol.

    Attributes:
        last_lengths: of the codes of the last segment's block.

    Raises:
        PatchInvalid: a match is of nothing, or there are no such codes.
    """

    def __init__(self, segments: Sequence[Segment], content: bytes, before: int, lengths: Bytes | None) -> None:
        self._segments = segments
        self._raw = np.frombuffer(content, np.uint8, offset=FARTHEST_SEARCHED)
        raw_lengths = np.array([segment.length for segment in segments], np.int64)
        self._starts = raw_lengths.cumsum() - raw_lengths
        matches = [segment.matches for segment in segments if segment.matches is not None]
        self._rows = np.arange(len(segments)).repeat([len(one.lengths) for one in matches])
        self._lengths = np.frombuffer(b"".join([one.lengths for one in matches]), np.uint8).astype(np.int64)
        self._lengths += MIN_MATCH
        self._places = self._found_places(matches)
        self._distances = self._found_distances(content, matches, before)
        self._covered = covered_by(self._places, self._lengths)
        of_codes = self._code_lengths(lengths)
        self.last_lengths = of_codes[:, -1].copy()
        try:
            self._codes = BlockCodes(of_codes)
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

    def _found_distances(self, content: bytes, matches: Sequence[Matches], before: int) -> Places:
        """Return how far away each match is of.

        Raises:
            PatchInvalid: a match is of nothing.
        """
        ranks = np.frombuffer(b"".join([one.ranks for one in matches]), np.uint8)
        found = np.empty(len(ranks), np.int64)
        is_searched = ranks != NO_RANK
        if not is_searched.all():
            far = [np.frombuffer(one.distances, np.uint8).reshape(2, -1) for one in matches]
            low, high = np.concatenate(far, axis=1).astype(np.int64)
            found[~is_searched] = (low | high << 8) + 1
        if is_searched.any():
            found[is_searched] = self._searched(content, is_searched, ranks[is_searched])
        if len(found) and not 0 < int(found.min()) <= int(found.max()) <= MAX_DISTANCE:
            raise PatchInvalid("a match is of nothing, or of farther away than deflate reaches")
        if bool((found > self._places + before).any()):
            raise PatchInvalid("a match is of what is before its member")
        return found

    def _searched(self, content: bytes, is_searched: NDArray[np.bool_], ranks: Bytes) -> Places:
        """Return how far away the matches with a rank are of; 0 where there is no such place near enough."""
        places, rows = self._places[is_searched] + FARTHEST_SEARCHED, self._rows[is_searched]
        candidates = candidates_for(content, places)
        if sum(map(np.count_nonzero, candidates)) <= _MOST_PLACES:
            found = Repeats(content, places, candidates).distances(ranks)
        else:
            # The same bytes again and again.
            parts = []
            for row, start in enumerate(self._starts.tolist()):
                own = rows == row
                part = content[start : start + FARTHEST_SEARCHED + self._segments[row].length]
                asked = places[own] - start
                parts.append(Repeats(part, asked, candidates_for(part, asked)).distances(ranks[own]))
            found = np.concatenate(parts)
        return np.where(found > FARTHEST_SEARCHED, 0, found)

    def slots(self) -> tuple[NDArray[np.uint16], Bytes]:
        """Return codes and their lengths in bits: of each byte one, behind those of the head of its block."""
        codes, heads = self._codes, self._heads()
        # Behind each segment there is a place for the end of the block.
        ends = np.cumsum([heads.counts[row] + one.length + 1 for row, one in enumerate(self._segments)]).tolist()
        found, bits = (np.zeros(ends[-1] + 3 & ~3, dtype) for dtype in (np.uint16, np.uint8))
        starts = []
        for row, (segment, end) in enumerate(zip(self._segments, ends, strict=True)):
            start = end - 1 - segment.length
            heads.put(row, found, bits, start)
            first = int(self._starts[row])
            raw = self._raw[first : first + segment.length]
            codes.literals[row].take(raw, out=found[start : end - 1], mode="clip")
            codes.literal_bits[row].take(raw, out=bits[start : end - 1], mode="clip")
            if segment.ends:
                found[end - 1], bits[end - 1] = codes.literals[row, END_OF_BLOCK], codes.literal_bits[row, END_OF_BLOCK]
            starts.append(start)
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

    def _code_lengths(self, before: Bytes | None) -> Bytes:
        """Return the lengths of each segment's codes, as `BlockCodes` has them."""
        counts = frequencies(
            self._raw, self._starts.tolist(), self._rows, self._lengths, self._distances, self._covered
        )
        lengths = np.zeros((2, len(self._segments), LITERAL_SYMBOLS), np.uint8)
        lengths[0, :, :MAX_LITERALS], lengths[1, :, :MAX_DISTANCES] = np.split(
            expected_lengths(counts), [MAX_LITERALS], axis=1
        )
        for row, segment in enumerate(self._segments):
            if segment.codes is not None:
                add_differences(segment.codes, *lengths[:, row])
            elif segment.kind == Kind.FIXED:
                lengths[:, row] = FIXED_LENGTHS
            elif row:
                lengths[:, row] = lengths[:, row - 1]
            else:
                # No member begins with a segment that goes on.
                assert before is not None
                lengths[:, row] = before
        return lengths

    def _heads(self) -> BlockHeads:
        """Return what stands before each segment."""
        try:
            return BlockHeads(self._segments, self._codes)
        except ValueError as problem:
            raise PatchInvalid(f"the codes of code lengths are wrong: {problem}") from problem
