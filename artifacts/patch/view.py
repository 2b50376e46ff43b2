"""A file to read from that is a view of bytes in memory, without a copy of them."""

from __future__ import annotations

import os


class ViewFile:
    """What `zipfile` and the readers of models need of an open file, over bytes that are mapped or in memory.

    Args:
        view: bytes, one to an element.
    """

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._position = 0

    def seekable(self) -> bool:
        """Tell that it seeks."""
        return True

    def tell(self) -> int:
        """Return the position, in bytes from the start."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a position, in bytes from the start, from here or from the end; return it from the start."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: len(self._view)}[whence]
        if start + offset < 0:
            raise ValueError("a position before the start")
        self._position = start + offset
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        """Return the next ``size`` bytes, or what is left."""
        end = len(self._view) if size < 0 else self._position + size
        piece = bytes(self._view[self._position : end])
        self._position += len(piece)
        return piece
