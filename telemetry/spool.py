"""The spool: accepted batches on the local disk, before anything else happens to them.

A batch that is settled without an error is on the disk, so an answer 202 after it is a promise. Batches that come while
a commit is under way share the next one (group commit): one write for all of them, in a thread, so the event loop never
waits for the disk. Twice a second the segment is closed and handed to the shipper by a rename, and the next one takes
its place. A second thread does both, or a batch that comes then would wait some milliseconds.

The spool commits one group at a time, and `Spool._next` chooses when. The batches of a small commit are settled before
the next begins, and the loop goes round once, so that what came meanwhile goes with it: a commit has a price of its
own, that of some five batches. After a large one that does not matter, and the next begins at once, so the disk works
while they are answered.

What is full is full: over its bound in bytes, or on a full disk, the spool raises ``SpoolFull`` and keeps nothing of
the batch. The device keeps it and comes back.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from telemetry import metrics
from telemetry.disk_thread import DiskThread
from telemetry.segment import EventLabels, encode_lead
from telemetry.segment_writer import Durability, SegmentWriter
from telemetry.spare_segments import SPARE_SECONDS, remove_spares
from telemetry.spool_directory import (
    DISK_FULL,
    LOCK_NAME,
    READY_SUFFIX,
    SpoolLocked,
    lock_file,
    recover_open_segments,
    used_bytes,
)

__all__ = ["Durability", "EventLabels", "Settle", "Spool", "SpoolClosed", "SpoolFull", "SpoolLocked"]

DEFAULT_MAX_BYTES: Final = 1024**3
"""About 3 million events: half an hour without ClickHouse at 1,500 events a second from one worker."""
DEFAULT_ROLL_SECONDS: Final = 0.5
"""An event waits this long at most before the shipper may take it; two seconds are promised for the whole way."""
DEFAULT_SEGMENT_BYTES: Final = 8 * 1024 * 1024
"""Small enough to be read, decoded and inserted in one piece: some 25,000 events."""
MAX_PENDING_BYTES: Final = 16 * 1024 * 1024
"""Batches in memory that wait for a commit; more means that the disk does not keep up: ``SpoolFull``."""
LOCK_WAIT_SECONDS: Final = 5.0
"""A shipper that recovers this directory holds its lock for milliseconds; a living writer holds it for good."""
_LOCK_RETRY_SECONDS: Final = 0.02
LARGE_GROUP: Final = 96
"""Batches in a commit from which on the next one overlaps with their answers. Over 64 connections small groups that
overlap cost a tenth more of the processor's time; over 512, large ones that do not cost as much more."""
_RECOUNT_SECONDS: Final = 0.5
"""How often the directory is measured again: the shipper makes room without telling."""

log = structlog.get_logger(__name__)

Settle = Callable[[Exception | None], None]
"""Told what became of a batch: None when it is durable, else why it is not."""


class SpoolFull(Exception):
    """The spool or its disk is full; nothing of the batch was kept. Try again later."""


class SpoolClosed(Exception):
    """The spool was closed, or its disk fails; nothing of the batch is promised."""


@dataclass(slots=True)
class _Group:
    """Batches that are committed together."""

    pieces: list[bytes] = field(default_factory=list)
    settlers: list[Settle] = field(default_factory=list)
    size: int = 0


def _settle(group: _Group, error: Exception | None) -> None:
    for settle in group.settlers:
        try:
            settle(error)
        except Exception:  # one who cannot take the word must not keep it from the others
            log.exception("spool_settler_failed")


class Spool:
    """One writer's spool directory. Use as ``async with Spool(...) as spool``, or ``start`` and ``close``.

    Args:
        directory: the writer's own directory, ``<spool root>/<writer id>``.
        max_bytes: bound for all segments in it, waiting ones included.
        roll_seconds: age at which a segment is handed to the shipper.
        segment_bytes: size at which it is handed over earlier.
        durability: see ``Durability``.
    """

    def __init__(
        self,
        directory: Path,
        max_bytes: int = DEFAULT_MAX_BYTES,
        *,
        roll_seconds: float = DEFAULT_ROLL_SECONDS,
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
        durability: Durability = "fsync",
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._roll_seconds = roll_seconds
        self._segment_bytes = segment_bytes
        self._writer = SegmentWriter(directory, durability)
        self._disk = DiskThread("spool")
        self._beside = DiskThread("spool-segments")
        self._pending = _Group()
        self._open = False  # for batches
        self._busy = False  # a commit is under way, or about to be chosen
        self._prepared = False  # or tried to: once for each segment, or a full disk would be told of at each commit
        self._roll_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._ended: asyncio.Future[None] | None = None
        self._lock = -1
        self._waiting = 0  # bytes that are handed over and not shipped, as last measured
        self._committed = 0  # bytes, since the start
        self._handed_over = 0  # of these
        self._stuck = 0  # bytes of segments that could not be handed over, and are when the spool is closed
        self._reserved = 0
        self._counted_at = self._committed_at = 0.0

    async def start(self) -> None:
        """Take the directory, recover what an earlier writer left, and begin.

        Raises:
            SpoolLocked: another writer is at work in this directory.
        """
        self._loop = asyncio.get_running_loop()
        taken: asyncio.Future[int] = self._loop.create_future()
        try:
            self._disk.start(self._loop)
            self._beside.start(self._loop)
            self._disk.run(self._take_directory, taken.set_result, taken.set_exception)
            self._lock = await taken
        except BaseException:
            self._disk.stop()
            self._beside.stop()
            raise
        self._open = True
        # Looked up when it is asked for: a shipper makes room without telling, also when nothing more comes.
        metrics.SPOOL_BYTES.set_function(self._on_disk)

    async def append(self, labels: EventLabels, events: bytes, received_at: datetime) -> None:
        """Store one batch; return when it is durable.

        Args:
            labels: who sent it.
            events: the accepted events as a JSON array (``Batch.raw``).
            received_at: the server's time, with its zone.

        Raises:
            SpoolFull: over the bound, or the disk is full.
            SpoolClosed: closed, or the disk failed.
        """
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def settle(error: Exception | None) -> None:
            if stored.done():  # whoever waited is gone; the batch is kept all the same
                return
            if error is None:
                stored.set_result(None)
            else:
                stored.set_exception(error)

        self.submit(labels, events, int(received_at.timestamp() * 1000), settle)
        await stored

    def submit(self, labels: EventLabels, events: bytes, received_ms: int, settle: Settle) -> None:
        """Take one batch for the next commit, and return at once.

        Args:
            labels: who sent it.
            events: the accepted events as a JSON array (``Batch.raw``).
            received_ms: when the server took it, in milliseconds since 1970 (UTC).
            settle: called once, from the event loop, when the batch is durable, or with the error that kept it from
                becoming so.

        Raises:
            SpoolFull: over the bound; ``settle`` is not called.
            SpoolClosed: closed; ``settle`` is not called.
        """
        if not self._open:
            raise SpoolClosed("the spool is closed")
        lead = encode_lead(labels, received_ms, events)
        size = len(lead) + len(events)
        self._reserve(size)
        group = self._pending
        group.pieces += (lead, events)
        group.settlers.append(settle)
        group.size += size
        if not self._busy:
            self._choose_soon()

    async def close(self) -> None:
        """Commit what waits, hand the last segment over and give the directory back."""
        if self._open:
            self._open = False
            self._ended = self._loop.create_future()
            if not self._busy:
                self._choose_soon()
            await self._ended
        for timer in (self._roll_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        self._disk.stop()  # it has nothing left to do, unlike the other
        await asyncio.to_thread(self._beside.stop)
        if self._lock >= 0:
            try:
                await asyncio.to_thread(self._leave)
            except OSError as error:
                _tell_failed("spool_not_left_clean", error)
            finally:
                os.close(self._lock)
                self._lock = -1

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def used_bytes(self) -> int:
        """Bytes of what waits for the shipper, as last measured, and of what was accepted since."""
        return self._waiting + self._committed - self._handed_over + self._stuck + self._reserved

    def _take_directory(self) -> int:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        while True:
            try:
                lock = lock_file(self._directory / LOCK_NAME)
                break
            except SpoolLocked:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_LOCK_RETRY_SECONDS)
        remove_spares(self._directory)
        recovered = recover_open_segments(self._directory)
        if recovered:
            log.info("spool_recovered", segments=recovered, directory=self._directory.name)
        self._measure()
        return lock

    def _leave(self) -> None:
        self._tidy()
        recover_open_segments(self._directory)  # one that could not be handed over before

    def _tidy(self) -> None:
        """Remove what was shipped and would be written over."""
        self._writer.discard_next()
        remove_spares(self._directory)

    def _reserve(self, size: int) -> None:
        full = self.used_bytes + size > self._max_bytes
        if full and time.monotonic() - self._counted_at >= _RECOUNT_SECONDS:
            self._measure()
            full = self.used_bytes + size > self._max_bytes
        if full or self._reserved + size > MAX_PENDING_BYTES:
            metrics.SPOOL_FULL.inc()
            raise SpoolFull("the event spool is full")
        self._reserved += size

    def _on_disk(self) -> int:
        try:
            return used_bytes(self._directory)
        except OSError:  # whoever looks at metrics is to see the others all the same
            return self.used_bytes

    def _measure(self) -> None:
        self._measured(self._handed_over_bytes())

    def _handed_over_bytes(self) -> int:
        return used_bytes(self._directory, (READY_SUFFIX,))

    def _measured(self, waiting: int) -> None:
        self._waiting, self._counted_at = waiting, time.monotonic()

    # --- One commit at a time -------------------------------------------------------------------------------------

    def _choose_soon(self) -> None:
        """Choose what to do when the event loop has read what there is to read: it is one group then."""
        self._busy = True
        self._loop.call_soon(self._next)

    def _next(self) -> None:
        """Commit what waits, in a new segment when this one is due to be handed over; else wait."""
        if self._roll_is_due() or (not self._open and not self._pending.pieces):
            self._roll()
        self._busy = bool(self._pending.pieces)
        if self._busy:
            self._commit()
        else:
            self._wait()

    def _wait(self) -> None:
        segment = self._writer.segment
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        elif segment is not None and self._roll_timer is None:
            due = segment.opened_at + self._roll_seconds
            self._roll_timer = self._loop.call_later(max(0.0, due - time.monotonic()), self._roll_in_time)

    def _roll_in_time(self) -> None:
        self._roll_timer = None
        if not self._busy:
            self._next()

    def _commit(self) -> None:
        group, self._pending = self._pending, _Group()

        def done(_: None) -> None:
            self._reserved -= group.size
            self._committed += group.size
            self._committed_at = time.monotonic()
            metrics.SPOOL_COMMITS.inc()
            metrics.SPOOL_BATCHES.inc(len(group.settlers))
            self._prepare()
            if len(group.settlers) >= LARGE_GROUP:
                self._next()
                _settle(group, None)
            else:
                _settle(group, None)
                self._choose_soon()

        def failed(error: BaseException) -> None:
            self._reserved -= group.size
            _settle(group, _what_failed(error))
            self._choose_soon()

        self._disk.run(lambda: self._writer.commit(group.pieces, group.size), done, failed)

    def _roll_is_due(self) -> bool:
        segment = self._writer.segment
        if segment is None:
            return False
        if segment.length >= self._segment_bytes or not segment.has_room(self._pending.size):
            return True  # to find more room for a file takes as long as many commits
        return time.monotonic() - segment.opened_at >= self._roll_seconds

    # --- Segments, beside the commits -----------------------------------------------------------------------------

    def _roll(self) -> None:
        """Hand the segment over; the next commit is the first of another one."""
        self._prepared = False
        segment = self._writer.detach()
        if segment is None:
            return
        committed = self._committed

        def hand_over_and_measure() -> int:
            segment.hand_over()
            return self._handed_over_bytes()

        def done(waiting: int) -> None:
            self._handed_over = committed
            self._measured(waiting)

        def failed(error: BaseException) -> None:
            self._stuck += segment.length
            _tell_failed("spool_roll_failed", error)

        self._beside.run(hand_over_and_measure, done, failed)

    def _prepare(self) -> None:
        """Have the next segment made ready. When that fails, whoever needs one makes it, and is told why it cannot."""
        if not self._prepared and self._open:
            self._prepared = True
            failed = partial(_tell_failed, "spool_segment_not_prepared")
            self._beside.run(self._writer.prepare, lambda _: self._expect_idleness(), failed)

    def _expect_idleness(self) -> None:
        """Tidy up when nothing was committed for a while: what was made ready may hold what was shipped."""
        if self._idle_timer is None and self._open:
            due = self._committed_at + SPARE_SECONDS
            self._idle_timer = self._loop.call_later(max(0.0, due - time.monotonic()), self._tidy_when_idle)

    def _tidy_when_idle(self) -> None:
        self._idle_timer = None
        if time.monotonic() < self._committed_at + SPARE_SECONDS:
            self._expect_idleness()
        else:
            self._beside.run(self._tidy, lambda _: None, partial(_tell_failed, "spool_not_tidied"))


def _tell_failed(event: str, error: BaseException) -> None:
    log.error(event, reason=str(error))


def _what_failed(error: BaseException) -> Exception:
    """Return what those are told whose batches could not be committed."""
    if not isinstance(error, OSError):
        log.error("spool_failed", exc_info=error)
        return SpoolClosed("the spool failed")
    log.error("spool_write_failed", errno=error.errno, reason=error.strerror)
    metrics.SPOOL_FAILURES.inc()
    return SpoolFull("the disk is full") if error.errno in DISK_FULL else SpoolClosed("the disk failed")
