"""A blob on its way from the object store: devices read what has arrived, and no answer is whole before the hash holds.

One fetch writes the file, any number of devices read it, each as fast as it can, and none holds up the fetch. Whether
the bytes are right is known only at the end. So every answer keeps its last piece back until then: when the hash does
not hold, the connection is cut, and neither the device nor a cache between has anything that looks complete.

    asked for → length known → growing → verified → (durable and admitted: `edge.blob_directory`)
          └─────────┴────────────┴→ failed
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from edge.blob_directory import OpenBlob
from edge.errors import EdgeError, Unavailable

# The last bytes of each answer, which go when the hash of the whole blob holds. One would do; this many are a packet or
# a few, and an answer this short waits as a whole, so that a failure still has a status of its own.
HELD_BACK_BYTES = 64 * 1024


class GrowingBlob:
    """What the one who fetches and those who read have in common.

    Args:
        wait: longest time that a reader waits for more, in seconds.
    """

    def __init__(self, wait: float) -> None:
        self._wait = wait
        self._length: int | None = None
        self._arrived = 0
        self._descriptor: int | None = None
        self._verified = False
        self._failure: EdgeError | None = None
        self._change = asyncio.Event()

    # --- for the one who fetches ---

    def begin(self, path: Path, length: int) -> None:
        """Let readers in: the file is there, and the blob will have so many bytes."""
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._length = length
        self._tell()

    def grow(self, arrived: int) -> None:
        """So many bytes are in the file."""
        self._arrived = arrived
        self._tell()

    def verify(self) -> None:
        """All bytes are in the file, and they have the hash; what happens to the file now is no reader's concern."""
        self._verified = True
        self._tell()

    def close(self, failure: EdgeError | None) -> None:
        """Let no more readers in; those who are in have descriptors of their own.

        Args:
            failure: why it came to nothing, and the file is gone. A blob that was verified cannot fail its readers any
                more, but those who come now.
        """
        self._failure = failure
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._tell()

    def _tell(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    # --- for those who read ---

    @property
    def length(self) -> int | None:
        """Length of the blob in bytes, when it is known."""
        return self._length

    async def open(self) -> OpenBlob | None:
        """Return the blob open for reading as soon as its length is known; None when it is whole and stored by now.

        Raises:
            EdgeError: it comes to nothing; `Unavailable` also when that takes too long.
        """
        while self._descriptor is None or self._length is None:
            if self._failure is not None:
                raise self._failure.with_traceback(None)
            if self._verified:
                return None
            await self._changed()
        return _Reader(os.dup(self._descriptor), self._length, self)

    async def ready(self, first: int, end: int) -> int:
        """See `OpenBlob.ready`."""
        while not self._verified:
            if self._failure is not None:
                raise self._failure.with_traceback(None)
            free = min(self._arrived, end - HELD_BACK_BYTES)
            if free > first:
                return free
            await self._changed()
        return end

    async def _changed(self) -> None:
        try:
            async with asyncio.timeout(self._wait):
                await self._change.wait()
        except TimeoutError:
            raise Unavailable("The artifact is still being fetched; ask again.", "fetching", retry_after=5) from None


class _Reader(OpenBlob):
    __slots__ = ("_growing",)

    def __init__(self, descriptor: int, length: int, growing: GrowingBlob) -> None:
        super().__init__(descriptor, length)
        self._growing = growing

    async def ready(self, first: int, end: int) -> int:
        return await self._growing.ready(first, end)
