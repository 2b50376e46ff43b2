"""Reads cached blobs again and again, and removes those whose bytes have changed on the disk.

A name tells the content, and the length is looked at with each download, but a bit that flipped on the disk would be
served until the blob is evicted, and every device would reject it by its hash. So each blob is hashed again, one after
another, at a pace that nobody notices: what earlier processes left first, then all others when their time has come.
"""

from __future__ import annotations

import asyncio
import hashlib

import structlog

from edge import metrics
from edge.blob_directory import BlobDirectory, OpenBlob

# A fiftieth of a core, and a tenth of what a slow disk reads.
BYTES_A_SECOND = 16 * 1024 * 1024
# Hashed in one go: about a millisecond, and a sixteenth of a second of the pace.
PIECE_BYTES = 1024 * 1024
# Until somebody has added a blob to an empty or wholly fresh cache.
LOOK_SECONDS = 60.0

log = structlog.get_logger(__name__)


class Scrub:
    """Looks after the blobs of one worker.

    Args:
        directory: where they lie.
        every: seconds after which a blob is hashed again.
        bytes_a_second: the pace.
    """

    def __init__(self, directory: BlobDirectory, every: float, bytes_a_second: float = BYTES_A_SECOND) -> None:
        self._directory = directory
        self._every = every
        self._pause = PIECE_BYTES / bytes_a_second

    async def run(self) -> None:
        """Go on for ever."""
        while True:
            sha256 = self._directory.longest_unverified(self._every)
            if sha256 is None:
                await asyncio.sleep(min(LOOK_SECONDS, self._every))
                continue
            try:
                await self.look_at(sha256)
            except OSError as error:  # a damaged blob that cannot be removed; the disk has other troubles then
                log.warning("blob_scrub_failed", sha256=sha256, errno=error.errno)
                await asyncio.sleep(LOOK_SECONDS)

    async def look_at(self, sha256: str) -> None:
        """Hash a blob, and remove it when its bytes are not those of its name any more, or cannot be read."""
        blob = self._directory.open_unused(sha256)
        if blob is None:
            return
        with blob:
            try:
                sound = await self._hash(blob) == sha256
            except OSError as error:
                log.warning("blob_unreadable", sha256=sha256, errno=error.errno)
                sound = False
        metrics.BLOB_SCRUBBED_BYTES.inc(blob.length)
        if sound:
            self._directory.note_verified(sha256)
        else:
            metrics.BLOB_DAMAGED.inc()
            log.error("blob_damaged", sha256=sha256, length=blob.length)
            self._directory.remove(sha256)
            metrics.BLOB_CACHE_BYTES.set(self._directory.stored_bytes)

    async def _hash(self, blob: OpenBlob) -> str:
        digest = hashlib.sha256()
        for offset in range(0, blob.length, PIECE_BYTES):
            digest.update(await asyncio.to_thread(blob.read, offset, PIECE_BYTES))
            await asyncio.sleep(self._pause)
        return digest.hexdigest()
