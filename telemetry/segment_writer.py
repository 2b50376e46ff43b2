"""The one segment that a writer appends to: commits that are whole on the disk, or leave nothing behind.

Every method blocks on the disk; the spool calls them in a thread of its own.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from telemetry.segment import GROUP, HEADER, encode_group, encode_header
from telemetry.spare_segments import spares
from telemetry.spool_directory import close_segment, new_segment_name, sync_directory

Durability = Literal["fsync", "os"]
"""``fsync``: on the disk before the answer. ``os``: with the operating system, lost by a power cut, not by a kill."""

_MAX_PIECES: Final = 1024
"""What Linux and macOS take in one call (IOV_MAX)."""
# Where the system has it, one call writes and waits for the disk: with the interpreter's lock let go and taken up once,
# not twice, which a busy event loop notices.
_SYNCED_WRITE: Final[int] = getattr(os, "RWF_DSYNC", 0)


class SegmentWriter:
    """Appends to the open segment of a directory; makes one when there is none, or writes over one that was shipped.

    Args:
        directory: the writer's own.
        durability: see ``Durability``.

    Attributes:
        length: bytes of the open segment that are committed.
        opened_at: when it was made, on the monotonic clock.
    """

    def __init__(self, directory: Path, durability: Durability) -> None:
        self._directory = directory
        self._durability = durability
        self._path: Path | None = None
        self._descriptor = -1
        self._segment_id = b""
        self._size = 0  # of the file
        self.length = 0
        self.opened_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether there is a segment that is not handed over."""
        return self._path is not None

    def commit(self, pieces: Sequence[bytes], size: int) -> None:
        """Write the pieces as one group and sync them; on failure nothing of them stays in the segment.

        Args:
            pieces: of whole records.
            size: of all pieces, in bytes.

        Raises:
            OSError: the disk is full, or fails.
        """
        if self._path is None:
            self._open()
        try:
            self._write([encode_group(self._segment_id, size), *pieces], self.length)
        except BaseException:
            self._abandon_tail()
            raise
        self.length += GROUP.size + size

    def roll(self) -> None:
        """Close the segment and hand it over; one without a record is removed, or a full disk would fill with them."""
        if self._path is None:
            return
        path, self._path = self._path, None
        try:
            if self.length < self._size:
                os.ftruncate(self._descriptor, self.length)  # what is behind it is of the segment before
        finally:
            os.close(self._descriptor)
            if self.length > HEADER.size:
                close_segment(path)
            else:
                path.unlink()

    def _open(self) -> None:
        self._segment_id = secrets.token_bytes(16)
        if not self._reuse():
            path = self._directory / new_segment_name()
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._begin(path, path)
        self.length, self.opened_at = HEADER.size, time.monotonic()

    def _reuse(self) -> bool:
        """Begin in a segment that was shipped; tell whether there was one."""
        for spare in spares(self._directory):
            try:
                self._descriptor = os.open(spare, os.O_WRONLY | os.O_CLOEXEC)
                self._begin(spare, self._directory / new_segment_name())
            except FileNotFoundError:  # it was not used for a while, and a shipper removed it
                continue
            return True
        return False

    def _begin(self, path: Path, to: Path) -> None:
        """Write the header into the file that was opened, and then give it the name of an open segment.

        In this order: with the header of the segment before it would be that one, and be shipped once more.
        """
        try:
            self._write([encode_header(self._segment_id)], 0)
            path.rename(to)
            if self._durability == "fsync":
                sync_directory(self._directory)  # the name must outlive a power cut as well as the bytes
            self._size = os.fstat(self._descriptor).st_size
        except OSError:
            os.close(self._descriptor)
            for name in (path, to):
                name.unlink(missing_ok=True)
            raise
        self._path = to

    def _write(self, pieces: Sequence[bytes], offset: int) -> None:
        synced = self._durability == "fsync"
        for first in range(0, len(pieces), _MAX_PIECES):
            offset = self._write_whole(pieces[first : first + _MAX_PIECES], offset, _SYNCED_WRITE if synced else 0)
        if synced and not _SYNCED_WRITE:
            os.fdatasync(self._descriptor)

    def _write_whole(self, pieces: Sequence[bytes], offset: int, flags: int) -> int:
        """Write pieces at an offset, and return where they end."""
        written = os.pwritev(self._descriptor, pieces, offset, flags)
        end = offset + sum(map(len, pieces))
        if offset + written == end:
            return end
        rest = memoryview(b"".join(pieces))[written:]  # a full disk, or a signal; rare enough for a copy
        while rest:
            taken = os.pwritev(self._descriptor, [rest], end - len(rest), flags)
            rest = rest[taken:]
        return end

    def _abandon_tail(self) -> None:
        # A half-written record would hide every later one from the reader, so cut it off; and after a failed sync the
        # kernel may have dropped dirty pages, so never write to this file again.
        try:
            os.ftruncate(self._descriptor, self.length)
        finally:
            self.roll()
