"""The shipper: closed segments of the spool become large inserts into ClickHouse, and are removed when they are in.

Removing comes after inserting, so a crash in between sends a segment again: the insert's id, and the tables
themselves, make that harmless. While ClickHouse is away the segments wait on the disk and the shipper comes back ever
more slowly. A segment that ClickHouse refuses for what it holds is put aside with its reason, alone, and never stops
the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from telemetry import metrics
from telemetry.columns import EventColumns, event_columns
from telemetry.erasure import without_erased
from telemetry.events import InvalidBatch
from telemetry.segment import Record, UnreadableSegment, decode_segment
from telemetry.spool_directory import (
    LOCK_NAME,
    OPEN_SUFFIX,
    SpoolLocked,
    held_lock,
    ready_segments,
    recover_open_segments,
)
from telemetry.warehouse import InsertRejected, Warehouse, WarehouseUnavailable

DEAD_LETTER: Final = "dead-letter"
_NO_WRITERS: Final = frozenset({DEAD_LETTER, "lost+found"})
"""Folders of a spool that are no writer's. The second is on every ext4 file system, and for root alone: a spool on a
volume of its own could not be shipped by anybody else."""
SHIPPER_LOCK: Final = ".shipper.lock"

DEFAULT_INTERVAL_SECONDS: Final = 0.5
"""Pause between two looks. With the segment's own half second it keeps an event's way below two seconds, and gives
ClickHouse at most two parts a second to merge."""
MAX_BATCH_BYTES: Final = 8 * 1024 * 1024
"""Segments merged into one insert: some 25,000 events, which take about 60 MB while they are decoded."""
MAX_BATCH_SEGMENTS: Final = 200
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 15.0
"""After an outage of any length the first insert comes within this time."""
STANDBY_SECONDS: Final = 1.0
"""How often a second shipper on the same spool looks whether the first is gone."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A segment in memory. ``damage``: why it must be put aside after its whole records went out, or None."""

    path: Path
    segment_id: bytes
    records: tuple[Record, ...] = field(repr=False)
    damage: str | None


def pause_seconds(failures: int, rng: random.Random) -> float:
    """Return how long to wait after that many failures in a row: doubled each time, bounded, half of it by chance."""
    longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 16))
    return longest / 2 + rng.random() * longest / 2


class Shipper:
    """Ships the segments of every writer below ``spool_root`` into ``warehouse``.

    One shipper works on a spool at a time; another one stands by until the first is gone.

    Args:
        spool_root: the folder that holds the writers' directories; made if it is missing.
        warehouse: where events go; migrated by the shipper, whenever it comes back.
        interval_seconds: pause between two looks at the spool.
        rng: for the jitter of the back-off.
    """

    def __init__(
        self,
        spool_root: Path,
        warehouse: Warehouse,
        *,
        interval_seconds: float = DEFAULT_INTERVAL_SECONDS,
        rng: random.Random | None = None,
    ) -> None:
        self._root = spool_root
        self._warehouse = warehouse
        self._interval = interval_seconds
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._migrated = False
        self._failures = 0

    @property
    def failing(self) -> bool:
        """Whether the last attempt to reach ClickHouse failed."""
        return self._failures > 0

    async def run(self) -> None:
        """Ship until cancelled.

        Raises:
            SchemaConflict: ClickHouse holds the tables of a newer version; shipping into them would be wrong.
        """
        while True:
            try:
                with self._sole_shipper():
                    await self._ship_forever()
            except SpoolLocked:
                await asyncio.sleep(STANDBY_SECONDS)

    async def drain(self, deadline: float) -> bool:
        """Ship all that waits, for an orderly stop; call it when ``run`` is no longer under way.

        Args:
            deadline: seconds it may take. What is left then stays on the disk for the next start.

        Returns:
            Whether the spool is empty now.
        """
        try:
            async with asyncio.timeout(deadline):
                while True:
                    try:
                        with self._sole_shipper():
                            while await self.ship_once():
                                pass
                            return True
                    except (WarehouseUnavailable, SpoolLocked, OSError) as error:
                        log.warning("drain_waits", reason=str(error))
                        await asyncio.sleep(FIRST_PAUSE_SECONDS)
        except TimeoutError:
            log.warning("drain_incomplete", segments=len(self._waiting()))
            return False

    async def ship_once(self) -> bool:
        """Ship one batch of segments; return whether there was any.

        Raises:
            WarehouseUnavailable: the segments stay where they are.
        """
        await asyncio.to_thread(self._adopt_dead_writers)
        paths = _first_batch(await asyncio.to_thread(self._waiting))
        if not paths:
            return False
        await self._migrate()
        segments = [segment for segment in await asyncio.to_thread(self._load, paths) if segment is not None]
        await self._ship(segments)
        return True

    async def _ship_forever(self) -> None:
        while True:
            try:
                await self.ship_once()
                self._failures = 0
                await asyncio.sleep(self._interval)
            except (WarehouseUnavailable, OSError) as error:
                self._failures += 1
                self._migrated = False  # what comes back may be a new, empty server
                metrics.SHIP_RETRIES.inc()
                pause = pause_seconds(self._failures, self._rng)
                log.warning("shipping_put_off", reason=str(error), failures=self._failures, pause_s=round(pause, 2))
                await asyncio.sleep(pause)

    async def _migrate(self) -> None:
        if not self._migrated:
            await self._warehouse.migrate()
            self._migrated = True

    async def _ship(self, segments: list[Loaded]) -> None:
        """Insert segments together; when they are refused, each alone, so that only the bad one is put aside."""
        if not segments:
            return
        try:
            count = await self._insert(segments)
        except (InsertRejected, InvalidBatch) as error:
            if len(segments) == 1:
                await asyncio.to_thread(self._bury, segments[0].path, str(error))
                return
            for segment in segments:
                await self._ship([segment])
            return
        await asyncio.to_thread(self._finish, segments)
        metrics.SHIPPED_EVENTS.inc(count)
        metrics.SHIPPED_SEGMENTS.inc(len(segments))

    async def _insert(self, segments: list[Loaded]) -> int:
        records = [record for segment in segments for record in segment.records]
        kept = without_erased(records, await self._warehouse.erased())
        columns: EventColumns = await asyncio.to_thread(event_columns, kept)
        await self._warehouse.insert_events(columns, insert_id([segment.segment_id for segment in segments]))
        return columns.count

    def _finish(self, segments: list[Loaded]) -> None:
        for segment in segments:
            if segment.damage is None:
                segment.path.unlink()
            else:
                self._bury(segment.path, segment.damage)

    def _load(self, paths: list[Path]) -> list[Loaded | None]:
        return [self._load_one(path) for path in paths]

    def _load_one(self, path: Path) -> Loaded | None:
        try:
            content = decode_segment(path.read_bytes())
        except UnreadableSegment as error:
            self._bury(path, str(error))
            return None
        return Loaded(path, content.segment_id, content.records, content.damage.reason if content.damage else None)

    def _bury(self, path: Path, reason: str) -> None:
        """Put a segment aside. The reason is written first: a segment without one would be a riddle."""
        grave = self._root / DEAD_LETTER
        grave.mkdir(mode=0o700, exist_ok=True)
        name = f"{path.parent.name}-{path.stem}"
        note = {"segment": path.name, "writer": path.parent.name, "reason": reason, "put_aside_at": int(time.time())}
        (grave / f"{name}.reason.json").write_text(json.dumps(note, indent=2) + "\n")
        path.rename(grave / f"{name}.segment")
        metrics.DEAD_SEGMENTS.inc()
        log.error("segment_put_aside", segment=name, reason=reason)

    def _writers(self) -> Iterator[Path]:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for entry in sorted(self._root.iterdir()):
            if entry.is_dir() and entry.name not in _NO_WRITERS and not entry.name.startswith("."):
                yield entry

    def _waiting(self) -> list[Path]:
        """Return the segments of all writers, oldest first (their names begin with the time)."""
        paths = [path for writer in self._writers() for path in ready_segments(writer)]
        paths.sort(key=lambda path: path.name)
        metrics.WAITING_SEGMENTS.set(len(paths))
        metrics.WAITING_AGE.set(max(0.0, time.time() - _opened_at(paths[0])) if paths else 0.0)
        return paths

    def _adopt_dead_writers(self) -> None:
        """Close the segments that writers left open when they died; a living writer holds its lock."""
        for writer in self._writers():
            if not any(path.suffix == OPEN_SUFFIX for path in writer.iterdir()):
                continue
            try:
                with held_lock(writer / LOCK_NAME):
                    recovered = recover_open_segments(writer)
            except SpoolLocked:
                continue
            if recovered:
                log.info("dead_writer_adopted", writer=writer.name, segments=recovered)

    def _sole_shipper(self) -> contextlib.AbstractContextManager[None]:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        return held_lock(self._root / SHIPPER_LOCK)


def insert_id(segment_ids: list[bytes]) -> str:
    """Return the name of an insert: the same segments give the same name, in this process or the next."""
    return hashlib.sha256(b"".join(sorted(segment_ids))).hexdigest()[:32]


def _opened_at(path: Path) -> float:
    nanoseconds, _, _ = path.name.partition("-")
    return int(nanoseconds) / 1e9 if nanoseconds.isdigit() else time.time()


def _first_batch(paths: list[Path]) -> list[Path]:
    """Take the oldest segments up to the bounds of one insert, and at least one."""
    batch: list[Path] = []
    size = 0
    for path in paths[:MAX_BATCH_SEGMENTS]:
        size += path.stat().st_size
        if batch and size > MAX_BATCH_BYTES:
            break
        batch.append(path)
    return batch
