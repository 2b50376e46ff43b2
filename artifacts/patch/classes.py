"""Which levels of elements share a code, and what code: from counts of the numbers at each level.

A code is a number of low bits that are written as they are, perhaps a mask of the zeros, and an alphabet of symbols for
the rest. Neighbouring levels are merged for as long as that costs less than another class, and then classes share the
streams of their symbols where their statistics are alike: each stream costs a table of Huffman codes for each frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from artifacts.patch.elements import ESCAPE, MAX_CLASSES
from artifacts.patch.tally import LEVELS, Counts, buckets, entropy

__all__ = ["ClassChoice", "Classes", "choose_classes"]

# What a class costs in the definition of a table, in bits: its coding and a run of the map of levels.
_CLASS_BITS = 8 * 6
# What a stream costs for each of its frames: a table of Huffman codes and the frame's head.
_FRAME_BITS = 8 * 70
# Symbols of a Huffman code take about this much more than their entropy (measured on residuals of fine-tunes).
_HUFFMAN_LOSS = 0.03
# Low bits that are tried around those at which a symbol has five bits: fewer for the shape, more for small alphabets.
_REACH = range(-4, 5)
_SYMBOL_BITS = 5

Histogram = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ClassChoice:
    """The code of a class.

    Attributes:
        low_bits: written apart from the symbols.
        sparse: whether zeros are told by a mask.
        symbols: which of the streams of symbols it has, counted from 0.
    """

    low_bits: int
    sparse: bool
    symbols: int


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of a table: which each level has, and their codes. ``bits`` is about what all elements take."""

    lut: bytes
    choices: tuple[ClassChoice, ...]
    bits: float

    @property
    def streams(self) -> int:
        """How many streams of symbols there are."""
        return max(choice.symbols for choice in self.choices) + 1


@dataclass(slots=True)
class _Run:
    """Levels from ``first`` to ``last`` that share a class."""

    first: int
    last: int
    counts: Counts
    low_bits: int
    sparse: bool
    bits: float


def choose_classes(counts: Counts, width: int, frame_bytes: int, max_streams: int = MAX_CLASSES) -> Classes:
    """Choose the classes of a table.

    Args:
        counts: of the numbers that it will code, from `tally`.
        width: of an element, in bytes.
        frame_bytes: the most bytes of a frame.
        max_streams: the most streams of symbols.
    """
    coder = _Coder(width)
    runs = [coder.run(int(level), int(level), counts[level]) for level in np.flatnonzero(counts.any(axis=1))]
    if not runs:
        return Classes(bytes(LEVELS), (ClassChoice(0, False, 0),), 0.0)
    _merge_levels(runs, coder)
    streams = _share_streams(runs, coder, frame_bytes, max_streams)
    choices = tuple(ClassChoice(run.low_bits, run.sparse, streams[place]) for place, run in enumerate(runs))
    return Classes(_lut(runs), choices, sum(run.bits for run in runs))


def _lut(runs: Sequence[_Run]) -> bytes:
    lut = bytearray(LEVELS)
    for number, run in enumerate(runs):
        # Levels at which nothing was counted belong to the class below them.
        start = run.first if number else 0
        lut[start:] = bytes([number]) * (LEVELS - start)
    return bytes(lut)


def _merge_levels(runs: list[_Run], coder: _Coder) -> None:
    def merged(place: int) -> tuple[float, _Run]:
        one, other = runs[place], runs[place + 1]
        run = coder.run(one.first, other.last, one.counts + other.counts)
        return run.bits - one.bits - other.bits, run

    pairs = [merged(place) for place in range(len(runs) - 1)]
    while pairs:
        place = min(range(len(pairs)), key=lambda at: pairs[at][0])
        if pairs[place][0] > 0 and len(runs) <= MAX_CLASSES:
            return
        runs[place : place + 2] = [pairs[place][1]]
        del pairs[place]
        for near in (place - 1, place):
            if 0 <= near < len(pairs):
                pairs[near] = merged(near)


def _share_streams(runs: Sequence[_Run], coder: _Coder, frame_bytes: int, max_streams: int) -> list[int]:
    """Return the stream of symbols of each class."""
    members = [[place] for place in range(len(runs))]
    histograms = [coder.symbols(run) for run in runs]
    costs = [_stream_bits(histogram, frame_bytes) for histogram in histograms]
    while len(members) > 1:
        options = [
            (_stream_bits(histograms[one] + histograms[other], frame_bytes) - costs[one] - costs[other], one, other)
            for one, other in combinations(range(len(members)), 2)
        ]
        gain, one, other = min(options)
        if gain > 0 and len(members) <= max_streams:
            break
        members[one] += members.pop(other)
        histograms[one] = histograms[one] + histograms.pop(other)
        costs.pop(other)
        costs[one] = _stream_bits(histograms[one], frame_bytes)
    streams = [0] * len(runs)
    for number, places in enumerate(members):
        for place in places:
            streams[place] = number
    return streams


def _stream_bits(histogram: Histogram, frame_bytes: int) -> float:
    total = histogram.sum()
    return _symbol_bits(histogram) + _FRAME_BITS * max(1.0, total / frame_bytes) if total else 0.0


def _symbol_bits(histogram: Histogram) -> float:
    """Return what Huffman's code makes of symbols that occur so often."""
    total = float(histogram.sum())
    if not total:
        return 0.0
    most = float(histogram.max())
    bits = entropy(histogram) + _HUFFMAN_LOSS * (total if most < total else 0.0)
    if most * 2 <= total:
        return bits
    # The shortest code has one bit, so what is more frequent than half costs more than its entropy.
    rest = histogram.copy()
    rest[histogram.argmax()] = 0
    return max(bits, total - most + entropy(rest) + most * min(1.0, 8 * (1 - most / total) + 0.02))


class _Coder:
    """Prices codes for numbers of one width."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._buckets = buckets(width)

    def run(self, first: int, last: int, counts: Counts) -> _Run:
        """Return levels with the code that suits their numbers best."""
        bits, low_bits, sparse = min(self._options(counts))
        return _Run(first, last, counts, low_bits, sparse, bits + _CLASS_BITS)

    def symbols(self, run: _Run) -> Histogram:
        """Return how often a run of levels has each symbol."""
        return self._symbols(run.counts, run.low_bits, run.sparse)[0]

    def _options(self, counts: Counts) -> Iterator[tuple[float, int, bool]]:
        total = int(counts.sum())
        zeros = int(counts[0])
        middle = np.searchsorted(np.cumsum(counts), (total + zeros) // 2)
        centre = int(self._buckets.starts[min(int(middle), len(counts) - 1)]).bit_length() - _SYMBOL_BITS
        for low_bits in sorted({min(max(centre + reach, 0), 8 * self._width - 1) for reach in _REACH}):
            yield self._bits(counts, low_bits, sparse=False), low_bits, False
            if zeros * 4 > total:
                mask = entropy(np.array([zeros, total - zeros])) + 0.01 * total
                yield mask + self._bits(counts, low_bits, sparse=True), low_bits, True

    def _bits(self, counts: Counts, low_bits: int, *, sparse: bool) -> float:
        histogram, noise = self._symbols(counts, low_bits, sparse)
        total = float(histogram.sum())
        return _symbol_bits(histogram) + noise + low_bits * total + 8 * self._width * float(histogram[ESCAPE])

    def _symbols(self, counts: Counts, low_bits: int, sparse: bool) -> tuple[Histogram, float]:
        """Return how often each symbol occurs, and the bits of the symbols that the buckets do not tell."""
        starts = self._buckets.starts
        if sparse:
            counts, starts = counts[1:], starts[1:] - np.uint64(1)
        symbols = np.minimum(starts >> np.uint64(low_bits), ESCAPE).astype(np.int64)
        weights = counts.astype(np.float64)
        histogram = np.bincount(symbols, weights=weights, minlength=ESCAPE + 1).astype(np.float64)
        untold = np.maximum(self._buckets.bits[int(sparse) :] - low_bits, 0)
        return histogram, float((counts * untold)[symbols < ESCAPE].sum())
