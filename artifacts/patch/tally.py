"""How often numbers occur at each level: what the choice of classes, and of everything else, is made from.

Numbers are counted in buckets, so that one count serves every choice of low bits: exact ones below 64, above that by
their six highest bits. What lies within a bucket is taken as noise, which costs a bit for each bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from artifacts.patch.elements import LEVELS, numbers_of_factors
from artifacts.patch.kinds import FACTORS
from artifacts.patch.matrix import Factors

__all__ = [
    "LEVELS",
    "Buckets",
    "Counts",
    "Tally",
    "buckets",
    "coarse_table",
    "entropies",
    "entropy",
    "estimated_bits",
    "tally",
    "tally_factors",
    "united",
]

# Buckets below this number hold one number each.
_EXACT_LOG = 6
_EXACT = 1 << _EXACT_LOG
# Bits of a number below its highest one that tell buckets apart.
_DETAIL_LOG = _EXACT_LOG - 1
# An estimate tells numbers apart by fewer bits: with more, small tensors seemed to have less entropy than they have.
_COARSE_LOG = 3
# Of doubles: the bits of the mantissa, and what is added to the exponent.
_MANTISSA_LOG, _BIAS = 52, 1023

# Numbers of so few bytes are looked up: a list of all of them has half a megabyte.
_LISTED_BYTES = 2

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Buckets:
    """The buckets for numbers of one width.

    Attributes:
        starts: the smallest number in each.
        bits: how many low bits of a number each does not tell.
        coarse: the number of the coarse bucket that each lies in.
        coarse_bits: how many low bits of a number that does not tell.
    """

    starts: npt.NDArray[np.uint64]
    bits: Counts
    coarse: Counts
    coarse_bits: Counts


@lru_cache
def buckets(width: int) -> Buckets:
    """Return the buckets for numbers of ``width`` bytes."""
    place = np.arange((8 * width - _EXACT_LOG) << _DETAIL_LOG)
    bits = (place >> _DETAIL_LOG) + 1
    high = ((1 << _DETAIL_LOG) + place % (1 << _DETAIL_LOG)).astype(np.uint64) << bits.astype(np.uint64)
    starts = np.concatenate([np.arange(_EXACT, dtype=np.uint64), high])
    coarse_bits = np.array([max(int(start).bit_length() - 1 - _COARSE_LOG, 0) for start in starts])
    _, coarse = np.unique(starts >> coarse_bits.astype(np.uint64) << coarse_bits.astype(np.uint64), return_inverse=True)
    return Buckets(starts, np.concatenate([np.zeros(_EXACT, np.int64), bits]), coarse, coarse_bits)


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """How often numbers of one width occur at each level. Only what does occur is kept, a small part in most tensors.

    Attributes:
        width: bytes of a number.
        places: the buckets that occur, ascending: their number, and that of all buckets for each level below theirs.
        counts: of each of them.
    """

    width: int
    places: npt.NDArray[np.int32]
    counts: Counts

    @property
    def total(self) -> int:
        """How many numbers were counted."""
        return int(self.counts.sum())

    @property
    def levels(self) -> npt.NDArray[np.intp]:
        """The levels that occur, ascending."""
        return np.unique(self.places // len(buckets(self.width).starts))

    def table(self) -> Counts:
        """Return the counts of all buckets, one row for each of the `levels`."""
        count = len(buckets(self.width).starts)
        levels, buckets_there = np.divmod(self.places, count)
        present, rows = np.unique(levels, return_inverse=True)
        table = np.zeros((len(present), count), np.int64)
        table[rows, buckets_there] = self.counts
        return table


def tally(width: int, parts: Iterable[tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]]) -> Tally:
    """Count numbers by level and bucket.

    Args:
        width: bytes of a number.
        parts: some unsigned numbers at a time, with the level of each.
    """
    count = len(buckets(width).starts)
    counts = np.zeros((LEVELS, count), np.int64)
    least, most = LEVELS, 0
    for numbers, levels in parts:
        if not len(levels):
            continue
        places = _places(numbers, width)
        # Most tensors have few levels: the others are not touched.
        lowest, highest = int(levels.min()), int(levels.max())
        rows = levels.astype(np.int64)
        rows -= lowest
        rows *= count
        places += rows
        found = np.bincount(places, minlength=(highest - lowest + 1) * count)
        counts[lowest : highest + 1] += found.reshape(-1, count)
        least, most = min(least, lowest), max(most, highest + 1)
    return _sparse(width, counts[least:most].ravel(), least)


def _places(numbers: npt.NDArray[Any], width: int) -> npt.NDArray[np.int64]:
    """Return the bucket of each number."""
    if width <= _LISTED_BYTES:
        return _all_places(width).take(numbers).astype(np.int64)
    # The exponent and the upper part of the mantissa of the number as a double are its bucket.
    places = numbers.astype(np.float64).view(np.int64)
    places >>= _MANTISSA_LOG - _DETAIL_LOG
    places -= ((_BIAS + _EXACT_LOG) << _DETAIL_LOG) - _EXACT
    np.copyto(places, numbers, casting="unsafe", where=numbers < _EXACT)
    if width == 8:
        # The largest are rounded up out of the last bucket.
        np.minimum(places, len(buckets(width).starts) - 1, out=places)
    return places


@lru_cache
def _all_places(width: int) -> npt.NDArray[np.uint16]:
    """Return the bucket of each number of few bytes: few bytes each, so that all stay in a processor's cache."""
    starts = buckets(width).starts
    places = np.searchsorted(starts, np.arange(1 << 8 * width, dtype=np.uint64), side="right") - 1
    return places.astype(np.uint16)


def united(tallies: Sequence[Tally]) -> Tally:
    """Return the sum of tallies of one width; at least one."""
    width = tallies[0].width
    counts = np.zeros(LEVELS * len(buckets(width).starts), np.int64)
    for one in tallies:
        counts[one.places] += one.counts
    return _sparse(width, counts)


def _sparse(width: int, counts: Counts, level: int = 0) -> Tally:
    """Return the tally of counts of all buckets from a level on."""
    found = np.flatnonzero(counts)
    places = found + level * len(buckets(width).starts)
    return Tally(width, places.astype(np.int32), counts[found])


def tally_factors(factors: Factors) -> Tally:
    """Count the factors of a matrix, by level and bucket, as they are written."""
    sides = numbers_of_factors(factors, FACTORS.width)
    return tally(
        FACTORS.width, ((numbers, np.repeat(levels, len(numbers) // len(levels))) for numbers, levels in sides)
    )


def entropy(counts: npt.NDArray[Any]) -> float:
    """Return the bits of a sequence of symbols that occur so often, each coded by how often it occurs."""
    return float(entropies(counts))


def entropies(counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the `entropy` of each of several sequences, or of arrays of them; the last axis is that of symbols."""
    return np.asarray(_by_logarithm(counts.sum(axis=-1)) - _by_logarithm(counts).sum(axis=-1))


def estimated_bits(one: Tally) -> float:
    """Return about how many bits numbers take that were counted, each level with a code of its own."""
    if not len(one.counts):
        return 0.0
    merged = coarse_table(one)
    kinds = buckets(one.width)
    return float(entropies(merged).sum()) + float(
        (one.counts * kinds.coarse_bits[one.places % len(kinds.starts)]).sum()
    )


def coarse_table(one: Tally) -> Counts:
    """Return the counts of all coarse buckets, one row for each of the tally's levels."""
    # The coarse buckets are runs of the others.
    starts = np.flatnonzero(np.diff(buckets(one.width).coarse, prepend=-1))
    table: Counts = np.add.reduceat(one.table(), starts, axis=1)
    return table


def _by_logarithm(counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.asarray(counts * np.log2(np.maximum(counts, 1)), np.float64)
