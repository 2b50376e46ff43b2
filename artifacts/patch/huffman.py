"""The alphabets and codes of deflate (RFC 1951): for a decoder that writes streams and an encoder that reads them.

There are two alphabets: literals with lengths of matches, and distances. A code gives each symbol some bits; how many
these are says which (section 3.2.2). Codes are kept as they stand in a stream: the first bit lowest.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CODE_LENGTH_ORDER",
    "DISTANCE_BASES",
    "DISTANCE_EXTRA_BITS",
    "DISTANCE_SYMBOLS",
    "END_OF_BLOCK",
    "FIXED_LENGTHS",
    "LEAST_DISTANCES",
    "LEAST_LITERALS",
    "LEAST_RUNS",
    "LENGTH_BASES",
    "LENGTH_EXTRA_BITS",
    "LENGTH_SYMBOLS",
    "LITERAL_SYMBOLS",
    "MAX_CODE_BITS",
    "MAX_DISTANCES",
    "MAX_DISTANCE",
    "MAX_LITERALS",
    "MAX_RUNS",
    "MAX_RUN_BITS",
    "MIN_MATCH",
    "RUN_EXTRA_BITS",
    "RUN_LEAST",
    "codes_of",
    "lookup_of",
    "symbols_of",
]

Bytes = NDArray[np.uint8]
Codes = NDArray[np.uint16]

MAX_CODE_BITS: Final = 15
MIN_MATCH: Final = 3
MAX_DISTANCE: Final = 1 << 15
END_OF_BLOCK: Final = 256
# Code lengths that a block has at least: of literals and lengths, of distances, and of what writes these.
LEAST_LITERALS, LEAST_DISTANCES, LEAST_RUNS = 257, 1, 4
# Symbols that a block may use.
MAX_LITERALS: Final = 286
MAX_DISTANCES: Final = 30

# Of the symbols 257 to 285: the shortest length that each stands for, and how many bits follow that say what is added.
LENGTH_EXTRA_BITS: Final = np.array([0] * 8 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4 + [5] * 4 + [0], np.uint8)
LENGTH_BASES: Final = np.array(
    [*(3 + np.cumsum(1 << LENGTH_EXTRA_BITS) - (1 << LENGTH_EXTRA_BITS))[:-1], 258], np.int64
)
# Of the distances' symbols the same.
DISTANCE_EXTRA_BITS: Final = np.array([0, 0] + [bits for bits in range(14) for _ in range(2)], np.uint8)
_DISTANCE_COUNTS = np.int64(1) << DISTANCE_EXTRA_BITS.astype(np.int64)
DISTANCE_BASES: Final = 1 + np.cumsum(_DISTANCE_COUNTS) - _DISTANCE_COUNTS

# For each length minus 3, and each distance minus 1, the number of its symbol in these.
LENGTH_SYMBOLS: Final = (np.searchsorted(LENGTH_BASES, np.arange(3, 259), side="right") - 1).astype(np.uint8)
DISTANCE_SYMBOLS: Final = np.repeat(np.arange(MAX_DISTANCES, dtype=np.uint8), _DISTANCE_COUNTS)

# Code lengths of blocks with fixed codes, for literals and for distances (section 3.2.6). Two more symbols of literals
# have one and mean nothing; they stand before others in the order of the codes.
LITERAL_SYMBOLS: Final = 288
FIXED_LENGTHS: Final = np.zeros((2, LITERAL_SYMBOLS), np.uint8)
FIXED_LENGTHS[0] = np.repeat([8, 9, 7, 8], [144, 112, 24, 8])
FIXED_LENGTHS[1, :32] = 5

# How code lengths are written themselves (section 3.2.7): in which order the lengths of their codes stand, and for the
# symbols 16 to 18, which are runs, the shortest run and the bits that say what is added.
MAX_RUNS: Final = 19
CODE_LENGTH_ORDER: Final = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
# The longest code for one of these symbols, whose length has three bits.
MAX_RUN_BITS: Final = 7
RUN_LEAST: Final = {16: 3, 17: 3, 18: 11}
RUN_EXTRA_BITS: Final = {16: 2, 17: 3, 18: 7}

_PLACES = 1 << MAX_CODE_BITS


def _reversed_bits() -> Codes:
    """Return each number of 15 bits with its bits in reverse."""
    numbers = np.arange(_PLACES, dtype=np.uint16)
    found = np.zeros(_PLACES, np.uint16)
    for bit in range(MAX_CODE_BITS):
        found |= (numbers >> np.uint16(bit) & np.uint16(1)) << np.uint16(MAX_CODE_BITS - 1 - bit)
    return found


_REVERSED = _reversed_bits()
# Of all that can stand in 15 bits, what a code of each length begins.
_PARTS = np.array([0, *(_PLACES >> bits for bits in range(1, MAX_CODE_BITS + 1))], np.int64)


def codes_of(lengths: Bytes) -> Codes:
    """Return the codes of several blocks (section 3.2.2), a row for each.

    Args:
        lengths: of the code of each symbol, in bits, a row for each block; 0 for a symbol that is not used.

    Raises:
        ValueError: a block has more codes than bits for them.
    """
    rows, symbols = lengths.shape
    order = lengths.argsort(axis=1, kind="stable")
    order += (np.arange(rows) * symbols)[:, None]
    # In the order of the codes each takes a part of all that can stand in 15 bits.
    parts = _PARTS.take(lengths.ravel().take(order))
    ends = parts.cumsum(axis=1)
    if int(ends[:, -1].max()) > _PLACES:
        raise ValueError("a code has more symbols than its bits can tell apart")
    codes = np.empty(lengths.size, np.uint16)
    ends -= parts
    codes[order.ravel()] = _REVERSED.take(ends.ravel())
    return codes.reshape(rows, symbols)


def lookup_of(lengths: Bytes, longest: int = MAX_CODE_BITS) -> NDArray[np.int16]:
    """Return, for all bits that may come next in a stream, the symbol they begin with; -1 where none does.

    Args:
        lengths: of the codes, in bits.
        longest: how many bits are looked at, which is the length of the longest code, or more.

    Raises:
        ValueError: there are more codes than bits for them.
    """
    order = np.argsort(lengths, kind="stable")
    used = order[int(np.count_nonzero(lengths == 0)) :]
    by_code = np.repeat(used.astype(np.int16), 1 << longest - lengths[used].astype(np.int64))
    if len(by_code) > 1 << longest:
        raise ValueError("a code has more symbols than its bits can tell apart")
    found = np.full(1 << longest, -1, np.int16)
    found[: len(by_code)] = by_code
    symbols: NDArray[np.int16] = found[_REVERSED[: 1 << longest] >> MAX_CODE_BITS - longest]
    return symbols


def symbols_of(lengths: Bytes, starts: list[int]) -> tuple[Bytes, Bytes, NDArray[np.intp]]:
    """Return the symbols that zlib and nearly all others write code lengths with, and what the run of each adds.

    Runs are as long as can be, and none goes from the one alphabet to the other. Of a length that is repeated the first
    one stands for itself; fewer than three all do.

    Args:
        lengths: of the codes of several alphabets, in bits, one after the other.
        starts: where each alphabet begins.

    Returns:
        the symbols, what they add, and where those of each alphabet begin.
    """
    is_first = np.empty(len(lengths), np.bool_)
    np.not_equal(lengths[1:], lengths[:-1], out=is_first[1:])
    is_first[starts] = True
    firsts = np.flatnonzero(is_first)
    values = lengths[firsts]
    counts = np.empty(len(firsts), np.intp)
    np.subtract(firsts[1:], firsts[:-1], out=counts[:-1])
    counts[-1] = len(lengths) - firsts[-1]
    is_used = (values != 0).view(np.int8)
    # Of each run: the length itself, the longest symbols for a run, and what is left as another one or as lengths.
    repeats, symbols, added = (np.empty((len(values), 3), np.intp if kind == 0 else np.uint8) for kind in range(3))
    counts -= is_used
    repeats[:, 0] = is_used
    repeats[:, 1], left = np.divmod(counts, _LONGEST_RUNS[is_used])
    tails = _TAILS[is_used, left]
    repeats[:, 2] = tails["count"]
    symbols[:, 0] = values
    symbols[:, 1] = _LONGEST_SYMBOLS[is_used]
    symbols[:, 2] = np.where(tails["symbol"], tails["symbol"], values)
    added[:, 0] = 0
    added[:, 1] = _LONGEST_ADDED[is_used]
    added[:, 2] = tails["added"]
    each = repeats.ravel()
    # A run begins at the start of each alphabet.
    before = np.cumsum(repeats.sum(axis=1)) - repeats.sum(axis=1)
    return symbols.ravel().repeat(each), added.ravel().repeat(each), before[firsts.searchsorted(starts)]


# Of lengths that are 0, and of others: the longest run of a symbol, that symbol and what it adds.
_LONGEST_RUNS: Final = np.array([138, 6])
_LONGEST_SYMBOLS: Final = np.array([18, 16], np.uint8)
_LONGEST_ADDED: Final = np.array([138 - RUN_LEAST[18], 6 - RUN_LEAST[16]], np.uint8)
_SHORTEST_RUN = 3


def _tails() -> NDArray[np.void]:
    """Return, for lengths that are 0 and for others, how the rest of a run is written: by a symbol, or one by one."""
    found = np.zeros((2, int(_LONGEST_RUNS.max())), [("count", np.intp), ("symbol", np.uint8), ("added", np.uint8)])
    for used, longest in enumerate(_LONGEST_RUNS.tolist()):
        for left in range(longest):
            symbol = 16 if used else 17 if left < RUN_LEAST[18] else 18
            is_run = left >= _SHORTEST_RUN
            found[used, left] = (1, symbol, left - RUN_LEAST[symbol]) if is_run else (left, 0, 0)
    return found


_TAILS: Final = _tails()
