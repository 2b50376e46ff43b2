"""What the ways to make a byte cost in a compressed patch: guessed at first, then learned from what was chosen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

__all__ = [
    "CHEAP_DIFFERENCES",
    "REPEATED_AFTER",
    "Chosen",
    "Costs",
    "Prices",
    "difference_symbols",
    "learned",
    "learned_differences",
    "symbols_of",
]

Costs = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

# A byte of a number, where nothing was learned: a compressor saves a little of it.
_NUMBER_BYTE = 0.9
# How many observations what was guessed counts for.
_PRIOR = 12.0
# Nothing costs less than a third of a bit.
_LEAST = 0.04
# What the kind of an operation costs beside its numbers.
_KIND = 0.1
# A byte of a difference that is not 0 is looked at together with its distance from the one before, up to this one.
_MOST_APART = 63
# In place of the distance, of a byte that differs as the one a word before does; and what it is guessed to cost.
REPEATED_AFTER, _REPEATED, _REPEATED_COST = 4, 0, 0.2
# What differs and stands alone makes two more operations, if it is not left in a run of zeros.
_ALONE_FROM, _ALONE = 5, 0.4


def difference_symbols(difference: npt.NDArray[np.uint8], places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return numbers that stand for bytes of a difference and how far each is from the one before.

    Args:
        difference: its bytes.
        places: of those that are not 0, ascending.
    """
    values = difference[places]
    early = int(np.searchsorted(places, REPEATED_AFTER))
    again = np.flatnonzero(difference[places[early:] - REPEATED_AFTER] == values[early:]) + early
    return symbols_of(values, np.diff(places, prepend=-1), again)


def symbols_of(
    values: npt.NDArray[np.uint8], gaps: npt.NDArray[np.int64], again: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return the `difference_symbols` of bytes.

    Args:
        values: of the bytes, none of them 0.
        gaps: how far each is from the one before.
        again: which of them are as a byte was a word before: offsets in tables change alike, which compressors find.
    """
    apart = np.minimum(gaps, _MOST_APART)
    apart[again] = _REPEATED
    symbols: npt.NDArray[np.int64] = apart << 8 | values
    return symbols


def _guessed_differences() -> Costs:
    guess = np.minimum(np.arange(_MOST_APART + 1) / 8, 2.2) + 0.8
    guess[_REPEATED] = _REPEATED_COST
    return np.repeat(guess, 256)


@dataclass(frozen=True, slots=True)
class Prices:
    """Costs in bytes.

    Attributes:
        new: of each new byte.
        repeated: of new bytes that repeat others, however many.
        different: of each of the `difference_symbols`.
        copy: of an operation that has a source, beside the source.
        data: of an operation that has none.
        sources: of distances from where the last source ended.
    """

    new: Costs = field(default_factory=lambda: np.full(256, 0.75))
    repeated: float = 2.5
    different: Costs = field(default_factory=_guessed_differences)
    copy: float = 1.5
    data: float = 1.0
    sources: dict[int, float] = field(default_factory=dict)

    def source(self, distance: int) -> float:
        """Return what it costs to name a source that is ``distance`` further than where the last one ended."""
        known = self.sources.get(distance)
        if known is not None:
            return known
        return 0.4 + _NUMBER_BYTE * max(1, ((abs(distance) << 1).bit_length() + 6) // 7)


# Where tables of offsets changed, differences follow a pattern, and one long alignment is better than many pieces.
CHEAP_DIFFERENCES = Prices(different=0.4 * _guessed_differences())


@dataclass(slots=True)
class Chosen:
    """How often things were chosen: values of new bytes, `difference_symbols`, distances of sources, lengths."""

    new: Counts = field(default_factory=lambda: np.zeros(256, np.int64))
    different: Counts = field(default_factory=lambda: np.zeros(256 * (_MOST_APART + 1), np.int64))
    distances: Counter[int] = field(default_factory=Counter)
    copies: Counter[int] = field(default_factory=Counter)
    news: Counter[int] = field(default_factory=Counter)


def learned(before: Prices, chosen: Chosen) -> Prices:
    """Return prices from what was chosen by those ``before``."""
    guess = Prices()
    total = sum(chosen.distances.values())
    return replace(
        learned_differences(before, chosen.different),
        new=_entropy(chosen.new, guess.new),
        copy=_number_cost(chosen.copies, guess.copy),
        data=_number_cost(chosen.news, guess.data),
        sources={
            # What was seen once is no cheaper than what was not.
            distance: max(_LEAST, min(guess.source(distance), _bits(count, total + _PRIOR) / 8))
            for distance, count in chosen.distances.items()
            if count > 1
        },
    )


def learned_differences(before: Prices, different: Counts) -> Prices:
    """Return prices with those of differences learned from how often each of the `difference_symbols` was seen."""
    guess = _guessed_differences()
    alone = np.repeat(np.where(np.arange(_MOST_APART + 1) >= _ALONE_FROM, _ALONE, 0.0), 256)
    return replace(before, different=np.minimum(_entropy(different, guess) + alone, guess + 0.5))


def _entropy(counts: Counts, guess: Costs) -> Costs:
    """Return the bytes that each value costs, from how often it was seen and what was guessed."""
    weights = counts + _PRIOR * 2.0 ** (-8 * guess)
    costs: Costs = np.maximum(-np.log2(weights / weights.sum()) / 8, _LEAST)
    return costs


def _number_cost(seen: Counter[int], guess: float) -> float:
    """Return the bytes that a number costs on the average."""
    total = sum(seen.values())
    cost = sum(
        count * min(_NUMBER_BYTE * ((number.bit_length() + 6) // 7), _bits(count, total + 1) / 8)
        for number, count in seen.items()
    )
    return (cost + _PRIOR * guess) / (total + _PRIOR) + _KIND


def _bits(count: float, total: float) -> float:
    return float(-np.log2(count / total))
