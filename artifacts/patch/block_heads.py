"""What stands before the blocks of a deflated stream: their kinds, and lengths of codes of their own (RFC 1951, 3.2).

The heads of several segments are made at once: numpy takes as long for a short array as for a long one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from artifacts.patch.huffman import (
    CODE_LENGTH_ORDER,
    LEAST_DISTANCES,
    LEAST_LITERALS,
    LEAST_RUNS,
    LITERAL_SYMBOLS,
    MAX_RUNS,
    RUN_EXTRA_BITS,
    codes_of,
    symbols_of,
)
from artifacts.patch.symbols import Kind, Segment

__all__ = ["BlockCodes", "BlockHeads"]

Bytes = NDArray[np.uint8]

# Numbers before a block's code lengths: its kind, how many literals, distances and runs there are.
_FIELDS: Final = 4
# Of a segment that goes on, of a block with fixed codes, and of one with codes of its own.
_FIELD_BITS: Final = np.array([[0, 0, 0, 0], [3, 0, 0, 0], [3, 5, 5, 4]], np.uint8)
_ORDER: Final = np.array(CODE_LENGTH_ORDER)
# Of each symbol that writes code lengths, the bits that say what its run adds.
_ADDED_BITS: Final = np.array([RUN_EXTRA_BITS.get(symbol, 0) for symbol in range(MAX_RUNS)], np.uint8)


class BlockCodes:
    """The codes of several blocks.

    Args:
        lengths: of the codes in bits: of literals and of distances, of each block, of each symbol.
    """

    def __init__(self, lengths: Bytes) -> None:
        self.literal_bits, self.distance_bits = lengths
        self.literals, self.distances = codes_of(lengths.reshape(-1, LITERAL_SYMBOLS)).reshape(lengths.shape)


class BlockHeads:
    """What stands before each segment: of one that begins a block its kind, and the lengths of codes of its own.

    Args:
        segments: none is stored.
        codes: of their blocks.

    Attributes:
        counts: how many places the head of each segment takes.

    Raises:
        ValueError: there are no such codes for code lengths.
    """

    def __init__(self, segments: Sequence[Segment], codes: BlockCodes) -> None:
        runs = np.frombuffer(
            b"".join([(b"" if one.codes is None else one.codes.runs).ljust(MAX_RUNS, b"\0") for one in segments]),
            np.uint8,
        ).reshape(-1, MAX_RUNS)
        numbers = np.array([_numbers(one) for one in segments])
        self._fields, self._widths = (
            np.zeros((len(segments), _FIELDS + MAX_RUNS), kind) for kind in (np.uint16, np.uint8)
        )
        self._fields[:, :_FIELDS], self._fields[:, _FIELDS:] = numbers[:, :_FIELDS], runs
        self._widths[:, :_FIELDS] = _FIELD_BITS[numbers[:, _FIELDS]]
        self._widths[:, _FIELDS:] = 3 * (np.arange(MAX_RUNS) < numbers[:, _FIELDS + 1, None])
        bits = np.zeros_like(runs)
        bits[:, _ORDER] = runs
        written = codes_of(bits)
        symbols, added, counts = _symbols(segments, codes)
        rows = np.arange(len(segments)).repeat(counts)
        # Behind each symbol stands what its run adds; of most that has no bits.
        self._codes, self._bits = (np.empty((len(symbols), 2), kind) for kind in (np.uint16, np.uint8))
        self._codes[:, 0], self._codes[:, 1] = written[rows, symbols], added
        self._bits[:, 0], self._bits[:, 1] = bits[rows, symbols], _ADDED_BITS[symbols]
        self._ends = counts.cumsum()
        self.counts: list[int] = (_FIELDS + MAX_RUNS + 2 * counts).tolist()

    def put(self, row: int, codes: NDArray[np.uint16], bits: Bytes, end: int) -> None:
        """Put the head of a segment into the places before ``end``."""
        start, middle = end - self.counts[row], end - self.counts[row] + _FIELDS + MAX_RUNS
        codes[start:middle], bits[start:middle] = self._fields[row], self._widths[row]
        last = int(self._ends[row])
        first = last - (end - middle) // 2
        codes[middle:end], bits[middle:end] = self._codes[first:last].ravel(), self._bits[first:last].ravel()


def _numbers(segment: Segment) -> tuple[int, ...]:
    """Return the numbers before a segment, how many of them there are (by row of `_FIELD_BITS`), and how many runs."""
    if segment.kind == Kind.GOES_ON:
        return 0, 0, 0, 0, 0, 0
    kind, codes = int(segment.is_last) | segment.kind - 1 << 1, segment.codes
    if codes is None:
        return kind, 0, 0, 0, 1, 0
    runs = len(codes.runs)
    return kind, codes.literals - LEAST_LITERALS, codes.distances - LEAST_DISTANCES, runs - LEAST_RUNS, 2, runs


def _symbols(segments: Sequence[Segment], codes: BlockCodes) -> tuple[Bytes, Bytes, NDArray[np.intp]]:
    """Return the symbols that write code lengths, what their runs add, and how many each segment has."""
    sides, starts, at = [], [], 0
    own = [(row, one.codes) for row, one in enumerate(segments) if one.codes is not None]
    for row, said in own:
        for side, count in ((codes.literal_bits, said.literals), (codes.distance_bits, said.distances)):
            sides.append(side[row, :count])
            starts.append(at)
            at += count
    counts = np.zeros(len(segments), np.intp)
    if not own:
        return np.zeros(0, np.uint8), np.zeros(0, np.uint8), counts
    symbols, added, firsts = symbols_of(np.concatenate(sides), starts)
    parts = [np.split(each, firsts[2::2]) for each in (symbols, added)]
    if any(said.symbols is not None for _, said in own):
        for place, (_, said) in enumerate(own):
            if said.symbols is not None:
                parts[0][place], parts[1][place] = said.symbols
        symbols, added = map(np.concatenate, parts)
    counts[[row for row, _ in own]] = [len(part) for part in parts[0]]
    return symbols, added, counts
