"""Segments that were shipped and wait to be written over: half the work of a commit is finding room on the disk.

Blocks that a file has already take neither an allocation nor an entry in the file system's journal, only the bytes. So
a shipper gives a large segment back to the writer that it came from, by a rename to ``*.spare``, and the writer begins
its next segment there. Small ones are removed: a writer that fills less in half a second is in no hurry, and what
devices told is to be gone when it was shipped. For the same reason none waits for long.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from telemetry.spool_directory import LOCK_NAME, SpoolLocked, held_lock

SPARE_SUFFIX: Final = ".spare"
MIN_SPARE_BYTES: Final = 4 * 1024 * 1024
"""Half of a full segment: a thousand batches a second reach it."""
MAX_SPARE_BYTES: Final = 16 * 1024 * 1024
"""Twice a full segment: a group that was larger than the others is not kept for ever."""
MAX_SPARES: Final = 8
"""Of one writer: twice what a shipper inserts at once, so that a writer at full speed finds one each time. They are
some 64 MiB of disk beside the spool's own bound."""
SPARE_SECONDS: Final = 10.0
"""At full speed one is used within a second."""


def spares(directory: Path) -> list[Path]:
    """Return the spare segments of a writer's directory."""
    return [path for path in directory.iterdir() if path.suffix == SPARE_SUFFIX]


def give_back(path: Path) -> None:
    """Leave a shipped segment to its writer, or remove it: it is small, there are enough, or the writer is gone."""
    directory = path.parent
    try:
        is_worth = MIN_SPARE_BYTES <= path.stat().st_size <= MAX_SPARE_BYTES
        if is_worth and len(spares(directory)) < MAX_SPARES and _has_writer(directory):
            os.utime(path)
            path.rename(path.with_suffix(SPARE_SUFFIX))
        else:
            path.unlink()
    except FileNotFoundError:  # removed by the shipper that had the batch before
        return


def remove_spares(directory: Path, older_seconds: float = 0.0) -> None:
    """Remove a writer's spare segments that have waited for so long; ``0``: all."""
    for path in spares(directory):
        try:
            if time.time() - path.stat().st_mtime >= older_seconds:
                path.unlink()
        except FileNotFoundError:  # in use again
            continue


def _has_writer(directory: Path) -> bool:
    try:
        with held_lock(directory / LOCK_NAME):
            return False
    except SpoolLocked:
        return True
