"""A writer's spool directory: who may write, which segments there are, and what a dead writer left behind.

``<spool root>/<writer id>/`` holds ``lock`` (held by the writer while it lives), the ``*.open`` segment, with those
that are about to be handed over, at most one ``*.next``, which becomes it, the ``*.ready`` segments that wait for the
shipper, and ``*.spare`` files (`telemetry.spare_segments`). Renaming ``.open`` to ``.ready`` is what hands a segment
over.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from telemetry.segment import HEADER, UnreadableSegment, decode_segment

OPEN_SUFFIX: Final = ".open"
NEXT_SUFFIX: Final = ".next"
"""A segment that was made before it is needed. The name that it has later may be lost with the power, so to whoever
recovers it is an open one."""
READY_SUFFIX: Final = ".ready"
LOCK_NAME: Final = "lock"
DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers that say that there is no room."""


class SpoolLocked(Exception):
    """Another process holds the lock that was asked for."""


def lock_file(path: Path) -> int:
    """Take the exclusive lock of the file ``path`` and return its descriptor; closing it gives the lock back.

    The kernel drops the lock when the process dies, however it dies.

    Raises:
        SpoolLocked: somebody else holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SpoolLocked(f"{path} is held by another process") from None
    return descriptor


@contextmanager
def held_lock(path: Path) -> Iterator[None]:
    """Hold the lock of ``path`` for the block.

    Raises:
        SpoolLocked: somebody else holds it.
    """
    descriptor = lock_file(path)
    try:
        yield
    finally:
        os.close(descriptor)


def new_segment_name(suffix: str = OPEN_SUFFIX) -> str:
    """Return a name for a segment that begins now: sorts by time, and is never given twice."""
    return f"{time.time_ns():020d}-{secrets.token_hex(4)}{suffix}"


def begun_at(name: str) -> float | None:
    """Return when a segment of this name was begun, in seconds since 1970 (UTC); None when the name does not tell."""
    nanoseconds, _, _ = name.partition("-")
    return int(nanoseconds) / 1e9 if nanoseconds.isdigit() else None


def sync_directory(directory: Path) -> None:
    """Make creations, renames and removals in ``directory`` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def used_bytes(directory: Path, suffixes: tuple[str, ...] = (OPEN_SUFFIX, READY_SUFFIX)) -> int:
    """Return the bytes of the segments in ``directory`` that wait or are open, or of those of other kinds.

    Of an open one that is written over an older segment all bytes of the file count.
    """
    total = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith(suffixes):
                try:
                    total += entry.stat().st_size
                except FileNotFoundError:  # the shipper removed it meanwhile
                    continue
    return total


def ready_segments(directory: Path) -> list[Path]:
    """Return the segments that wait for the shipper, oldest first."""
    ready = (path for path in directory.iterdir() if path.name.endswith(READY_SUFFIX))
    return sorted(ready, key=lambda path: path.name)


def close_segment(path: Path) -> None:
    """Hand the open segment ``path`` over to the shipper."""
    path.rename(path.with_suffix(READY_SUFFIX))


def left_open(directory: Path) -> list[Path]:
    """Return the segments that a writer has open, or had when it died; oldest first."""
    return sorted(path for path in directory.iterdir() if path.suffix in (OPEN_SUFFIX, NEXT_SUFFIX))


def recover_open_segments(directory: Path) -> int:
    """Close what a dead writer left open, without its torn tail; return how many segments that gave.

    The caller holds the writer's lock. A segment that cannot be read is handed over as it is: the shipper puts it aside
    with a reason, and nothing is thrown away here.
    """
    recovered = 0
    for path in left_open(directory):
        recovered += _recover(path)
    if recovered:
        sync_directory(directory)
    return recovered


def _recover(path: Path) -> int:
    data = path.read_bytes()
    try:
        content = decode_segment(data)
    except UnreadableSegment:
        if len(data) == 0 or not any(data):  # created, and never written to
            path.unlink()
            return 0
        close_segment(path)
        return 1
    torn = content.damage is not None and content.damage.torn
    if content.length == HEADER.size and (torn or content.damage is None):
        path.unlink()  # a header, and at most one group that nobody was told about
        return 0
    if torn:
        _truncate(path, content.length)
    close_segment(path)
    return 1


def _truncate(path: Path, length: int) -> None:
    with path.open("r+b") as file:
        file.truncate(length)
        os.fsync(file.fileno())
