"""The cheapest way through the target: which alignment each byte is taken from, or that it is new.

A shortest path (Viterbi 1967) over the places at which alignments begin, end, and begin or cease to differ from the
target. "New" and those that became better there can be entered from the cheapest one; all can where that one gets worse
or ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from artifacts.patch.alignments import Alignment, Bytes, Places
from artifacts.patch.prices import Costs, Prices
from artifacts.patch.timeline import ENTERED, EQUAL, LEFT, Timeline

__all__ = ["NEW", "NewBytes", "Step", "choose", "new_bytes"]

# Of alignments that lie at one place, no more are kept: among zeros there are any number.
_MAX_STATES = 40
# What it costs to go from the base to the target's own bytes, or back.
_FAR = 3.0
# Bytes by which costs may differ that are meant to be equal.
_TIE = 1e-9
# Distances whose cost is kept: the same few are asked for again and again.
_KNOWN_DISTANCES = 1 << 14
# What it costs to be in a state that was not entered yet.
_INFINITE = float("inf")
# After these changes an alignment is better to be in than before.
_BETTER = (ENTERED, EQUAL)

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


def new_bytes(target: Bytes, places: Places, repeats: Places, prices: Prices) -> NewBytes:
    """Return what new bytes cost, if at some ``places`` it is known how long each repeats others.

    Args:
        target: the new file.
        places: in it, ascending; bytes with no others between them are one stretch.
        repeats: of each place, how many bytes from there repeat others.
        prices: what new bytes cost that repeat nothing, and what repeating costs.
    """
    slope = float(prices.new.mean())
    if not len(places):
        return NewBytes(places, np.zeros(0), slope)
    costs = prices.new[target[places]]
    begins = np.flatnonzero(np.diff(places, prepend=-2) != 1)
    number = np.arange(len(places))
    stretch_end = np.append(begins[1:], len(places))[np.searchsorted(begins, number, side="right") - 1]
    reach = np.minimum(number + repeats, stretch_end)
    before = np.concatenate(([0.0], np.cumsum(costs)))
    worth = np.flatnonzero(before[reach] - before[number] > prices.repeated)
    covered = 0
    for start, end in zip(worth.tolist(), reach[worth].tolist(), strict=True):
        if start >= covered:
            costs[start:end] = prices.repeated / (end - start)
            covered = end
    # Between the stretches every byte costs the same.
    skipped = (places - number) * slope
    sums = np.cumsum(costs)
    knots = np.insert(places + 1, begins, places[begins])
    return NewBytes(knots, np.insert(sums + skipped, begins, (sums - costs + skipped)[begins]), slope)


def choose(
    changes: Timeline,
    alignments: Sequence[Alignment],
    rates: Sequence[float],
    prices: Prices,
    new: NewBytes,
    *,
    late: bool = True,
) -> list[Step]:
    """Return the cheapest steps from the first place to the last.

    Args:
        changes: what changes where.
        alignments: what can be chosen.
        rates: what each cluster costs for each of its bytes.
        prices: what things cost.
        new: what new bytes cost.
        late: where two alignments are equal for some bytes, whether those come from the first of them. Rows of floats
            that were moved end so where they end, though the highest byte before both may be the same.
    """
    costs = new.costs(changes.places)
    path = _Path(alignments, prices, int(changes.places[0]), costs[0], late=late)
    for (place, here), cost in zip(changes, costs, strict=True):
        path.go_to(place, cost)
        path.change(here, rates)
    return path.steps(int(changes.places[-1]))


class _Path:
    """The cheapest ways to all states at one place."""

    def __init__(self, alignments: Sequence[Alignment], prices: Prices, start: int, new: float, *, late: bool) -> None:
        self._alignments = alignments
        # What a later entry into an alignment may cost more than an earlier one: sums are rounded.
        self._tie = _TIE if late else 0.0
        self._source: Callable[[int], float] = lru_cache(_KNOWN_DISTANCES)(prices.source)
        self._copy, self._data = prices.copy, prices.data
        self._place = start
        self._new = new
        self._cost: dict[int, float] = {NEW: prices.data}
        # Of the states that differ here.
        self._rate: dict[int, float] = {}
        self._chain: dict[int, _Chain | None] = {NEW: (start, NEW, None)}
        self._jumps: dict[tuple[int, int], float] = {}

    def go_to(self, place: int, new: float) -> None:
        """Make the bytes up to ``place``; ``new`` is what all from the target's start would cost as new ones."""
        cost = self._cost
        length = place - self._place
        for state, rate in self._rate.items():
            cost[state] += rate * length
        cost[NEW] += new - self._new
        self._new, self._place = new, place

    def change(self, changes: Sequence[tuple[int, int]], rates: Sequence[float]) -> None:
        """Do what changes here, after going over to other states where that is cheaper.

        An alignment is best entered where it begins or ceases to differ, and the best one best left where it begins to
        differ or ends; nowhere else is anything gained.
        """
        cost = self._cost
        for state, change in changes:
            if change != ENTERED:
                break
            cost[state] = _INFINITE
        best = self._best()
        better = []
        for state, change in changes:
            if change in _BETTER:
                better.append(state)
            elif state == best:
                self._change_over(best, cost)
                break
        else:
            if better:
                self._change_over(best, better)
        for state, change in changes:
            if change == LEFT:
                self._leave(state)
            elif change == EQUAL:
                self._rate.pop(state, None)
            elif change != ENTERED and state in cost:
                self._rate[state] = rates[change]

    def _best(self) -> int:
        """Return the state that is cheapest so far."""
        return min(self._cost, key=self._cost.__getitem__)

    def _leave(self, state: int) -> None:
        self._cost.pop(state, None)
        self._rate.pop(state, None)
        self._chain.pop(state, None)

    def _change_over(self, best: int, states: Iterable[int]) -> None:
        """Let states be entered from the best one, or from new bytes, if that is cheaper than to stay."""
        cost, place, tie = self._cost, self._place, self._tie
        low, chain = cost[best], self._chain[best]
        if low + self._data < cost[NEW]:
            cost[NEW] = low + self._data
            self._chain[NEW] = (place, NEW, chain)
        bound = low + self._copy
        new_chain = self._chain[NEW]
        assert new_chain is not None
        # New bytes that would begin here are no way from the best to another state.
        new_bound = _INFINITE if best == NEW or new_chain[0] == place else cost[NEW] + self._copy
        for state in states:
            # Some were forgotten.
            if state not in cost or state in (NEW, best):
                continue
            now = cost[state] + tie
            if now <= bound:
                continue
            then = bound + (self._distance(chain, state) if best == NEW else self._jump(best, state))
            if then < now:
                cost[state] = now = then
                self._chain[state] = (place, state, chain)
            if new_bound < now:
                then = new_bound + self._distance(new_chain, state)
                if then < now:
                    cost[state] = then
                    self._chain[state] = (place, state, new_chain)
        if len(cost) > _MAX_STATES:
            self._forget()

    def _forget(self) -> None:
        """Leave the states that are least likely to be of use: of those that end soonest, the ones that cost most."""
        states = [state for state in self._cost if state != NEW]
        last = sorted(states, key=lambda state: (-self._alignments[state].end, state))[_MAX_STATES // 2 :]
        last.sort(key=lambda state: (self._cost[state], state))
        for state in last[_MAX_STATES // 2 - 1 :]:
            self._leave(state)

    def _jump(self, before: int, state: int) -> float:
        """Return what it costs to name the source of an alignment where another one ends."""
        found = self._jumps.get((before, state))
        if found is None:
            last, here = self._alignments[before], self._alignments[state]
            found = self._source(here.shift - last.shift) if here.own == last.own else _FAR
            self._jumps[before, state] = found
        return found

    def _distance(self, chain: _Chain | None, state: int) -> float:
        """Return what it costs to name a source here, after new bytes."""
        assert chain is not None
        end, _, chain = chain
        if chain is None:
            # What was made before is not known here; most likely what lies before it in the same source.
            return 1.0
        last, here = self._alignments[chain[1]], self._alignments[state]
        if last.own != here.own:
            return _FAR
        return self._source(self._place + here.shift - end - last.shift)

    def steps(self, end: int) -> list[Step]:
        """Return the cheapest way to here, which is ``end``."""
        chain = self._chain[self._best()]
        found = []
        while chain is not None:
            start, state, chain = chain
            if start < end:
                found.append(Step(start, end, state))
                end = start
        return found[::-1]
