"""What changes from place to place of a target: alignments begin and end, and so do clusters of differing bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from artifacts.patch.alignments import Alignment, Places
from artifacts.patch.differences import Differences

__all__ = ["ENTERED", "EQUAL", "LEFT", "Timeline", "timeline"]

# An alignment begins, a cluster of it ends, and it ends itself; what begins a cluster is the cluster's number.
ENTERED: Final = -3
EQUAL: Final = -1
LEFT: Final = -2

# Changes that are Python's numbers at a time: those take ten times the memory.
_CHANGES_AT_A_TIME = 1 << 14

Numbers = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Changes, in order.

    Attributes:
        places: in the target at which anything changes, ascending, with the start and the end of all.
        firsts: of each place, the number of its first change; and at last the number of all changes.
        alignments: of each change, the number of its alignment. Those of a place come in the order in which alignments
            are entered, clusters end and begin, and alignments are left.
        changes: `ENTERED`, `EQUAL`, `LEFT`, or the number of the cluster that begins.
    """

    places: Places
    firsts: Places
    alignments: Numbers
    changes: Numbers

    @property
    def steps(self) -> int:
        """How many steps it takes to go through it."""
        return len(self.places) + len(self.changes)

    def __iter__(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Yield each place, with the number of an alignment and its change for all that changes there."""
        last = 0
        while last < len(self.places):
            first = last
            last = int(np.searchsorted(self.firsts, self.firsts[first] + _CHANGES_AT_A_TIME, side="right")) - 1
            last = max(last, first + 1)
            before = int(self.firsts[first])
            some = slice(before, int(self.firsts[last]))
            changes = list(zip(self.alignments[some].tolist(), self.changes[some].tolist(), strict=True))
            borders = (self.firsts[first : last + 1] - before).tolist()
            for place, (start, end) in zip(self.places[first:last].tolist(), pairwise(borders), strict=True):
                yield place, changes[start:end]


def timeline(start: int, end: int, alignments: Sequence[Alignment], found: Sequence[Differences]) -> Timeline:
    """Return what changes between two places of the target.

    Args:
        start: a place in the target.
        end: a later one.
        alignments: what lies there.
        found: how each of them differs. Clusters have their numbers from the first of the first one on.
    """
    numbers = np.arange(len(alignments))
    first = np.array([max(one.start, start) for one in alignments], np.int64)
    last = np.array([min(one.end, end) for one in alignments], np.int64)
    owner = np.repeat(numbers, [len(how.starts) for how in found])
    none = np.zeros(0, np.int64)
    starts = np.concatenate([none, *(how.starts for how in found)])
    ends = np.concatenate([none, *(how.ends for how in found)])
    begins = np.flatnonzero((ends > first[owner]) & (starts < last[owner]))
    ended = begins[ends[begins] < last[owner[begins]]]
    places = np.concatenate((first, ends[ended], np.maximum(starts[begins], first[owner[begins]]), last))
    whose = np.concatenate((numbers, owner[ended], owner[begins], numbers)).astype(np.int32)
    fixed = (np.full(len(some), change) for some, change in ((numbers, ENTERED), (ended, EQUAL), (numbers, LEFT)))
    entered, equal, left = fixed
    changes = np.concatenate((entered, equal, begins, left)).astype(np.int32)
    kinds = np.repeat(np.arange(3, dtype=np.int8), (len(entered), len(equal) + len(begins), len(left)))
    order = np.lexsort((changes, whose, kinds, places))
    all_places = np.unique(np.concatenate((places, (start, end))))
    firsts = np.searchsorted(places[order], np.append(all_places, end + 1))
    return Timeline(all_places, firsts, whose[order], changes[order])
