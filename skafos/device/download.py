"""A blob is downloaded: resumed where it was cut off, never longer than it must be, and hashed at the end.

Its bytes go to ``blob-<sha256>``, its entity tag to ``blob-<sha256>.etag``; both outlive the process, so that the next
update goes on from there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from artifacts.hashing import hash_file
from manifests.model import Encoding
from skafos.device.edge import BlobAnswer, Edge, Retry
from skafos.device.errors import BlobUnusable, EdgeUnavailable
from skafos.device.slots import BLOB_ETAG_SUFFIX, BLOB_PREFIX

Progress = Callable[[int, int], None]

# Attempts in a row that bring nothing; one that brings bytes starts the count again.
MAX_FRUITLESS_ATTEMPTS = 4
# A connection that breaks a hundred times within one blob is no connection.
MAX_ATTEMPTS = 100


class BlobDownload:
    """One blob on its way into a folder.

    Args:
        encoding: names the blob and its length.
        folder: where it goes, and where an earlier attempt may have left a part of it.
        progress: is told the bytes that are there and their total.
    """

    def __init__(self, encoding: Encoding, folder: Path, progress: Progress | None = None) -> None:
        self._blob = encoding.blob
        self._length = encoding.length
        self._progress = progress
        self.path = folder / f"{BLOB_PREFIX}{encoding.blob}"
        self._etag = folder / f"{BLOB_PREFIX}{encoding.blob}{BLOB_ETAG_SUFFIX}"
        self.received = 0

    @property
    def position(self) -> int:
        """How many bytes are there."""
        return self.path.stat().st_size if self.path.exists() else 0

    def run(self, edge: Edge, retry: Retry) -> Path:
        """Return the blob's file, whole and verified.

        Raises:
            EdgeUnavailable: several attempts in a row brought nothing.
            BlobUnusable: the edge has no such blob, or gives other bytes under its name.
        """
        resumed = self.position > 0
        self._receive_all(edge, retry)
        if self._is_right():
            return self.path
        self.discard()
        if resumed:
            # What lay there from before may be what is wrong, so the edge gets one chance for all of it.
            self._receive_all(edge, retry)
            if self._is_right():
                return self.path
            self.discard()
        raise BlobUnusable(f"The bytes of blob {self._blob} are not what its name says.")

    def discard(self) -> None:
        """Remove what is there."""
        self.path.unlink(missing_ok=True)
        self._etag.unlink(missing_ok=True)

    def _receive_all(self, edge: Edge, retry: Retry) -> None:
        fruitless = 0
        for _ in range(MAX_ATTEMPTS):
            before = self.position
            if before == self._length:
                return
            try:
                self._receive_some(edge)
            except EdgeUnavailable as error:
                fruitless = 0 if self.position > before else fruitless + 1
                if fruitless >= MAX_FRUITLESS_ATTEMPTS:
                    raise
                retry.sleep(retry.seconds(max(fruitless, 1), error.retry_after))
        if self.position != self._length:
            raise EdgeUnavailable(f"The download broke off {MAX_ATTEMPTS} times.")

    def _receive_some(self, edge: Edge) -> None:
        start = self.position if self.position < self._length else 0
        with edge.blob(self._blob, self._length, start, self._known_etag()) as answer:
            if answer.start not in (0, start):
                raise BlobUnusable("The edge answers with a part that was not asked for.")
            self._write(answer)

    def _write(self, answer: BlobAnswer) -> None:
        if answer.start == 0:
            # The tag before the bytes it belongs to; a weak one does not promise equal bytes (RFC 9110, 13.1.5).
            self._etag.write_text("" if answer.etag.startswith("W/") else answer.etag, "utf-8")
        with self.path.open("r+b" if answer.start else "wb") as file:
            file.seek(answer.start)
            for chunk in answer.chunks:
                file.write(chunk)
                self.received += len(chunk)
                if self._progress:
                    self._progress(file.tell(), self._length)
            file.flush()
            os.fsync(file.fileno())

    def _known_etag(self) -> str:
        try:
            return self._etag.read_text("utf-8")
        except (OSError, ValueError):
            return ""

    def _is_right(self) -> bool:
        return hash_file(self.path) == (self._blob, self._length)
