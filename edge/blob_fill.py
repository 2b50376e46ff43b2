"""A blob is fetched into a file: hashed while it is written, never longer than announced, durable before it is stored.

Every write, the hashing and the flush happen in threads: flushing hundreds of megabytes can take seconds, and the loop
has other devices to answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, Protocol

from artifacts.store import BlobCorrupt
from edge.blob_growing import GrowingBlob


class BlobSource(Protocol):
    """What is needed of the object store."""

    async def length(self, sha256: str) -> int:
        """Return a blob's length in bytes, or raise `BlobMissing` or `StoreUnavailable`."""
        ...

    def stream(self, sha256: str) -> AsyncIterator[bytes]:
        """Yield a blob's bytes, unverified, or raise `BlobMissing` or `StoreUnavailable`."""
        ...


async def fetch(source: BlobSource, sha256: str, length: int, path: Path, growing: GrowingBlob) -> None:
    """Write the blob to ``path``; the caller removes what is there when this raises.

    Args:
        source: where the blob is.
        sha256: its hash.
        length: its length in bytes, as the source announced it; not a byte more is written.
        path: a file that does not exist.
        growing: told of every step; what is still to be done when it is verified takes a disk's time.

    Raises:
        BlobCorrupt: the bytes do not have that hash and length.
        OSError: the file cannot be written. And what the source raises.
    """
    with path.open("xb") as file:
        writing = _Writing(file, length)
        growing.begin(path, length)
        async for chunk in source.stream(sha256):
            await asyncio.to_thread(writing.take, chunk)
            if writing.left < 0:
                raise BlobCorrupt(sha256)
            growing.grow(length - writing.left)
        if writing.left or writing.sha256 != sha256:
            raise BlobCorrupt(sha256)
        growing.verify()
        # Durable before it gets the name of a whole blob: after a power cut, a name must not stand for holes.
        await asyncio.to_thread(writing.finish)


class _Writing:
    """A file on its way. Every method but `sha256` blocks on the disk."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.left = length

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def take(self, chunk: bytes) -> None:
        """Write and hash a piece, unless it goes beyond the length: then only count it."""
        self.left -= len(chunk)
        if self.left >= 0:
            self._digest.update(chunk)
            self._file.write(chunk)
            self._file.flush()  # for those who read the file meanwhile

    def finish(self) -> None:
        """Make the file durable."""
        os.fsync(self._file.fileno())
