"""The arithmetic: samples of rounds become medians, spreads and ratios between peers of the same round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One peer in one round.

    Args:
        rate: requests or bytes per second.
        cost: CPU microseconds per request (of the server) or per million bytes (of the whole machine).
        load: share of its core that the load generator used; near 1 it is the generator that was measured.
    """

    rate: float
    cost: float
    load: float


@dataclass(frozen=True)
class Spread:
    """The middle, the least and the greatest of some values."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


def ratio_in_rounds(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return the spread of ours divided by theirs, round by round: drift of the machine cancels out.

    Raises:
        ValueError: they were not measured in the same rounds.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} rounds cannot be compared with {len(theirs)}")
    return Spread.of([ours_now / theirs_now for ours_now, theirs_now in zip(ours, theirs, strict=True)])


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` (0 to 1) of the values do not exceed (nearest rank).

    Args:
        ordered: at least one value, in ascending order.
        share: 0.99 for the 99th percentile.
    """
    if not ordered:
        raise ValueError("no values, no percentile")
    if not 0 <= share <= 1:
        raise ValueError(f"{share} is no share")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
