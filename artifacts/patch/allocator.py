"""What the C library does with memory that was given back: what it keeps for later, and what the system gets.

Only glibc is told (mallopt(3), malloc_trim(3)); others keep little.
"""

from __future__ import annotations

import ctypes

__all__ = ["give_back", "keep_pieces"]

# Of mallopt(3), from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3

_LIBC = ctypes.CDLL(None)
_MALLOPT = getattr(_LIBC, "mallopt", None)
_TRIM = getattr(_LIBC, "malloc_trim", None)


def keep_pieces(most: int) -> None:
    """Let pieces of memory of up to ``most`` bytes be kept for later, and give longer ones back to the system at once.

    Without that, the library learns from the longest piece that was given back. What is kept is quick to get again, and
    cannot be used where it is in the way: between pieces that are longer or live longer.
    """
    if _MALLOPT is not None:
        _MALLOPT(_MMAP_THRESHOLD, most)
        _MALLOPT(_TRIM_THRESHOLD, 2 * most)


def give_back() -> None:
    """Give what is kept back to the system. It takes some tenths of a millisecond."""
    if _TRIM is not None:
        _TRIM(0)
