"""What the C library does with memory that was given back: what it keeps for later, and what the system gets.

Only glibc is told (mallopt(3), malloc_trim(3)); others keep little.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import cast

__all__ = ["give_back", "keep_pieces"]

# Of mallopt(3), from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def _function(name: str) -> Callable[..., int] | None:
    """Return a function of the C library; None if it has none of that name, or there is no such library."""
    try:
        return cast("Callable[..., int] | None", getattr(ctypes.CDLL(None), name, None))
    except (OSError, TypeError):
        return None


_MALLOPT, _TRIM = _function("mallopt"), _function("malloc_trim")


def keep_pieces(most: int) -> None:
    """Let pieces of memory of up to ``most`` bytes be kept for later, and give longer ones back to the system at once.

    Without that, the library learns from the longest piece that was given back. What is kept is quick to get again, and
    cannot be used where it is in the way: between pieces that are longer or live longer. It is so in the whole process
    from now on, until somebody says otherwise.
    """
    # Where a bound is refused, learning is better than a bound for the other alone.
    if _MALLOPT is not None and _MALLOPT(_MMAP_THRESHOLD, most):
        _MALLOPT(_TRIM_THRESHOLD, 2 * most)


def give_back() -> None:
    """Give what is kept back to the system: a tenth of a millisecond, and more where small pieces are scattered."""
    if _TRIM is not None:
        _TRIM(0)
