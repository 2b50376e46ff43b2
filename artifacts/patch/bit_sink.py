"""Codes of up to 16 bits become a stream of bits, as deflate packs them: the first one lowest (RFC 1951, 3.1.1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["BitSink"]

_WORD_BITS = 64
_HALF = np.uint64(0xFFFFFFFF)


class BitSink:
    """Takes codes and returns whole bytes; what is left of the last one waits for more.

    Args:
        bits: those that it begins with.
        used: how many these are, fewer than 8.
    """

    def __init__(self, bits: int = 0, used: int = 0) -> None:
        self._bits, self._used = bits & (1 << used) - 1, used

    def put(self, codes: NDArray[np.uint16], lengths: NDArray[np.uint8]) -> bytes:
        """Take codes and return the bytes that are whole.

        Args:
            codes: without any bits above their length. A multiple of four, one at least. The array is used up.
            lengths: in bits, at most 16; may be 0.
        """
        # Two by two, and those again, so that four together, which have 64 bits at most, are placed as one.
        twice = lengths.view(np.uint16)
        first = twice.astype(np.uint8)
        of_pairs = (twice >> 8).astype(np.uint8)
        of_pairs += first
        pairs = codes.view(np.uint32)
        second = pairs >> 16
        second <<= first
        pairs &= 0xFFFF
        pairs |= second
        del second
        twice = of_pairs.view(np.uint16)
        first = twice.astype(np.uint8)
        of_fours = (twice >> 8).astype(np.uint8)
        of_fours += first
        fours = pairs.view(np.uint64)
        others = fours >> np.uint64(32)
        others <<= first
        fours &= _HALF
        fours |= others
        del others
        places = of_fours.cumsum(dtype=np.uint32)
        places += np.uint32(self._used)
        total = int(places[-1])
        places -= of_fours
        return self._placed(fours, places, total)

    def _placed(self, fours: NDArray[np.uint64], places: NDArray[np.uint32], total: int) -> bytes:
        """Put bits to their places in words of 64, none of which is without one that begins in it."""
        shifts = places.astype(np.uint8)
        shifts &= _WORD_BITS - 1
        places >>= np.uint32(6)
        lasts = np.flatnonzero(places[1:] != places[:-1])
        firsts = np.zeros(len(lasts) + 1, np.intp)
        np.add(lasts, 1, out=firsts[1:])
        # What does not fit into its word goes on in the next one. (A shift by 64 is none.)
        lasts = np.append(lasts, len(fours) - 1)
        over = fours.take(lasts)
        over >>= np.uint64(1)
        over >>= np.uint8(_WORD_BITS - 1) - shifts.take(lasts)
        fours <<= shifts
        words = np.zeros(len(firsts) + 1, np.uint64)
        np.bitwise_or.reduceat(fours, firsts, out=words[:-1])
        words[1:] |= over
        words[0] |= np.uint64(self._bits)
        content = words.astype("<u8", copy=False).tobytes()
        whole, self._used = divmod(total, 8)
        self._bits = content[whole] if self._used else 0
        return content[:whole]

    def pad(self) -> bytes:
        """Fill the last byte with bits of 0, and return it if there is one."""
        last = bytes([self._bits]) if self._used else b""
        self._bits = self._used = 0
        return last
