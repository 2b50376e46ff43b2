"""Blobs on the local disk under a bound in bytes: what is there, room for the next, and what goes when room is short.

A blob lies in ``blobs/<first two hex>/<sha256>`` only when it is whole: it is written below ``incoming/``, made
durable and then renamed. So a name tells the content, and what a killed process left behind is in ``incoming/`` and is
removed at the next start. Blobs leave by least recent use. A file that is open while it is evicted stays readable
until it is closed, as POSIX has it, so a download never breaks; its bytes are given back at that moment.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SHA256 = re.compile(r"[0-9a-f]{64}")

# Use is written to the file's times, so that it outlives a restart, but not more often than this.
TOUCH_SECONDS = 60.0


class NoRoom(Exception):
    """The bound leaves no room for a blob.

    Args:
        length: what was asked for, in bytes.
        for_ever: the blob is larger than the whole bound, so waiting does not help.
    """

    def __init__(self, length: int, *, for_ever: bool) -> None:
        super().__init__(f"no room for {length} bytes")
        self.length = length
        self.for_ever = for_ever


class OpenBlob:
    """A blob, open for reading at any place that is `ready`; close it when done.

    Args:
        descriptor: an open file descriptor, owned by this object.
        length: of the blob, in bytes.
    """

    __slots__ = ("_descriptor", "length")

    def __init__(self, descriptor: int, length: int) -> None:
        self._descriptor = descriptor
        self.length = length

    def fileno(self) -> int:
        """Return the file descriptor, for reads that name their place."""
        return self._descriptor

    async def ready(self, first: int, end: int) -> int:  # noqa: ARG002 - a whole blob is ready from anywhere
        """Return up to where an answer may be sent now, waiting until it is further than ``first``.

        Args:
            first: place of the next byte to send.
            end: one behind the last byte of the answer. With ``first`` the same, it waits until the blob is verified.

        Raises:
            EdgeError: the bytes will not come, or not in time.
        """
        return end

    def read(self, offset: int, count: int) -> bytes:
        """Return up to ``count`` bytes from ``offset``; blocks on the disk."""
        return os.pread(self._descriptor, count, offset)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)

    def __enter__(self) -> OpenBlob:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(slots=True)
class _Entry:
    length: int
    touched: float
    verified: float = -math.inf  # when its bytes were last hashed, by the wall clock


class BlobDirectory:
    """The directory of one worker; no other process writes to it.

    Args:
        directory: made when absent.
        max_bytes: bound of whole blobs and of those being written together.
        on_evict: told the length of each blob that had to go.
        now: wall clock in seconds, compared with file times.
    """

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        on_evict: Callable[[int], None] = lambda _: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._blobs = directory / "blobs"
        self._incoming = directory / "incoming"
        self._max_bytes = max_bytes
        self._on_evict = on_evict
        self._now = now
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # least recently used first
        self._stored = 0
        self._reserved = 0

    @property
    def stored_bytes(self) -> int:
        """Bytes of whole blobs."""
        return self._stored

    @property
    def reserved_bytes(self) -> int:
        """Bytes kept free for blobs that are being written."""
        return self._reserved

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._entries

    def recover(self) -> None:
        """Learn what earlier processes left: whole blobs are kept, torn ones removed, and the bound holds again."""
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._incoming.mkdir(parents=True, mode=0o700)
        self._blobs.mkdir(exist_ok=True, mode=0o700)
        self._entries.clear()
        self._stored = 0
        for touched, path, length in sorted(self._found()):
            self._entries[path.name] = _Entry(length, touched)
            self._stored += length
        self._evict_until(self._max_bytes)

    def _found(self) -> Iterator[tuple[float, Path, int]]:
        for path in self._blobs.glob("*/*"):
            if not _SHA256.fullmatch(path.name) or path.is_symlink() or not path.is_file():
                continue
            facts = path.stat()
            yield facts.st_mtime, path, facts.st_size

    def _path(self, sha256: str) -> Path:
        return self._blobs / sha256[:2] / sha256

    def length(self, sha256: str) -> int | None:
        """Return the length of a blob that is here, in bytes, or None."""
        entry = self._entries.get(sha256)
        return entry.length if entry else None

    def open(self, sha256: str) -> OpenBlob | None:
        """Return the blob open for reading, or None when it is not here.

        A file that somebody removed, or that has another length than it was stored with, counts as absent: it will be
        fetched again.
        """
        entry = self._entries.get(sha256)
        if entry is None:
            return None
        descriptor = self._descriptor_of(sha256)
        if descriptor is None:
            return None
        if os.fstat(descriptor).st_size != entry.length:
            os.close(descriptor)
            self.remove(sha256)
            return None
        self._use(sha256, entry, descriptor)
        return OpenBlob(descriptor, entry.length)

    def open_unused(self, sha256: str) -> OpenBlob | None:
        """Return the blob open for reading without counting that as use, or None when it is not here."""
        entry = self._entries.get(sha256)
        descriptor = self._descriptor_of(sha256) if entry else None
        return OpenBlob(descriptor, entry.length) if entry and descriptor is not None else None

    def _descriptor_of(self, sha256: str) -> int | None:
        try:
            return os.open(f"{self._blobs}/{sha256[:2]}/{sha256}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            self._forget(sha256)
            return None

    def longest_unverified(self, seconds: float) -> str | None:
        """Return the blob whose bytes were hashed longest ago, never at best, when that is so many seconds or more."""
        ages = ((entry.verified, sha256) for sha256, entry in self._entries.items())
        verified, sha256 = min(ages, default=(math.inf, ""))
        return sha256 if verified <= self._now() - seconds else None

    def note_verified(self, sha256: str) -> None:
        """Note that the bytes of a blob were hashed now, and are right."""
        entry = self._entries.get(sha256)
        if entry is not None:
            entry.verified = self._now()

    def _use(self, sha256: str, entry: _Entry, descriptor: int) -> None:
        self._entries.move_to_end(sha256)
        now = self._now()
        if now - entry.touched >= TOUCH_SECONDS:
            entry.touched = now
            os.utime(descriptor, (now, now))

    @contextmanager
    def room(self, sha256: str, length: int) -> Iterator[Path]:
        """Keep room for a blob and give the path to write it to; the caller then calls `admit`.

        Whatever lies at that path is removed at the end: it is no blob until it is admitted.

        Args:
            sha256: hash of the blob.
            length: of the blob, in bytes.

        Raises:
            NoRoom: the bound does not leave so much, even when everything that is here goes.
        """
        if length > self._max_bytes:
            raise NoRoom(length, for_ever=True)
        if self._reserved + length > self._max_bytes:
            raise NoRoom(length, for_ever=False)
        self._evict_until(self._max_bytes - self._reserved - length)
        self._reserved += length
        path = self._incoming / sha256
        try:
            yield path
        finally:
            self._reserved -= length
            path.unlink(missing_ok=True)

    def admit(self, sha256: str, path: Path, length: int) -> None:
        """Take the whole, verified, durable file at ``path`` in as the blob ``sha256``.

        Must be called within `room`, whose path and length it is given.
        """
        target = self._path(sha256)
        target.parent.mkdir(exist_ok=True, mode=0o700)
        path.rename(target)
        self._forget(sha256)
        self._entries[sha256] = _Entry(length, self._now(), self._now())
        self._stored += length

    def _evict_until(self, bound: int) -> None:
        while self._stored > bound:
            sha256, entry = next(iter(self._entries.items()))
            self.remove(sha256)
            self._on_evict(entry.length)

    def remove(self, sha256: str) -> None:
        """Remove a blob; who has it open may read on."""
        self._path(sha256).unlink(missing_ok=True)
        self._forget(sha256)

    def _forget(self, sha256: str) -> None:
        entry = self._entries.pop(sha256, None)
        if entry is not None:
            self._stored -= entry.length
