"""The cheapest way through the target: which alignment each byte is taken from, or that it is new.

A shortest path (Viterbi 1967) over the places at which alignments begin, end, and begin or cease to differ from the
target: at each, every alignment that lies there, and "new", can be entered from the cheapest of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from artifacts.patch.alignments import Alignment, Bytes, Places, differing
from artifacts.patch.prices import REPEATED_AFTER, Costs, Prices, difference_symbols, symbols_of

__all__ = [
    "MIN_CLUSTER_LOG",
    "NEW",
    "Differences",
    "Event",
    "NewBytes",
    "Rates",
    "Step",
    "choose",
    "differences_of",
    "new_bytes",
    "timeline",
]

# A cluster of differing bytes ends at multiples of 64 or more, and where at least a sixteenth of that is equal.
MIN_CLUSTER_LOG = 6
_GAP_LOG = 4
_CLUSTERS_AT_A_TIME = 1 << 12
# Alignments that are compared together: short ones, of so many bytes at a time.
_SHORT, _TOGETHER = 1 << 12, 1 << 17

# Of alignments that lie at one place, no more are kept: among zeros there are any number.
_MAX_STATES = 40
# What it costs to go from the base to the target's own bytes, or back.
_FAR = 3.0
# Bytes by which costs may differ that are meant to be equal.
_TIE = 1e-9
# Distances whose cost is kept: the same few are asked for again and again.
_KNOWN_DISTANCES = 1 << 14

_NONE = np.zeros(0, np.int64)
_NO_SYMBOLS = np.zeros(0, np.uint16)

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
    """Where an alignment differs from the target: clusters of differing bytes, and all that is needed to price them.

    Attributes:
        starts: of the clusters, in the target.
        ends: of the clusters.
        firsts: of the clusters among the symbols.
        symbols: `difference_symbols`.
    """

    starts: Places
    ends: Places
    firsts: Places
    symbols: npt.NDArray[np.uint16]


class Rates:
    """What the clusters of several alignments cost for each of their bytes, all of them looked up at once."""

    def __init__(self, found: Sequence[Differences]) -> None:
        self._lengths = np.concatenate([_NONE, *(one.ends - one.starts for one in found)])
        self._symbols = np.concatenate([_NO_SYMBOLS, *(one.symbols for one in found)])
        before = np.cumsum([0, *(len(one.symbols) for one in found)])
        firsts = [one.firsts + number for one, number in zip(found, before.tolist(), strict=False)]
        self._firsts = np.concatenate([_NONE, *firsts, [len(self._symbols)]]).astype(np.int64)
        # The number of each alignment's first cluster.
        self.numbers = np.cumsum([0, *(len(one.starts) for one in found)]).tolist()

    def __call__(self, prices: Prices) -> list[float]:
        """Return the costs at some prices."""
        rates: list[float] = []
        # Some at a time: the costs of single bytes take four times what the symbols take.
        for at in range(0, len(self._lengths), _CLUSTERS_AT_A_TIME):
            to = min(at + _CLUSTERS_AT_A_TIME, len(self._lengths))
            begin, end = self._firsts[at], self._firsts[to]
            costs = np.add.reduceat(prices.different[self._symbols[begin:end]], self._firsts[at:to] - begin)
            rates += (costs / self._lengths[at:to]).tolist()
        return rates


def differences(target: Bytes, source: Bytes, alignment: Alignment, cluster_log: int = MIN_CLUSTER_LOG) -> Differences:
    """Return where an alignment differs from the target, in clusters of at most ``1 << cluster_log`` bytes."""
    found = []
    symbols_before = 0
    for start, difference, places in differing(target, source, alignment.shift, alignment.start, alignment.end):
        starts, ends, firsts, symbols = _clusters(places, difference, cluster_log)
        found.append((starts + start, ends + start, firsts + symbols_before, symbols))
        symbols_before += len(symbols)
    if not found:
        return _EQUAL
    return Differences(*(np.concatenate(column) for column in zip(*found, strict=True)))


_EQUAL = Differences(_NONE, _NONE, _NONE, _NO_SYMBOLS)


def _clusters(
    places: Places, difference: Bytes, cluster_log: int
) -> tuple[Places, Places, Places, npt.NDArray[np.uint16]]:
    firsts, ends = _bounds(places, np.diff(places, prepend=-1), np.arange(len(places)) == 0, cluster_log)
    return places[firsts], ends, firsts, difference_symbols(difference, places).astype(np.uint16)


def _bounds(places: Places, gaps: Places, begins: npt.NDArray[np.bool_], cluster_log: int) -> tuple[Places, Places]:
    """Return which of some differing bytes are the first of a cluster, and where each cluster ends.

    Args:
        places: of the bytes in their alignments, which follow each other.
        gaps: from the byte before, or from before the alignment.
        begins: whether a byte is the first of an alignment.
        cluster_log: the longest cluster.
    """
    far = gaps > 1 << (cluster_log - _GAP_LOG)
    first = begins.copy()
    # The first differing byte, which costs most, is a cluster of its own.
    first[1:] |= far[1:] | far[:-1] | (np.diff(places >> cluster_log) != 0)
    firsts = np.flatnonzero(first)
    return firsts, places[np.append(firsts[1:], len(places)) - 1] + 1


def differences_of(
    target: Bytes, source: Bytes, alignments: Sequence[Alignment], cluster_log: int = MIN_CLUSTER_LOG
) -> Iterator[Differences]:
    """Yield what `differences` returns for each of many alignments with one source, the short ones together."""
    together: list[Alignment] = []
    length = 0
    for alignment in alignments:
        own = alignment.end - alignment.start
        if together and (own > _SHORT or length + own > _TOGETHER):
            yield from _short_differences(target, source, together, cluster_log)
            together, length = [], 0
        if own > _SHORT:
            yield differences(target, source, alignment, cluster_log)
        else:
            together.append(alignment)
            length += own
    if together:
        yield from _short_differences(target, source, together, cluster_log)


def _short_differences(
    target: Bytes, source: Bytes, alignments: Sequence[Alignment], cluster_log: int
) -> Iterator[Differences]:
    starts, lengths, shifts = (
        np.array(column)
        for column in zip(*((one.start, one.end - one.start, one.shift) for one in alignments), strict=True)
    )
    offsets = np.cumsum(lengths) - lengths
    at = np.arange(int(lengths.sum())) + np.repeat(starts - offsets, lengths)
    difference = target[at] - source[at + np.repeat(shifts, lengths)]
    flat = np.flatnonzero(difference != 0)
    if not len(flat):
        yield from (_EQUAL for _ in alignments)
        return
    owner = np.repeat(np.arange(len(alignments)), lengths)[flat]
    places = flat - offsets[owner]
    begins = np.diff(owner, prepend=-1) != 0
    gaps = np.where(begins, places + 1, np.diff(flat, prepend=0))
    firsts, ends = _bounds(places, gaps, begins, cluster_log)
    again = np.flatnonzero(places >= REPEATED_AFTER)
    again = again[difference[flat[again] - REPEATED_AFTER] == difference[flat[again]]]
    symbols = symbols_of(difference[flat], gaps, again).astype(np.uint16)
    whose = owner[firsts]
    begin = starts[whose]
    of_clusters = np.searchsorted(whose, np.arange(len(alignments) + 1)).tolist()
    of_symbols = np.searchsorted(owner, np.arange(len(alignments) + 1))
    cluster_starts, cluster_ends, in_symbols = places[firsts] + begin, ends + begin, firsts - of_symbols[whose]
    for some, its in zip(pairwise(of_clusters), pairwise(of_symbols.tolist()), strict=True):
        part = slice(*some)
        if part.start == part.stop:
            yield _EQUAL
        else:
            yield Differences(cluster_starts[part], cluster_ends[part], in_symbols[part], symbols[slice(*its)])


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


@dataclass(slots=True)
class Event:
    """What changes at one place of a target: alignments that begin there, clusters that begin or end, alignments' ends.

    Attributes:
        place: in the target.
        entered: numbers of alignments.
        changed: numbers of alignments, and the number of the cluster that begins there; -1 where one ends.
        left: numbers of alignments.
    """

    place: int
    entered: tuple[int, ...] = ()
    changed: list[tuple[int, int]] = field(default_factory=list)
    left: tuple[int, ...] = ()


def timeline(
    start: int, end: int, alignments: Sequence[Alignment], found: Sequence[Differences], numbers: Sequence[int]
) -> list[Event]:
    """Return what changes between two places of the target, in order.

    Args:
        start: a place in the target.
        end: a later one.
        alignments: what lies there.
        found: how each of them differs.
        numbers: of each alignment's first cluster among all clusters.
    """
    events: dict[int, Event] = {}

    def at(place: int) -> Event:
        event = events.get(place)
        if event is None:
            event = events[place] = Event(place)
        return event

    at(start)
    at(end)
    for number, (alignment, how) in enumerate(zip(alignments, found, strict=True)):
        first, last = max(alignment.start, start), min(alignment.end, end)
        # Tuples, because most events have none.
        at(first).entered += (number,)
        at(last).left += (number,)
        inside = slice(int(np.searchsorted(how.ends, first, side="right")), int(np.searchsorted(how.starts, last)))
        # The end of one cluster may be the start of the next: ends come first.
        for place in how.ends[inside].tolist():
            if place < last:
                at(place).changed.append((number, -1))
        for cluster, place in enumerate(how.starts[inside].tolist(), numbers[number] + inside.start):
            at(max(place, first)).changed.append((number, cluster))
    return [events[place] for place in sorted(events)]


def choose(
    events: Sequence[Event],
    alignments: Sequence[Alignment],
    rates: Sequence[float],
    prices: Prices,
    new: NewBytes,
    *,
    late: bool = True,
) -> list[Step]:
    """Return the cheapest steps from the first event to the last.

    Args:
        events: what changes where.
        alignments: what can be chosen.
        rates: what each cluster costs for each of its bytes.
        prices: what things cost.
        new: what new bytes cost.
        late: where two alignments are equal for some bytes, whether those come from the first of them. Rows of floats
            that were moved end so where they end, though the highest byte before both may be the same.
    """
    costs = new.costs(np.array([event.place for event in events]))
    path = _Path(alignments, prices, events[0].place, costs[0], late=late)
    for event, cost in zip(events, costs, strict=True):
        path.go_to(event.place, cost)
        path.enter(event.entered)
        best = path.best()
        # Where others than the best begin to differ, no state is better left or entered.
        if event.entered or event.left or any(cluster < 0 or number == best for number, cluster in event.changed):
            path.change_over(best)
        for number, cluster in event.changed:
            path.change_rate(number, rates[cluster] if cluster >= 0 else 0.0)
        path.leave(event.left)
    return path.steps(events[-1].place)


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
        self._rate: dict[int, float] = {}
        self._chain: dict[int, _Chain | None] = {NEW: (start, NEW, None)}
        self._jumps: dict[tuple[int, int], float] = {}

    def go_to(self, place: int, new: float) -> None:
        """Make the bytes up to ``place``; ``new`` is what all from the target's start would cost as new ones."""
        cost = self._cost
        length = place - self._place
        for state, rate in self._rate.items():
            if rate:
                cost[state] += rate * length
        cost[NEW] += new - self._new
        self._new, self._place = new, place

    def enter(self, states: Sequence[int]) -> None:
        for state in states:
            self._cost[state] = float("inf")
            self._rate[state] = 0.0

    def leave(self, states: Sequence[int]) -> None:
        for state in states:
            if state in self._rate:
                del self._cost[state], self._rate[state]
                self._chain.pop(state, None)

    def change_rate(self, state: int, rate: float) -> None:
        if state in self._rate:
            self._rate[state] = rate

    def best(self) -> int:
        """Return the state that is cheapest so far."""
        return min(self._cost, key=self._cost.__getitem__)

    def change_over(self, best: int) -> None:
        """Let each state be entered from the cheapest one, or from new bytes, if that is cheaper than to stay."""
        cost, place, tie = self._cost, self._place, self._tie
        low, chain = cost[best], self._chain[best]
        if low + self._data < cost[NEW]:
            cost[NEW] = low + self._data
            self._chain[NEW] = (place, NEW, chain)
        bound = low + self._copy
        new_chain = self._chain[NEW]
        assert new_chain is not None
        # New bytes that would begin here are no way from the best to another state.
        new_bound = float("inf") if best == NEW or new_chain[0] == place else cost[NEW] + self._copy
        for state, now in cost.items():
            now += tie
            if now <= bound or state in (NEW, best):
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
        last = sorted(self._rate, key=lambda state: (-self._alignments[state].end, state))[_MAX_STATES // 2 :]
        last.sort(key=lambda state: (self._cost[state], state))
        self.leave(last[_MAX_STATES // 2 - 1 :])

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
        chain = self._chain[self.best()]
        found = []
        while chain is not None:
            start, state, chain = chain
            if start < end:
                found.append(Step(start, end, state))
                end = start
        return found[::-1]
