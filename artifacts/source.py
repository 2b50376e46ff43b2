"""What the readers of models need of a file: an open one, or a view of bytes that are in memory already."""

from __future__ import annotations

from typing import Protocol


class Source(Protocol):
    """Bytes that can be read from any position."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a position, in bytes from the start, from here (1) or from the end (2); return it from the start."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next ``size`` bytes, or what is left."""
