"""Which levels of elements share a code, and what code: from counts of the numbers at each level.

A code is a number of low bits that are written as they are, perhaps a mask of the zeros, and an alphabet of symbols for
the rest. Neighbouring levels are merged for as long as another class costs more than it saves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from artifacts.patch.elements import ESCAPE, MASKS
from artifacts.patch.tally import LEVELS, Counts, Tally, buckets, entropies, entropy

__all__ = ["ClassChoice", "Classes", "Histogram", "Histograms", "choose_classes", "mask_place", "symbol_bits"]

# Half as many again save another 0.1 %, and each takes its time in every block. Of numbers of one byte, half as many
# save as much, and so do fewer of a table that codes few numbers: those of small tensors, whose blocks are small.
_MAX_CLASSES = 16
_MAX_CLASSES_OF_BYTES = 8
_MIN_CLASSES, _NUMBERS_A_CLASS = 6, 2048
# What a class costs in the definition of a table, in bits: its coding and a run of the map of levels.
_CLASS_BITS = 8 * 6
# Symbols of a Huffman code take about this much more than their entropy (measured on residuals of fine-tunes), a mask
# that for each of its bits: a byte of it is one symbol.
_HUFFMAN_LOSS, _MASK_LOSS = 0.03, 0.006
# Low bits that are tried around those at which a symbol has five bits: fewer for the shape, more for small alphabets.
_REACH = range(-4, 5)
_SYMBOL_BITS = 5
# Shares of elements that have more than a mask tells, above which it is not tried.
_MASKED = {1: 0.75, 2: 0.4, 4: 0.2}

Histogram = npt.NDArray[np.float64]
# One to a row.
Histograms = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ClassChoice:
    """The code of a class.

    Attributes:
        low_bits: written apart from the symbols.
        mask_bits: of the mask; 0 without one.
        mask: how often each value of it occurs, those of other widths before: see `mask_place`.
        symbols: how often each symbol occurs.
    """

    low_bits: int
    mask_bits: int
    mask: Histogram
    symbols: Histogram


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of a table: which each level has, and their codes."""

    lut: bytes
    choices: tuple[ClassChoice, ...]


@dataclass(slots=True)
class _Run:
    """Levels from ``first`` to ``last`` that share a class."""

    first: int
    last: int
    counts: Counts
    low_bits: int
    mask_bits: int
    bits: float


def choose_classes(numbers: Tally) -> Classes:
    """Choose the classes of a table.

    Args:
        numbers: that it will code; some are there.
    """
    coder = _Coder(numbers.width)
    levels = numbers.levels.tolist()
    runs = [coder.run(level, level, counts) for level, counts in zip(levels, numbers.table(), strict=True)]
    most = min(_MAX_CLASSES, max(_MIN_CLASSES, numbers.total // _NUMBERS_A_CLASS))
    _merge_levels(runs, coder, most if numbers.width > 1 else min(most, _MAX_CLASSES_OF_BYTES))
    return Classes(_lut(runs), tuple(coder.choice(run) for run in runs))


def _lut(runs: Sequence[_Run]) -> bytes:
    lut = bytearray(LEVELS)
    for number, run in enumerate(runs):
        # Levels at which nothing was counted belong to the class below them.
        start = run.first if number else 0
        lut[start:] = bytes([number]) * (LEVELS - start)
    return bytes(lut)


def _merge_levels(runs: list[_Run], coder: _Coder, most: int) -> None:
    def merged(place: int) -> tuple[float, _Run]:
        one, other = runs[place], runs[place + 1]
        run = coder.run(one.first, other.last, one.counts + other.counts)
        return run.bits - one.bits - other.bits, run

    pairs = [merged(place) for place in range(len(runs) - 1)]
    while pairs:
        place = min(range(len(pairs)), key=lambda at: pairs[at][0])
        if pairs[place][0] > 0 and len(runs) <= most:
            return
        runs[place : place + 2] = [pairs[place][1]]
        del pairs[place]
        for near in (place - 1, place):
            if 0 <= near < len(pairs):
                pairs[near] = merged(near)


def symbol_bits(histograms: Histograms) -> npt.NDArray[np.float64]:
    """Return what Huffman's code makes of symbols that occur so often, for each of several histograms."""
    total, most = histograms.sum(axis=1), histograms.max(axis=1)
    bits: npt.NDArray[np.float64] = entropies(histograms) + _HUFFMAN_LOSS * np.where(most < total, total, 0.0)
    # The shortest code has one bit, so what is more frequent than half costs more than its entropy; zstd saves some of
    # it again where it comes in long runs.
    skewed = np.flatnonzero(most * 2 > total)
    if len(skewed):
        total, most, rest = total[skewed], most[skewed], histograms[skewed]
        rest[np.arange(len(skewed)), rest.argmax(axis=1)] = 0
        runs = most * np.minimum(1.0, 8 * (1 - most / total) + 0.02)
        bits[skewed] = np.maximum(bits[skewed], total - most + entropies(rest) + runs)
    return bits


def mask_place(mask_bits: int) -> slice:
    """Return where the values of a mask of some bits have their place among those of all masks."""
    return slice(1 << mask_bits, 2 << mask_bits)


@dataclass(frozen=True, slots=True)
class _Option:
    """A code for some numbers: what its mask takes, and how often each of its symbols occurs."""

    low_bits: int
    mask_bits: int
    of_mask: float
    symbols: Histogram
    noise: float


class _Coder:
    """Prices codes for numbers of one width."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._buckets = buckets(width)

    def run(self, first: int, last: int, counts: Counts) -> _Run:
        """Return levels with the code that suits their numbers best."""
        options = list(self._options(counts))
        prices = zip(self._bits(options).tolist(), options, strict=True)
        bits, low_bits, mask_bits = min((price, option.low_bits, option.mask_bits) for price, option in prices)
        return _Run(first, last, counts, low_bits, mask_bits, bits + _CLASS_BITS)

    def choice(self, run: _Run) -> ClassChoice:
        """Return the code of a run of levels, and what it will write."""
        masks = np.zeros(mask_place(MASKS[-1]).stop)
        if run.mask_bits:
            masks[mask_place(run.mask_bits)] = _mask(run.counts, run.mask_bits)
        symbols, _ = self._symbols(run.counts, run.low_bits, run.mask_bits)
        return ClassChoice(run.low_bits, run.mask_bits, masks, symbols)

    def _options(self, counts: Counts) -> Iterator[_Option]:
        total = int(counts.sum())
        masks: dict[int, Histogram] = {bits: _mask(counts, bits) for bits in MASKS}
        worthwhile = [bits for bits in MASKS if masks[bits][-1] < _MASKED[bits] * total]
        for mask_bits in (0, *worthwhile):
            left = counts.copy()
            price = 0.0
            if mask_bits:
                left[: (1 << mask_bits) - 1] = 0
                price = entropy(masks[mask_bits]) + _MASK_LOSS * mask_bits * total
            for low_bits in self._low_bits(left):
                yield _Option(low_bits, mask_bits, price, *self._symbols(counts, low_bits, mask_bits))

    def _low_bits(self, counts: Counts) -> list[int]:
        """Return numbers of low bits that may be the best for numbers that are not in a mask."""
        seen = np.cumsum(counts)
        middle = min(int(np.searchsorted(seen, (seen[-1] + counts[0]) // 2)), len(counts) - 1)
        centre = int(self._buckets.starts[middle]).bit_length() - _SYMBOL_BITS
        return sorted({min(max(centre + reach, 0), 8 * self._width - 1) for reach in _REACH})

    def _bits(self, options: Sequence[_Option]) -> npt.NDArray[np.float64]:
        """Return what the numbers take in each of some codes."""
        histograms = np.stack([option.symbols for option in options])
        low_bits = np.array([option.low_bits for option in options])
        others = np.array([option.of_mask + option.noise for option in options])
        escapes = 8 * self._width * histograms[:, ESCAPE]
        return np.asarray(others + symbol_bits(histograms) + low_bits * histograms.sum(axis=1) + escapes)

    def _symbols(self, counts: Counts, low_bits: int, mask_bits: int) -> tuple[Histogram, float]:
        """Return how often each symbol occurs, and the bits of the symbols that the buckets do not tell."""
        counts = counts[(1 << mask_bits) - 1 :]
        symbols, untold = _symbols_of_buckets(self._width, low_bits, mask_bits)
        histogram = np.bincount(symbols, weights=counts, minlength=ESCAPE + 1).astype(np.float64)
        return histogram, float(counts @ untold)


@lru_cache(maxsize=128)
def _symbols_of_buckets(width: int, low_bits: int, mask_bits: int) -> tuple[npt.NDArray[np.int64], Counts]:
    """Return the symbol of the numbers in each bucket that are not in the mask, and how many bits it does not tell."""
    kinds = buckets(width)
    most = (1 << mask_bits) - 1
    starts = kinds.starts[most:] - np.uint64(most)
    symbols = np.minimum(starts >> np.uint64(low_bits), ESCAPE).astype(np.int64)
    untold = np.maximum(kinds.bits[most:] - low_bits, 0)
    return symbols, np.where(symbols < ESCAPE, untold, 0)


def _mask(counts: Counts, mask_bits: int) -> Histogram:
    """Return how often each value of a mask occurs."""
    most = (1 << mask_bits) - 1
    return np.append(counts[:most], counts[most:].sum()).astype(np.float64)
