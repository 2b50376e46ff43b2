"""The dead-letter folder: segments that could not be read, or that ClickHouse refused, each beside its reason.

They stay until somebody removes them, or has them shipped once more, after ClickHouse or this program was put right.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Final

import msgspec
import structlog

from telemetry import metrics
from telemetry.spool_directory import READY_SUFFIX
from telemetry.writers import DEAD_LETTER, DEAD_SUFFIX

_REASON: Final = ".reason.json"
_PLAIN_NAME: Final = re.compile(r"^[^/.][^/]*\Z")

log = structlog.get_logger(__name__)


class NoSuchDeadSegment(Exception):
    """There is no segment of that name in the dead-letter folder."""


class DeadSegment(msgspec.Struct, frozen=True):
    """A segment that was put aside.

    Attributes:
        name: within the folder, without suffix.
        writer: whose it was.
        segment: its name there.
        reason: why it was put aside.
        put_aside_at: seconds since 1970 (UTC).
        bytes: its size.
    """

    name: str
    writer: str
    segment: str
    reason: str
    put_aside_at: int
    bytes: int


class _Note(msgspec.Struct, frozen=True):
    segment: str
    writer: str
    reason: str
    put_aside_at: int


def bury(root: Path, path: Path, segment: str, reason: str) -> None:
    """Put a segment aside. The reason is written first: a segment without one would be a riddle.

    Args:
        root: of the spool.
        path: where the segment lies now.
        segment: its name in its writer's directory, when nobody has taken it.
        reason: one sentence.
    """
    grave = root / DEAD_LETTER
    grave.mkdir(mode=0o700, exist_ok=True)
    name = f"{path.parent.name}-{segment.removesuffix(READY_SUFFIX)}"
    note = _Note(segment, path.parent.name, reason, int(time.time()))
    (grave / f"{name}{_REASON}").write_bytes(msgspec.json.format(msgspec.json.encode(note)) + b"\n")
    path.rename(grave / f"{name}{DEAD_SUFFIX}")
    metrics.DEAD_SEGMENTS.inc()
    log.error("segment_put_aside", segment=name, reason=reason)


def dead_segments(root: Path) -> list[DeadSegment]:
    """Return what lies in the dead-letter folder, the oldest first."""
    found = [_read(path) for path in sorted((root / DEAD_LETTER).glob(f"*{DEAD_SUFFIX}"))]
    return sorted(found, key=lambda dead: dead.put_aside_at)


def redrive(root: Path, name: str) -> DeadSegment:
    """Hand a segment over to the shipper once more. What of it is in already does not count twice.

    Raises:
        NoSuchDeadSegment: by that name.
    """
    path = root / DEAD_LETTER / f"{name}{DEAD_SUFFIX}"
    if not _PLAIN_NAME.match(name) or not path.is_file():
        raise NoSuchDeadSegment(f"there is no segment {name} in {root / DEAD_LETTER}")
    dead = _read(path)
    writer = root / dead.writer
    writer.mkdir(mode=0o700, exist_ok=True)
    path.rename(writer / dead.segment)
    _note_of(path).unlink(missing_ok=True)
    log.info("segment_redriven", segment=name)
    return dead


def _read(path: Path) -> DeadSegment:
    status = path.stat()
    name = path.name.removesuffix(DEAD_SUFFIX)
    try:
        note = msgspec.json.decode(_note_of(path).read_bytes(), type=_Note)
        if not (_PLAIN_NAME.match(note.writer) and _PLAIN_NAME.match(note.segment)):
            raise ValueError
    except (OSError, ValueError, msgspec.DecodeError):  # somebody put it there by hand
        note = _Note(f"{name}{READY_SUFFIX}", "redriven", "unknown", int(status.st_mtime))
    return DeadSegment(name, note.writer, note.segment, note.reason, note.put_aside_at, status.st_size)


def _note_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(DEAD_SUFFIX) + _REASON)
