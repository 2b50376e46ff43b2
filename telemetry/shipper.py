"""The shipper: closed segments of the spool become large inserts into ClickHouse, and are removed when they are in.

Removing, or giving back to the writer, comes after inserting, so a crash in between sends a batch of segments again:
under the same id, which with the tables themselves makes that harmless. While one batch is inserted the next one is
read. While ClickHouse is away the segments wait on the disk and the shipper comes back ever more slowly. A segment that
ClickHouse refuses for what it holds is put aside with its reason, alone, and never stops the others. Several shippers
share a spool by claims.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from telemetry import metrics
from telemetry.cardinality import Dimensions
from telemetry.claims import BEAT_SECONDS, Claim, ClaimLost, Claims, batch_of, free_path
from telemetry.columns import EventColumns, event_columns
from telemetry.dead_letter import bury
from telemetry.erasure import Erased, without_erased
from telemetry.events import InvalidBatch
from telemetry.segment import Record, UnreadableSegment, decode_segment
from telemetry.spare_segments import SPARE_SECONDS, give_back, remove_spares
from telemetry.spool_directory import (
    LOCK_NAME,
    SpoolLocked,
    held_lock,
    left_open,
    ready_segments,
    recover_open_segments,
)
from telemetry.warehouse import InsertRejected, Warehouse, WarehouseUnavailable
from telemetry.writers import writers

DEFAULT_INTERVAL_SECONDS: Final = 0.5
"""Pause between two looks when nothing more waits. With the segment's own half second it keeps an event's way below two
seconds, and gives ClickHouse at most two small parts a second to merge."""
MAX_BATCH_BYTES: Final = 32 * 1024 * 1024
"""Segments merged into one insert: some 100,000 events. Fewer cost ClickHouse more each (a third more at 25,000), as
the tables behind have rows of their own for each insert; more gain little. Their columns take about 25 MB, and two
batches are in memory: the one that is inserted, and the next."""
MAX_BATCH_SEGMENTS: Final = 200
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 15.0
"""After an outage of any length the first insert comes within this time."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A segment that was read. ``damage``: why it must be put aside after its whole records went out, or None."""

    path: Path
    segment_id: bytes
    damage: str | None


@dataclass(frozen=True, slots=True)
class Batch:
    """Segments that are inserted together.

    Attributes:
        claim: by which they are this shipper's.
        segments: those that could be read.
        columns: their events, or None when some of them cannot be decoded.
        more_wait: whether there was more than a batch may have.
    """

    claim: Claim
    segments: tuple[Loaded, ...]
    columns: EventColumns | None = field(repr=False)
    more_wait: bool


def pause_seconds(failures: int, rng: random.Random) -> float:
    """Return how long to wait after that many failures in a row: doubled each time, bounded, half of it by chance."""
    longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 16))
    return longest / 2 + rng.random() * longest / 2


class Shipper:
    """Ships the segments of every writer below ``spool_root`` into ``warehouse``.

    Several of them, in processes and hosts of their own, may work on one spool: each segment is one shipper's.

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
        self._dimensions = Dimensions()
        self._claims = Claims(spool_root)
        self._claimed: deque[Claim] = deque()
        self._batch: Batch | None = None
        self._reading: asyncio.Task[Batch | None] | None = None
        self._more_wait = False
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
        async with self._at_work():
            while True:
                try:
                    await self.ship_once()
                    self._failures = 0
                    if not self._more_wait:
                        await asyncio.sleep(self._interval)
                except (WarehouseUnavailable, OSError) as error:
                    await self._put_off(error)
                except ClaimLost as error:
                    log.warning("batch_lost", reason=str(error))
                    await self._leave_batches()

    async def drain(self, deadline: float) -> bool:
        """Ship all that waits, for an orderly stop; call it when ``run`` is no longer under way.

        Args:
            deadline: seconds it may take. What is left then stays on the disk for the next start.

        Returns:
            Whether nothing waits now, except for what other shippers have taken.
        """
        try:
            async with asyncio.timeout(deadline), self._at_work():
                while True:
                    try:
                        while await self.ship_once():
                            pass
                        return True
                    except (WarehouseUnavailable, OSError) as error:
                        log.warning("drain_waits", reason=str(error))
                        await asyncio.sleep(FIRST_PAUSE_SECONDS)
                    except ClaimLost as error:
                        log.warning("batch_lost", reason=str(error))
                        await self._leave_batches()
        except TimeoutError:
            log.warning("drain_incomplete", segments=len(self._waiting()))
            return False

    async def ship_once(self) -> bool:
        """Ship one batch of segments; return whether there was any.

        Raises:
            WarehouseUnavailable: the batch is kept, and comes first the next time.
            ClaimLost: another shipper has the batch.
        """
        if self._batch is None:
            self._batch = await self._next_batch()
        self._more_wait = self._batch is not None and self._batch.more_wait
        if self._batch is None:
            return False
        if self._more_wait and self._reading is None:
            self._read()
        await self._ship(self._batch)
        self._batch = None
        return True

    async def _next_batch(self) -> Batch | None:
        if self._reading is None:
            self._read()
        reading = self._reading
        assert reading is not None
        try:
            return await asyncio.shield(reading)
        finally:
            if reading.done():
                self._reading = None

    def _read(self) -> None:
        """Begin to read the next batch, in a thread."""
        self._reading = asyncio.create_task(asyncio.to_thread(self._take_and_read), name="read a batch")

    @contextlib.asynccontextmanager
    async def _at_work(self) -> AsyncIterator[None]:
        """Give signs of life, and leave what is not finished to the next shipper."""
        beating = asyncio.create_task(self._beat(), name="signs of life")
        try:
            yield
        finally:
            beating.cancel()
            await self._leave_batches()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                await asyncio.to_thread(self._claims.beat)
            except (ClaimLost, OSError) as error:
                log.warning("no_sign_of_life", reason=str(error))

    async def _leave_batches(self) -> None:
        """Let go of what is in memory, and of all claims: who comes next, this shipper or another, takes them over."""
        if self._reading is not None:
            await asyncio.wait([self._reading])  # or it would take more
            self._reading.exception()
        self._batch = self._reading = None
        self._claimed.clear()
        self._claims.sign_off()

    async def _put_off(self, error: Exception) -> None:
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

    async def _ship(self, batch: Batch) -> None:
        """Insert a batch; when it is refused, each segment alone, so that only the bad one is put aside."""
        if not batch.claim.done:
            await self._migrate()
            await asyncio.to_thread(self._claims.check, batch.claim)
            try:
                await self._insert(batch)
            except (InsertRejected, InvalidBatch):
                await self._ship_each(batch)
        await asyncio.to_thread(self._finish, batch)

    async def _insert(self, batch: Batch) -> None:
        if batch.columns is None:
            raise InvalidBatch("some events cannot be decoded")
        erased = await self._warehouse.erased()
        columns = await asyncio.to_thread(self._to_store, batch.columns, erased)
        await self._warehouse.insert_events(columns, insert_id([one.segment_id for one in batch.segments]))
        if columns.count:
            metrics.SHIP_LAG.observe(max(0.0, time.time() - columns.first_arrival()))
        metrics.SHIPPED_EVENTS.inc(columns.count)
        metrics.SHIPPED_SEGMENTS.inc(len(batch.segments))

    def _to_store(self, columns: EventColumns, erased: Erased) -> EventColumns:
        return self._dimensions.bounded(without_erased(columns, erased))

    async def _ship_each(self, batch: Batch) -> None:
        for segment in batch.segments:
            try:
                alone = await asyncio.to_thread(_read_batch, Claim(batch.claim.batch, (segment.path,)), self._bury)
                await self._insert(alone)
            except (InsertRejected, InvalidBatch) as error:
                await asyncio.to_thread(self._bury, segment.path, str(error))

    # --- On the disk, in threads --------------------------------------------------------------------------------------

    def _take_and_read(self) -> Batch | None:
        """Take the next segments, those of shippers that died first, and read them."""
        self._adopt_dead_writers()
        self._claimed.extend(self._claims.inherit())
        free = [path for path in self._waiting() if not batch_of(path)]
        if not self._claimed:
            paths = _first_batch(free)
            if not paths:
                return None
            self._claimed.append(self._claims.take(paths))
            free = free[len(paths) :]
        # It leaves the list when it was read: what the disk does not give now has to be read later.
        claim = self._claimed[0]
        batch = _read_batch(claim, self._bury, more_wait=bool(claim.batch and (free or len(self._claimed) > 1)))
        self._claimed.popleft()
        return batch

    def _finish(self, batch: Batch) -> None:
        self._claims.finish(batch.claim)
        for segment in batch.segments:
            if segment.damage is None:
                give_back(segment.path)
            elif segment.path.exists():
                self._bury(segment.path, segment.damage)
        self._claims.forget(batch.claim)

    def _bury(self, path: Path, reason: str) -> None:
        bury(self._root, path, free_path(path).name, reason)

    def _waiting(self) -> list[Path]:
        """Return the segments of all writers, oldest first (their names begin with the time)."""
        paths = [path for writer in writers(self._root) for path in ready_segments(writer)]
        return sorted(paths, key=lambda path: path.name)

    def _adopt_dead_writers(self) -> None:
        """Close the segments that writers left open when they died; a living writer holds its lock."""
        for writer in writers(self._root):
            remove_spares(writer, SPARE_SECONDS)
            if not left_open(writer):
                continue
            try:
                with held_lock(writer / LOCK_NAME):
                    recovered = recover_open_segments(writer)
            except SpoolLocked:
                continue
            if recovered:
                log.info("dead_writer_adopted", writer=writer.name, segments=recovered)


def insert_id(segment_ids: list[bytes]) -> str:
    """Return the name of an insert: the same segments give the same name, in this process or the next."""
    return hashlib.sha256(b"".join(sorted(segment_ids))).hexdigest()[:32]


def _read_batch(claim: Claim, bury: Callable[[Path, str], None], *, more_wait: bool = False) -> Batch:
    """Read the segments of a batch, one after the other, so that one is in memory at a time; bury what is none."""
    segments: list[Loaded] = []

    def records() -> Iterator[Record]:
        for path in claim.paths:
            try:
                content = decode_segment(path.read_bytes())
            except FileNotFoundError:  # removed by the shipper that had the batch before
                continue
            except UnreadableSegment as error:
                bury(path, str(error))
                continue
            segments.append(Loaded(path, content.segment_id, content.damage.reason if content.damage else None))
            yield from content.records

    reading = records()
    try:
        columns = event_columns(reading)
    except InvalidBatch:
        columns = None
        deque(reading, maxlen=0)  # whose they are is found out one by one; all have to be known
    return Batch(claim, tuple(segments), columns, more_wait)


def _first_batch(paths: list[Path]) -> list[Path]:
    """Take the oldest segments up to the bounds of one insert, and at least one."""
    batch: list[Path] = []
    size = 0
    for path in paths[:MAX_BATCH_SEGMENTS]:
        with contextlib.suppress(FileNotFoundError):  # another shipper was quicker
            size += path.stat().st_size
            if batch and size > MAX_BATCH_BYTES:
                break
            batch.append(path)
    return batch
