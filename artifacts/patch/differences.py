"""Where alignments differ from the target, in clusters of bytes, and what those cost at some prices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from artifacts.patch.alignments import Alignment, Bytes, Places, differing
from artifacts.patch.prices import REPEATED_AFTER, Prices, difference_symbols, symbols_of

__all__ = ["MIN_CLUSTER_LOG", "Differences", "Rates", "differences", "differences_of"]

# A cluster of differing bytes ends at multiples of 64 or more, and where at least a sixteenth of that is equal.
MIN_CLUSTER_LOG = 6
_GAP_LOG = 4
_CLUSTERS_AT_A_TIME = 1 << 12
# Alignments that are compared together: short ones, of so many bytes at a time.
_SHORT, _TOGETHER = 1 << 12, 1 << 17

_NONE = np.zeros(0, np.int64)
_NO_SYMBOLS = np.zeros(0, np.uint16)


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
