"""Takes the shipper's place: gives an edge its segments back as if they had been shipped, unread.

An edge that ships keeps its segments and writes them over (`telemetry.spare_segments`), and one whose events go nowhere
fills the disk. What shipping costs is measured by ``make bench-telemetry``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from telemetry.spare_segments import give_back

LOOK_SECONDS = 0.05


@contextmanager
def shipped_at_once(folder: Path) -> Iterator[None]:
    """Give all segments of the spools below ``folder`` back within the block, soon after they are handed over."""
    ended = Event()

    def ship() -> None:
        while not ended.wait(LOOK_SECONDS):
            for path in folder.glob("*/spool/*/*.ready"):
                give_back(path)

    thread = Thread(target=ship, name="ship", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
