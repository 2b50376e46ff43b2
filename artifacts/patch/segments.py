"""The blocks of a deflated stream become segments: what a patch says of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from artifacts.patch.huffman import MIN_MATCH, symbols_of
from artifacts.patch.parse_deflate import Block
from artifacts.patch.repeats import Repeats, candidates_for
from artifacts.patch.symbols import (
    FARTHEST_SEARCHED,
    LONG_GAP,
    MAX_GAPS,
    MAX_SEGMENT_BYTES,
    NO_RANK,
    Codes,
    Kind,
    Matches,
    Segment,
    covered_by,
    differences_of,
    expected_lengths,
    frequencies,
)

__all__ = ["segments_of"]


def segments_of(block: Block, raw: memoryview) -> Iterator[Segment]:
    """Yield the segments of a block.

    Args:
        block: of a stream.
        raw: all that the stream inflates to.
    """
    if block.kind == 0:
        yield Segment(Kind.STORED, block.length, block.is_last)
        return
    kind, codes = Kind(block.kind + 1), None
    at = first = 0
    while True:
        end, last = _end_of_segment(block, at, first)
        matches = _matches(block, first, last, at, raw)
        if kind == Kind.OWN_CODES and block.codes is not None:
            part = raw[block.start + at : block.start + end]
            codes = _codes(block, np.frombuffer(part, np.uint8), last)
        yield Segment(kind, end - at, block.is_last and kind != Kind.GOES_ON, end == block.length, matches, codes)
        if end == block.length:
            return
        at, first, kind, codes = end, last, Kind.GOES_ON, None


def _end_of_segment(block: Block, at: int, first: int) -> tuple[int, int]:
    """Return where the segment ends that begins at a place with a match, and the match behind it."""
    end, last = min(block.length, at + MAX_SEGMENT_BYTES), len(block.places)
    # Behind so many matches there is room for gaps of 255 literals.
    if last - first > MAX_GAPS // 2:
        last = first + MAX_GAPS // 2
        end = min(end, int(block.places[last]))
    ends = block.places[first:last] + block.lengths[first:last]
    fits = first + int(ends.searchsorted(end, side="right"))
    # A match is in one segment.
    return (end, last) if fits == last else (min(end, int(block.places[fits])), fits)


def _matches(block: Block, first: int, last: int, at: int, raw: memoryview) -> Matches:
    places, lengths, distances = (one[first:last] for one in (block.places, block.lengths, block.distances))
    before = np.concatenate(([at], (places + lengths)[:-1]))[: len(places)]
    long, short = np.divmod(places - before, LONG_GAP)
    gaps = np.full(int(long.sum()) + len(long), LONG_GAP, np.uint8)
    gaps[np.cumsum(long + 1) - 1] = short
    ranks = np.full(len(places), NO_RANK, np.uint8)
    near = np.flatnonzero(distances <= FARTHEST_SEARCHED)
    if len(near):
        start = max(0, block.start + at - FARTHEST_SEARCHED)
        end = block.start + int(places[-1] + lengths[-1])
        content, asked = bytes(raw[start:end]), places[near] + block.start - start
        repeats = Repeats(content, asked, candidates_for(content, asked))
        ranks[near] = np.minimum(repeats.ranks(distances[near]), NO_RANK)
    far = (distances[ranks == NO_RANK] - 1).astype("<u2").view(np.uint8).reshape(-1, 2).T
    return Matches(gaps.tobytes(), (lengths - MIN_MATCH).astype(np.uint8).tobytes(), ranks.tobytes(), far.tobytes())


def _codes(block: Block, raw: NDArray[np.uint8], last: int) -> Codes:
    """Return what a patch says of a block's codes.

    Args:
        block: one with codes of its own.
        raw: the bytes of its first segment.
        last: how many matches that has.
    """
    said = block.codes
    assert said is not None
    literals, far = (np.frombuffer(side, np.uint8) for side in (said.literals, said.distances))
    lengths, distances = block.lengths[:last], block.distances[:last]
    covered = covered_by(block.places[:last], lengths)
    counts = frequencies(raw, [0], np.zeros_like(lengths), lengths, distances, covered)
    differences = differences_of(literals, far, expected_lengths(counts)[0])
    usual = symbols_of(np.concatenate((literals, far)), [0, len(literals)])[:2]
    found = np.frombuffer(said.symbols, np.uint8), np.frombuffer(said.added, np.uint8)
    symbols = None if all(map(np.array_equal, found, usual)) else found
    return Codes(len(literals), len(far), differences, said.runs, symbols)
