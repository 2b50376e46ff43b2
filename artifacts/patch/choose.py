"""The cheapest way through the target: which alignment each byte is taken from, or that it is new.

A shortest path (Viterbi) over the alignments' starts, ends and the clusters of unequal bytes in them: at each such
place every alignment that lies there, and "new bytes", can be entered from the cheapest of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from artifacts.patch.alignments import Alignment, Bytes, Places

# Unequal bytes with fewer equal ones between them are one cluster, and a cluster ends at multiples of this.
_CLUSTER_GAP = 8
_CLUSTER_LOG = 6
_CHUNK = 1 << 20

NEW = -1


@dataclass(frozen=True, slots=True)
class Prices:
    """What things cost, in bytes of a compressed patch.

    Attributes:
        new: a new byte.
        operation: an operation, beside its source.
        different: a byte of a difference that is not 0, beside what it costs to say where.
    """

    new: float = 0.8
    operation: float = 2.0
    different: float = 1.0


@dataclass(frozen=True, slots=True)
class Clusters:
    """Stretches of an alignment in which bytes differ: where they begin and end, and what they cost a byte."""

    starts: Places
    ends: Places
    rates: np.ndarray


@dataclass(frozen=True, slots=True)
class Step:
    """The target from ``start`` to ``end`` comes from the alignment with that number, or is `NEW`."""

    start: int
    end: int
    alignment: int


def clusters(target: Bytes, source: Bytes, alignment: Alignment, prices: Prices) -> Clusters:
    """Return where an alignment's bytes differ and what writing the differences costs."""
    found: list[tuple[Places, Places, np.ndarray]] = []
    for start in range(alignment.start, alignment.end, _CHUNK):
        end = min(start + _CHUNK, alignment.end)
        shift = alignment.shift
        differing = np.flatnonzero(target[start:end] != source[start + shift : end + shift])
        if not len(differing):
            continue
        gaps = np.diff(differing, prepend=differing[0] - 1)
        cost = prices.different + np.minimum(1.5, gaps / 8)
        first = np.ones(len(differing), np.bool_)
        first[1:] = (gaps[1:] > _CLUSTER_GAP) | (np.diff(differing >> _CLUSTER_LOG) != 0)
        starts = np.flatnonzero(first)
        ends = differing[np.append(starts[1:], len(differing)) - 1] + 1
        costs = np.add.reduceat(cost, starts)
        starts = differing[starts]
        found.append((starts + start, ends + start, costs / (ends - starts)))
    if not found:
        none = np.zeros(0, np.int64)
        return Clusters(none, none, np.zeros(0))
    return Clusters(*(np.concatenate(column) for column in zip(*found, strict=True)))


def choose(
    start: int, end: int, alignments: Sequence[Alignment], differences: Sequence[Clusters], prices: Prices
) -> list[Step]:
    """Return the cheapest steps that make the target from ``start`` to ``end``."""
    # Events: (place, kind, alignment, rate) with kind 0 rate, 1 start, 2 end.
    events: list[tuple[int, int, int, float]] = []
    for number, alignment in enumerate(alignments):
        events.append((alignment.start, 0, number, 0.0))
        events.append((alignment.end, 2, number, 0.0))
        found = differences[number]
        events += zip(
            found.starts.tolist(), [1] * len(found.starts), [number] * len(found.starts), found.rates.tolist()
        )
        events += zip(found.ends.tolist(), [1] * len(found.ends), [number] * len(found.ends), [0.0] * len(found.ends))
    events.sort()
    path = _Path(start, alignments, prices)
    at, count = 0, len(events)
    while at < count:
        place = events[at][0]
        path.advance(place)
        after = at
        while after < count and events[after][0] == place:
            after += 1
        here = events[at:after]
        for event in here:
            if event[1] == 0:
                path.enter(event[2])
        path.relax(place)
        rates = {}
        for _, kind, number, rate in here:
            if kind == 2:
                path.leave(number)
            elif kind == 1:
                rates[number] = max(rate, rates.get(number, 0.0))
        path.change(rates)
        at = after
    path.advance(end)
    return path.steps(end)


class _Path:
    def __init__(self, start: int, alignments: Sequence[Alignment], prices: Prices) -> None:
        self._alignments = alignments
        self._prices = prices
        self._place = start
        # Of each state: its cost, its rate, and the chain of (place, state, chain before) that led to it.
        self._cost: dict[int, float] = {NEW: 0.0}
        self._rate: dict[int, float] = {NEW: prices.new}
        self._chain: dict[int, tuple] = {NEW: (start, NEW, None)}

    def advance(self, place: int) -> None:
        length = place - self._place
        if length:
            cost, rate = self._cost, self._rate
            for state in cost:
                cost[state] += rate[state] * length
            self._place = place

    def enter(self, number: int) -> None:
        self._cost[number] = float("inf")
        self._rate[number] = 0.0
        self._chain[number] = ()

    def leave(self, number: int) -> None:
        del self._cost[number], self._rate[number], self._chain[number]

    def change(self, rates: dict[int, float]) -> None:
        for number, rate in rates.items():
            if number in self._rate:
                self._rate[number] = rate

    def relax(self, place: int) -> None:
        cost = self._cost
        best = min(cost, key=cost.__getitem__)
        low = cost[best]
        chain = self._chain[best]
        new_chain = self._chain[NEW]
        new_cost = cost[NEW]
        operation = self._prices.operation
        for state in cost:
            if state == best:
                continue
            if state == NEW:
                if low + operation < cost[NEW]:
                    cost[NEW] = low + operation
                    self._chain[NEW] = (place, NEW, chain)
                continue
            if low + operation + 0.5 >= cost[state]:
                continue
            jump = low + operation + self._distance(place, chain, state)
            if jump < cost[state]:
                cost[state] = jump
                self._chain[state] = (place, state, chain)
            if best != NEW:
                jump = new_cost + operation + self._distance(place, new_chain, state)
                if jump < cost[state]:
                    cost[state] = jump
                    self._chain[state] = (place, state, new_chain)

    def _distance(self, place: int, chain: tuple, state: int) -> float:
        """Return what the source costs: a signed number of the distance from where the last source ended."""
        end = place
        if chain[1] == NEW:
            end, chain = chain[0], chain[2]
        last = self._alignments[chain[1]] if chain else None
        here = self._alignments[state]
        if last is None or last.own != here.own:
            return 3.0
        return ((abs(place + here.shift - end - last.shift) << 1).bit_length() + 6) // 7 or 1

    def steps(self, end: int) -> list[Step]:
        best = min(self._cost, key=self._cost.__getitem__)
        chain = self._chain[best]
        found = []
        while chain:
            start, state, chain = chain
            if start < end:
                found.append(Step(start, end, state))
                end = start
        return found[::-1]
