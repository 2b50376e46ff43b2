"""The cheapest way through the target: which alignment each byte is taken from, or that it is new.

A shortest path (Viterbi 1967) over the places at which alignments begin, end, and begin or cease to differ from the
target: at each, every alignment that lies there, and "new", can be entered from the cheapest of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from artifacts.patch.alignments import Alignment, Bytes, Places
from artifacts.patch.prices import Costs, Prices, difference_symbols

__all__ = ["NEW", "Differences", "NewBytes", "Step", "choose", "differences", "new_bytes"]

# Differing bytes with fewer equal ones between them are one cluster, and a cluster ends at multiples of 64.
_CLUSTER_GAP = 4
_CLUSTER_LOG = 6
_CHUNK = 1 << 20

# The state in which bytes are new.
NEW = -1

# A place, the state that was entered there, and how that place was reached.
_Chain: TypeAlias = "tuple[int, int, _Chain | None]"


@dataclass(frozen=True, slots=True)
class Step:
    """The target from ``start`` to ``end`` comes from the alignment with that number, or is `NEW`."""

    start: int
    end: int
    alignment: int


@dataclass(frozen=True, slots=True)
class Differences:
    """Where an alignment differs from the target: clusters, what each costs a byte."""

    starts: Places
    ends: Places
    rates: Costs


def differences(target: Bytes, source: Bytes, alignment: Alignment, prices: Prices) -> Differences:
    """Return where an alignment differs from the target and what it costs to write how."""
    found = []
    for start in range(alignment.start, alignment.end, _CHUNK):
        end = min(start + _CHUNK, alignment.end)
        difference = target[start:end] - source[start + alignment.shift : end + alignment.shift]
        differing = np.flatnonzero(difference)
        if len(differing):
            found.append(_clusters(differing, difference[differing], start, prices))
    if not found:
        none = np.zeros(0, np.int64)
        return Differences(none, none, np.zeros(0))
    return Differences(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _clusters(differing: Places, values: Bytes, start: int, prices: Prices) -> tuple[Places, Places, Costs]:
    gaps = np.diff(differing, prepend=-1)
    costs = prices.different[difference_symbols(gaps, values)]
    first = np.ones(len(differing), np.bool_)
    far = gaps > _CLUSTER_GAP
    # The first differing byte, which costs most, is a cluster of its own.
    first[1:] = far[1:] | far[:-1] | (np.diff(differing >> _CLUSTER_LOG) != 0)
    firsts = np.flatnonzero(first)
    starts = differing[firsts] + start
    ends = differing[np.append(firsts[1:], len(differing)) - 1] + start + 1
    return starts, ends, np.add.reduceat(costs, firsts) / (ends - starts)


@dataclass(frozen=True, slots=True)
class NewBytes:
    """What new bytes cost: a sum over the target's bytes, linear between the places at which it is given."""

    places: Places
    sums: Costs
    slope: float

    def costs(self, places: Places) -> list[float]:
        """Return the sums at some places."""
        if not len(self.places):
            return [float(cost) for cost in places * self.slope]
        sums = np.interp(places, self.places, self.sums)
        sums += np.minimum(places - self.places[0], 0) * self.slope
        sums += np.maximum(places - self.places[-1], 0) * self.slope
        return [float(cost) for cost in sums]


def new_bytes(target: Bytes, gaps: Sequence[tuple[int, int]], repeats: Places, prices: Prices) -> NewBytes:
    """Return what new bytes cost in the ``gaps``, where each place repeats others for as long as ``repeats`` says."""
    places: list[int] = []
    sums: list[float] = []
    total, last, at = 0.0, None, 0
    slope = float(prices.new.mean())
    for start, end in gaps:
        if last is not None:
            total += (start - last) * slope
        single = np.concatenate(([0.0], np.cumsum(prices.new[target[start:end]]))).tolist()
        longest = repeats[at : at + end - start].tolist()
        place, length = 0, end - start
        places.append(start)
        sums.append(total)
        while place < length:
            reach = min(place + longest[place], length)
            if single[reach] - single[place] > prices.repeated:
                total += prices.repeated
            else:
                reach = place + 1
                total += single[reach] - single[place]
            place = reach
            places.append(start + place)
            sums.append(total)
        at += length
        last = end
    return NewBytes(np.array(places, np.int64), np.array(sums), slope)


def choose(
    start: int,
    end: int,
    alignments: Sequence[Alignment],
    found: Sequence[Differences],
    prices: Prices,
    new: NewBytes,
) -> list[Step]:
    """Return the cheapest steps that make the target from ``start`` to ``end``.

    Args:
        start: a place in the target.
        end: a later one.
        alignments: what lies there.
        found: how each of them differs.
        prices: what things cost.
        new: what new bytes cost.
    """
    path = _Path(alignments, prices, start)
    for place, cost, entered, changed, left in _places(start, end, alignments, found, new):
        path.go_to(place, cost)
        path.enter(entered)
        path.change_over()
        path.change_rates(changed)
        path.leave(left)
    return path.steps(end)


def _places(
    start: int, end: int, alignments: Sequence[Alignment], found: Sequence[Differences], new: NewBytes
) -> Iterator[tuple[int, float, list[int], list[tuple[int, float]], list[int]]]:
    """Yield each place at which something changes: what new bytes cost up to it, and what is to be done there."""
    entered: dict[int, list[int]] = {}
    changed: dict[int, list[tuple[int, float]]] = {}
    left: dict[int, list[int]] = {}
    for number, (alignment, differing) in enumerate(zip(alignments, found, strict=True)):
        first, last = max(alignment.start, start), min(alignment.end, end)
        entered.setdefault(first, []).append(number)
        left.setdefault(last, []).append(number)
        starts, ends, rates = differing.starts.tolist(), differing.ends.tolist(), differing.rates.tolist()
        # The end of one cluster may be the start of the next: ends come first.
        for at in ends:
            changed.setdefault(at, []).append((number, 0.0))
        for at, rate in zip(starts, rates, strict=True):
            changed.setdefault(at, []).append((number, rate))
    places = sorted({start, end, *entered, *changed, *left})
    nothing: list[int] = []
    none: list[tuple[int, float]] = []
    for place, cost in zip(places, new.costs(np.array(places)), strict=True):
        if start <= place <= end:
            yield place, cost, entered.get(place, nothing), changed.get(place, none), left.get(place, nothing)


class _Path:
    """The cheapest ways to all states at one place."""

    def __init__(self, alignments: Sequence[Alignment], prices: Prices, start: int) -> None:
        self._alignments = alignments
        self._source: Callable[[int], float] = prices.source
        self._copy, self._data = prices.copy, prices.data
        self._place = start
        self._new: float | None = None
        self._cost: dict[int, float] = {NEW: prices.data}
        self._rate: dict[int, float] = {}
        self._chain: dict[int, _Chain | None] = {NEW: (start, NEW, None)}

    def go_to(self, place: int, new: float) -> None:
        """Make the bytes up to ``place``; ``new`` is what all from the target's start would cost as new ones."""
        cost = self._cost
        length = place - self._place
        for state, rate in self._rate.items():
            if rate:
                cost[state] += rate * length
        if self._new is not None:
            cost[NEW] += new - self._new
        self._new, self._place = new, place

    def enter(self, states: list[int]) -> None:
        for state in states:
            self._cost[state] = float("inf")
            self._rate[state] = 0.0

    def leave(self, states: list[int]) -> None:
        for state in states:
            del self._cost[state], self._rate[state]
            self._chain.pop(state, None)

    def change_rates(self, rates: list[tuple[int, float]]) -> None:
        for state, rate in rates:
            if state in self._rate:
                self._rate[state] = rate

    def change_over(self) -> None:
        """Let each state be entered from the cheapest one, or from new bytes, if that is cheaper than to stay."""
        cost, place = self._cost, self._place
        best = min(cost, key=cost.__getitem__)
        low, chain = cost[best], self._chain[best]
        new_cost, new_chain = cost[NEW], self._chain[NEW]
        bound = low + self._copy
        for state, now in cost.items():
            if now <= bound or state == best:
                continue
            if state == NEW:
                if low + self._data < now:
                    cost[NEW] = low + self._data
                    self._chain[NEW] = (place, NEW, chain)
                continue
            then = bound + self._distance(place, chain, state)
            if then < now:
                cost[state] = now = then
                self._chain[state] = (place, state, chain)
            if best != NEW and new_cost + self._copy < now:
                then = new_cost + self._copy + self._distance(place, new_chain, state)
                if then < now:
                    cost[state] = then
                    self._chain[state] = (place, state, new_chain)
        if low + self._data < cost[NEW]:
            cost[NEW] = low + self._data
            self._chain[NEW] = (place, NEW, chain)

    def _distance(self, place: int, chain: _Chain | None, state: int) -> float:
        assert chain is not None
        here = self._alignments[state]
        end = place
        if chain[1] == NEW:
            end, _, chain = chain
        if chain is None:
            # What was made before is not known here; most likely what lies before it in the same source.
            return 1.0
        last = self._alignments[chain[1]]
        if last.own != here.own:
            return 3.0
        return self._source(place + here.shift - end - last.shift)

    def steps(self, end: int) -> list[Step]:
        """Return the cheapest way to here, which is ``end``."""
        chain = self._chain[min(self._cost, key=self._cost.__getitem__)]
        found = []
        while chain is not None:
            start, state, chain = chain
            if start < end:
                found.append(Step(start, end, state))
                end = start
        return found[::-1]
