"""What the ways to make a byte cost in a compressed patch: guessed at first, then learned from what was chosen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

Costs = npt.NDArray[np.float64]

# A byte of a number, where nothing was learned: a compressor saves a little of it.
_NUMBER_BYTE = 0.9
# How many observations what was guessed counts for.
_PRIOR = 12.0
_LEAST = 0.04


def _even(cost: float) -> Costs:
    return np.full(256, cost)


# A byte of a difference that is not 0 is looked at together with its distance from the one before, up to this one.
_MOST_APART = 63


def difference_symbols(apart: npt.NDArray[np.int64], values: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return numbers that stand for bytes of a difference and how far each is from the one before."""
    return np.minimum(apart, _MOST_APART) << 8 | values


def _guessed_differences() -> Costs:
    apart = np.minimum(np.arange(_MOST_APART + 1) / 8, 2.2)
    return np.repeat(apart + 0.8, 256)


@dataclass(frozen=True, slots=True)
class Prices:
    """Costs in bytes.

    Attributes:
        new: of each new byte.
        repeated: of new bytes that repeat others, however many.
        different: of each of the `difference_symbols`.
        copy, data: of an operation, beside its source.
        sources: of distances from where the last source ended.
    """

    new: Costs = field(default_factory=lambda: _even(0.75))
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


def learned(
    before: Prices,
    new: npt.NDArray[np.int64] | None,
    different: npt.NDArray[np.int64] | None,
    distances: Counter[int] | None,
    copies: Counter[int] | None = None,
    news: Counter[int] | None = None,
) -> Prices:
    """Return prices from what was chosen by ``before``; what is None stays as it was.

    Args:
        before: the prices that were used.
        new: how often each new byte was written.
        different: how often each of the `difference_symbols`.
        distances: how often each distance between sources.
        copies: how often each length of what is aligned.
        news: how often each length of new bytes.
    """
    guess = Prices()
    changed = before
    if new is not None:
        changed = replace(changed, new=_entropy(new, guess.new))
    if different is not None:
        changed = replace(changed, different=np.minimum(_entropy(different, guess.different) * SCALE + APART, guess.different + 0.5))
    if distances is not None:
        total = sum(distances.values())
        # What was seen once is no cheaper than what was not.
        sources = {
            distance: max(_LEAST, min(guess.source(distance), _bits(count, total + _PRIOR) / 8))
            for distance, count in distances.items()
            if count > 1
        }
        changed = replace(changed, sources=sources)
    if copies:
        changed = replace(changed, copy=_number_cost(copies, guess.copy))
    if news:
        changed = replace(changed, data=_number_cost(news, guess.data))
    return changed


def _entropy(counts: npt.NDArray[np.int64], guess: Costs) -> Costs:
    """Return the bytes that each value costs, from how often it was seen and what was guessed."""
    weights = counts + _PRIOR * 2.0 ** (-8 * guess)
    costs: Costs = np.maximum(-np.log2(weights / weights.sum()) / 8, _LEAST)
    return costs


_KIND = 0.1
SCALE=1.0
APART=np.repeat(np.where(np.arange(64)>4,0.0,0.0),256)


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
