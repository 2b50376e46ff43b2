"""Which earlier places of some bytes have the same three bytes: what matches are of.

A table of hashes tells the few places that may have the bytes of one that is asked for; these are sorted, and then the
places with the same bytes are side by side. So it takes about as long whatever the bytes are.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from artifacts.patch.huffman import MIN_MATCH

__all__ = ["Candidates", "Repeats", "candidates_for"]

Places = NDArray[np.int64]
Candidates = list[NDArray[np.bool_]]

_PLACE_BITS: Final = np.uint64(32)
# An odd number with its bits mixed up, to spread the third byte over the hash of the first two.
_SPREAD: Final = np.uint16(0x9E37)


class Repeats:
    """Places of some bytes with the three bytes that other places have too.

    Args:
        content: the bytes.
        places: those asked for, all different. Three bytes begin at each.
        candidates: by `candidates_for` them. Each takes some 40 bytes of memory.
    """

    def __init__(self, content: bytes, places: Places, candidates: Candidates) -> None:
        raw = np.frombuffer(content, np.uint8)
        found = [2 * np.flatnonzero(mask) + first for first, mask in enumerate(candidates)]
        self._sorted = self._keys(raw, np.concatenate(found))
        self._sorted.sort()
        self._keys_asked = self._keys(raw, places)
        self._asked = self._sorted.searchsorted(self._keys_asked)

    @staticmethod
    def _keys(raw: NDArray[np.uint8], places: Places) -> NDArray[np.uint64]:
        """Return the bytes of places and behind them, as lower bits, the places."""
        keys = np.zeros(len(places), np.uint64)
        for further in range(MIN_MATCH):
            keys <<= np.uint64(8)
            keys |= raw[further:].take(places)
        keys <<= _PLACE_BITS
        keys |= places.astype(np.uint64)
        return keys

    def distances(self, ranks: NDArray[np.uint8]) -> Places:
        """Return how far before each place there is another one with its bytes: the nearest of rank 0, or farther ones.

        Of a place that has none it is 0.
        """
        sources = self._asked - 1 - ranks
        found = self._sorted.take(sources, mode="clip")
        same = (found ^ self._keys_asked) >> _PLACE_BITS == 0
        distances = (self._keys_asked - found).astype(np.int64)
        return np.where(same & (sources >= 0), distances, 0)

    def ranks(self, distances: Places) -> Places:
        """Return how many places are nearer than those so far before, which have the bytes too."""
        sources = self._sorted.searchsorted(self._keys_asked - distances.astype(np.uint64))
        return self._asked - 1 - sources


def candidates_for(content: bytes, places: Places) -> Candidates:
    """Tell which even places, and which odd ones, may have the same bytes as one that is asked for: by a hash."""
    raw = np.frombuffer(content, np.uint8)
    asked = np.zeros(1 << 16, np.bool_)
    asked[(raw[places + 1].astype(np.uint16) << 8 | raw[places]) ^ raw[places + 2] * _SPREAD] = True
    found = []
    # Pairs of bytes are quick to read where they begin at every second place.
    for first in range(2):
        third = raw[first + 2 :: 2]
        hashes = third * _SPREAD
        hashes ^= np.frombuffer(content, "<u2", len(third), first)
        found.append(asked.take(hashes))
    return found
