"""The segment that a writer appends to, and the next one: commits that are whole on the disk, or leave nothing behind.

Making a segment (a file, its header, its name, all on the disk) takes as long as some commits, so the next one is made
ready while this one is written, and what is full is handed over meanwhile as well. `SegmentWriter.commit` is called
from one thread at a time, `prepare` and `discard_next` from any; they and `WrittenSegment.hand_over` wait for the disk.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Final, Literal

from telemetry.segment import GROUP, HEADER, encode_group, encode_header
from telemetry.spare_segments import spares
from telemetry.spool_directory import NEXT_SUFFIX, close_segment, new_segment_name, sync_directory

Durability = Literal["fsync", "os"]
"""``fsync``: on the disk before the answer. ``os``: with the operating system, lost by a power cut, not by a kill."""

_MAX_PIECES: Final = 1024
"""What Linux and macOS take in one call (IOV_MAX)."""
# Where the system has it, one call writes and waits for the disk: with the interpreter's lock let go and taken up once,
# not twice, which a busy event loop notices.
_SYNCED_WRITE: Final[int] = getattr(os, "RWF_DSYNC", 0)


@dataclass(slots=True)
class WrittenSegment:
    """A segment's file, open for writing.

    Attributes:
        size: of the file when it was begun, in bytes; behind ``length`` there may be what an older segment left.
        length: bytes that are committed, the header included.
        opened_at: when it was made or taken, on the monotonic clock.
    """

    path: Path
    descriptor: int
    segment_id: bytes
    size: int
    length: int = HEADER.size
    opened_at: float = field(default_factory=time.monotonic)

    def has_room(self, size: int) -> bool:
        """Whether a group fits into the blocks that the file has; a new file has none, and takes any.

        Args:
            size: of the group's records, in bytes.
        """
        return self.size == HEADER.size or self.length + GROUP.size + size <= self.size

    def hand_over(self) -> None:
        """Close it and give it to the shipper; one without a record is removed, or a full disk would fill with them."""
        try:
            if self.length < self.size:
                os.ftruncate(self.descriptor, self.length)  # what is behind it is of the segment before
        finally:
            os.close(self.descriptor)
            if self.length > HEADER.size:
                close_segment(self.path)
            else:
                self.path.unlink(missing_ok=True)


class SegmentWriter:
    """Appends to the open segment of a directory; makes one when there is none, or writes over one that was shipped.

    Args:
        directory: the writer's own.
        durability: see ``Durability``.
    """

    def __init__(self, directory: Path, durability: Durability) -> None:
        self._directory = directory
        self._durability = durability
        self._segment: WrittenSegment | None = None
        self._next: WrittenSegment | None = None
        # Of the next segment. It is held while one is made, too: of two threads that made one in the same shipped file,
        # the later would write its header over that of the other.
        self._lock = Lock()

    @property
    def segment(self) -> WrittenSegment | None:
        """The segment that is not handed over."""
        return self._segment

    def commit(self, pieces: Sequence[bytes], size: int) -> None:
        """Write the pieces as one group and sync them; on failure nothing of them stays in the segment.

        Args:
            pieces: of whole records.
            size: of all pieces, in bytes.

        Raises:
            OSError: the disk is full, or fails.
        """
        if self._segment is None:
            self._segment = self._begun()
        segment = self._segment
        try:
            self._write(segment.descriptor, [encode_group(segment.segment_id, size), *pieces], segment.length)
        except BaseException:
            self._abandon_tail(segment)
            raise
        segment.length += GROUP.size + size

    def detach(self) -> WrittenSegment | None:
        """Return the segment, to be handed over by the caller: the next commit is the first of another one."""
        segment, self._segment = self._segment, None
        return segment

    def prepare(self) -> None:
        """Make the next segment ready.

        Raises:
            OSError: the disk is full, or fails; the next commit tries for itself.
        """
        with self._lock:
            if self._next is None:
                self._next = self._make(new_segment_name(NEXT_SUFFIX))

    def discard_next(self) -> None:
        """Remove the next segment: it may hold what was shipped, which is to be gone soon when nothing more comes."""
        with self._lock:
            ahead, self._next = self._next, None
        if ahead is not None:
            ahead.hand_over()  # it has no record

    def _begun(self) -> WrittenSegment:
        """Return the segment that was made ready, under the name of an open one that begins now, or else a new one.

        The new name need not be on the disk: after a power cut either is recovered.
        """
        path = self._directory / new_segment_name()
        with self._lock:
            if self._next is None:
                return self._make(path.name)
            ahead, self._next = self._next, None
        try:
            ahead.path.rename(path)
        except BaseException:
            ahead.hand_over()
            raise
        ahead.path, ahead.opened_at = path, time.monotonic()
        return ahead

    def _make(self, name: str) -> WrittenSegment:
        """Return a new segment of this name, with its header, in a file that was shipped if there is one."""
        for spare in spares(self._directory):
            try:
                descriptor = os.open(spare, os.O_WRONLY | os.O_CLOEXEC)
                return self._begin(descriptor, spare, self._directory / name)
            except FileNotFoundError:  # it was not used for a while, and a shipper removed it
                continue
        path = self._directory / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return self._begin(descriptor, path, path)

    def _begin(self, descriptor: int, path: Path, to: Path) -> WrittenSegment:
        """Write the header into the file that was opened, and then give it its name.

        In this order: with the header of the segment before it would be that one, and be shipped once more.
        """
        segment_id = secrets.token_bytes(16)
        try:
            self._write(descriptor, [encode_header(segment_id)], 0)
            path.rename(to)
            if self._durability == "fsync":
                sync_directory(self._directory)  # the name must outlive a power cut as well as the bytes
            return WrittenSegment(to, descriptor, segment_id, os.fstat(descriptor).st_size)
        except BaseException:
            os.close(descriptor)
            for name in (path, to):
                name.unlink(missing_ok=True)
            raise

    def _write(self, descriptor: int, pieces: Sequence[bytes], offset: int) -> None:
        synced = self._durability == "fsync"
        for first in range(0, len(pieces), _MAX_PIECES):
            part = pieces[first : first + _MAX_PIECES]
            offset = _write_whole(descriptor, part, offset, _SYNCED_WRITE if synced else 0)
        if synced and not _SYNCED_WRITE:
            os.fdatasync(descriptor)

    def _abandon_tail(self, segment: WrittenSegment) -> None:
        # A half-written record would hide every later one from the reader, so cut it off; and after a failed sync the
        # kernel may have dropped dirty pages, so never write to this file again.
        self._segment = None
        try:
            os.ftruncate(segment.descriptor, segment.length)
        finally:
            segment.hand_over()


def _write_whole(descriptor: int, pieces: Sequence[bytes], offset: int, flags: int) -> int:
    """Write pieces at an offset, and return where they end."""
    written = os.pwritev(descriptor, pieces, offset, flags)
    end = offset + sum(map(len, pieces))
    if offset + written == end:
        return end
    rest = memoryview(b"".join(pieces))[written:]  # a full disk, or a signal; rare enough for a copy
    while rest:
        taken = os.pwritev(descriptor, [rest], end - len(rest), flags)
        rest = rest[taken:]
    return end
