"""Numbers of a few bits, one after the other, highest bit first: packed, and taken apart again.

Each kind of width has the way that numpy is quickest at: its own for one bit, tables for what else divides a byte, and
for the rest eight numbers at a time, which take as many bytes as one has bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Unpacker", "packed", "unpacked"]

Octets = npt.NDArray[np.uint8]
_WORD = np.dtype("<u8")
_WORD_BYTES = 8
# So many numbers take as many bytes as one has bits.
_GROUP = 8
# With fewer groups, eight shifts of each are quicker than steps that move half of the numbers each: fewer calls.
_FEW_GROUPS = 256
# Widths that neither numpy nor a table takes apart.
_OTHER_WIDTHS = (3, 5, 6, 7)
# How far the numbers of a group are shifted down in a word that begins with them.
_SHIFTS = {width: np.arange(64 - width, 63 - 8 * width, -width).astype(np.uint64) for width in _OTHER_WIDTHS}


def _spread(width: int) -> list[tuple[int, int, np.uint64]]:
    """Return how a word is cut into 2, 4 and 8 numbers: bits of a half, those that are in it, and a mask for them."""
    return [
        (half, bits, np.uint64(((1 << bits) - 1) * sum(1 << start for start in range(0, 64, 2 * half))))
        for half, bits in ((half, half * width // 8) for half in (32, 16, 8))
    ]


_SPREADS = {width: _spread(width) for width in _OTHER_WIDTHS}


def packed(values: Octets, width: int) -> bytes:
    """Return the low ``width`` bits of each value, one after the other, highest bit first."""
    return np.packbits(np.unpackbits(values[:, None], axis=1)[:, 8 - width :]).tobytes()


def unpacked(content: bytes, width: int, count: int) -> Octets:
    """Return what `packed` packed."""
    if width == 1:
        return np.unpackbits(np.frombuffer(content, np.uint8), count=count)
    return _all_of(content, width)[:count]


class Unpacker:
    """Takes many runs of numbers apart, those of one width at once: a run is short, and each step costs a call."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[list[bytes], list[Octets]]] = {}

    def add(self, content: bytes, width: int, out: Octets) -> None:
        """Let what `packed` packed come into ``out``, when `finish` is called."""
        runs, places = self._waiting.setdefault(width, ([], []))
        runs.append(content.ljust(-(-len(out) // _GROUP) * width, b"\0"))
        places.append(out)

    def finish(self) -> None:
        """Take apart all that was added."""
        for width, (runs, places) in self._waiting.items():
            content = b"".join(runs)
            values = unpacked(content, width, len(content) // width * _GROUP)
            start = 0
            for out in places:
                out[:] = values[start : start + len(out)]
                start += -(-len(out) // _GROUP) * _GROUP


def _table(width: int) -> npt.NDArray[np.unsignedinteger]:
    """Return the numbers that each byte holds, as one number of as many bytes."""
    octets = np.arange(256, dtype=np.uint8)[:, None]
    numbers = octets >> np.arange(8 - width, -1, -width, dtype=np.uint8) & np.uint8((1 << width) - 1)
    table: npt.NDArray[np.unsignedinteger] = numbers.view(f"<u{8 // width}").ravel()
    return table


_TABLES = {2: _table(2), 4: _table(4)}


def _all_of(content: bytes, width: int) -> Octets:
    """Return the numbers of whole bytes; up to seven that are not there follow them."""
    if (table := _TABLES.get(width)) is not None:
        return table.take(np.frombuffer(content, np.uint8)).view(np.uint8)
    groups = -(-len(content) // width)
    # Each word is read from the start of its group, so the last one reaches beyond the end.
    whole = content.ljust(groups * width + _WORD_BYTES, b"\0")
    words = np.ndarray((groups,), ">u8", whole, 0, (width,)).astype(_WORD)
    if groups <= _FEW_GROUPS:
        values = (words[:, None] >> _SHIFTS[width]).astype(np.uint8)
        values &= np.uint8((1 << width) - 1)
        return values.ravel()
    words >>= 64 - _GROUP * width
    for half, bits, mask in _SPREADS[width]:
        # The upper of two numbers goes to the lower half of its place, because the first byte of a word is its lowest.
        upper = words >> bits
        upper &= mask
        words &= mask
        words <<= half
        words |= upper
    return words.view(np.uint8)
