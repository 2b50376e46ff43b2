"""What waits in a spool, looked at from outside: true even while no shipper is at work, or one that hangs.

An operator is to learn of events that wait from whatever process can see the disk, so whoever shows metrics looks for
itself, each time that it is asked.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from telemetry import metrics
from telemetry.spool_directory import READY_SUFFIX, begun_at
from telemetry.writers import DEAD_LETTER, DEAD_SUFFIX


@dataclass(frozen=True, slots=True)
class SpoolState:
    """What one look found.

    Attributes:
        oldest_seconds: how long ago the oldest waiting segment was begun; 0 when none waits.
    """

    waiting_segments: int
    waiting_bytes: int
    oldest_seconds: float
    dead_segments: int
    dead_bytes: int


def look(spool_root: Path, now: float) -> SpoolState:
    """Look at the spool of all writers below ``spool_root``; a folder that is not there yet is an empty one.

    Args:
        now: seconds since 1970 (UTC). Segments are named for the moment at which they were begun.
    """
    waiting = _sizes(spool_root, READY_SUFFIX)
    dead = _sizes(spool_root, DEAD_SUFFIX)
    begun = [at for at in map(begun_at, waiting) if at is not None]
    return SpoolState(
        waiting_segments=len(waiting),
        waiting_bytes=sum(waiting.values()),
        oldest_seconds=max(0.0, now - min(begun)) if begun else 0.0,
        dead_segments=len(dead),
        dead_bytes=sum(dead.values()),
    )


def measure(spool_root: Path) -> None:
    """Look at the spool now, and set the metrics to what is there. It reads directories: call it in a thread."""
    state = look(spool_root, time.time())
    metrics.WAITING_SEGMENTS.set(state.waiting_segments)
    metrics.WAITING_BYTES.set(state.waiting_bytes)
    metrics.WAITING_AGE.set(state.oldest_seconds)
    metrics.DEAD_WAITING.set(state.dead_segments)
    metrics.DEAD_BYTES.set(state.dead_bytes)


def _sizes(spool_root: Path, suffix: str) -> dict[str, int]:
    """Return the bytes of the segments of one kind, by file name (which is never given twice)."""
    sizes: dict[str, int] = {}
    for path in spool_root.glob(f"*/*{suffix}"):
        if (path.parent.name == DEAD_LETTER) == (suffix == DEAD_SUFFIX):
            try:
                sizes[path.name] = path.stat().st_size
            except FileNotFoundError:  # shipped meanwhile
                continue
    return sizes
