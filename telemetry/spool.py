"""The spool: accepted batches on the local disk, before anything else happens to them.

``append`` returns when the batch is on the disk, so an answer 202 after it is a promise. Appenders that arrive while a
commit is under way share the next one (group commit): one write and one ``fdatasync`` for all of them, in a thread, so
the event loop never waits for the disk. Twice a second the segment is closed and handed to the shipper by a rename.

What is full is full: over its bound in bytes, or on a full disk, the spool raises ``SpoolFull`` and keeps nothing of
the batch. The device keeps it and comes back.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, ParamSpec, Self, TypeVar

import structlog

from telemetry import metrics
from telemetry.segment import HEADER, EventLabels, Record, encode_header, encode_record
from telemetry.spool_directory import (
    LOCK_NAME,
    SpoolLocked,
    close_segment,
    lock_file,
    new_segment_name,
    recover_open_segments,
    sync_directory,
    used_bytes,
)

__all__ = ["Durability", "EventLabels", "Settle", "Spool", "SpoolClosed", "SpoolFull", "SpoolLocked"]

Durability = Literal["fsync", "os"]
"""``fsync``: on the disk before the answer. ``os``: with the operating system, lost by a power cut, not by a kill."""

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
_RECOUNT_SECONDS: Final = 0.5
"""How often the directory is measured again: the shipper makes room without telling."""
_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

log = structlog.get_logger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


Settle = Callable[[Exception | None], None]
"""Told what became of a batch: None when it is durable, else why it is not."""


class SpoolFull(Exception):
    """The spool or its disk is full; nothing of the batch was kept. Try again later."""


class SpoolClosed(Exception):
    """The spool was closed, or its disk fails; nothing of the batch is promised."""


@dataclass(slots=True)
class _Pending:
    frames: list[bytes] = field(default_factory=list)
    settlers: list[Settle] = field(default_factory=list)
    size: int = 0


def _settle(batch: _Pending, error: Exception | None) -> None:
    for settle in batch.settlers:
        try:
            settle(error)
        except Exception:  # one who cannot take the word must not keep it from the others
            log.exception("spool_settler_failed")


class _SegmentWriter:
    """The one open segment. Every method blocks on the disk and runs in the spool's own thread."""

    def __init__(self, directory: Path, durability: Durability) -> None:
        self._directory = directory
        self._durability = durability
        self._path: Path | None = None
        self._descriptor = -1
        self.length = 0
        self.opened_at = 0.0

    @property
    def is_open(self) -> bool:
        return self._path is not None

    def commit(self, frames: list[bytes]) -> None:
        """Write the frames and sync them; on failure nothing of them stays in the segment."""
        if self._path is None:
            self._open()
        data = b"".join(frames)
        try:
            self._write(data)
            if self._durability == "fsync":
                os.fdatasync(self._descriptor)
        except OSError:
            self._abandon_tail()
            raise
        self.length += len(data)

    def roll(self) -> None:
        """Close the segment and hand it over; one without a record is removed, or a full disk would fill with them."""
        if self._path is None:
            return
        path, self._path = self._path, None
        os.close(self._descriptor)
        if self.length > HEADER.size:
            close_segment(path)
        else:
            path.unlink()

    def _open(self) -> None:
        path = self._directory / new_segment_name()
        header = encode_header(secrets.token_bytes(16))
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._path, self._descriptor = path, descriptor
        self.length, self.opened_at = 0, time.monotonic()
        try:
            self._write(header)
            self.length = len(header)
            if self._durability == "fsync":
                sync_directory(self._directory)  # the name must outlive a power cut as well as the bytes
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            self._path = None
            raise

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def _abandon_tail(self) -> None:
        # A half-written record would hide every later one from the reader, so cut it off; and after a failed sync the
        # kernel may have dropped dirty pages, so never write to this file again.
        try:
            os.ftruncate(self._descriptor, self.length)
        finally:
            self.roll()


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
        self._writer = _SegmentWriter(directory, durability)
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._pending = _Pending()
        self._wake = asyncio.Event()
        self._committer: asyncio.Task[None] | None = None
        self._lock = -1
        self._stored = 0
        self._reserved = 0
        self._counted_at = 0.0
        self._closing = False

    async def start(self) -> None:
        """Take the directory, recover what an earlier writer left, and begin.

        Raises:
            SpoolLocked: another writer is at work in this directory.
        """
        self._lock = await self._in_thread(self._take_directory)
        self._committer = asyncio.create_task(self._commit_forever(), name="spool-committer")

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
        if self._closing or self._committer is None or self._committer.done():
            raise SpoolClosed("the spool is closed")
        frame = encode_record(Record(labels, received_ms, events))
        self._reserve(len(frame))
        self._pending.frames.append(frame)
        self._pending.settlers.append(settle)
        self._pending.size += len(frame)
        self._wake.set()

    async def close(self) -> None:
        """Commit what waits, hand the last segment over and give the directory back."""
        self._closing = True
        self._wake.set()
        if self._committer is not None:
            await self._committer
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        self._disk.shutdown()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def used_bytes(self) -> int:
        """Bytes of all segments, as last measured, and of what was accepted since."""
        return self._stored + self._reserved

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
        recovered = recover_open_segments(self._directory)
        if recovered:
            log.info("spool_recovered", segments=recovered, directory=self._directory.name)
        self._measure()
        return lock

    def _reserve(self, size: int) -> None:
        full = self.used_bytes + size > self._max_bytes
        if full and time.monotonic() - self._counted_at >= _RECOUNT_SECONDS:
            self._measure()
            full = self.used_bytes + size > self._max_bytes
        if full or self._reserved + size > MAX_PENDING_BYTES:
            metrics.SPOOL_FULL.inc()
            raise SpoolFull("the event spool is full")
        self._reserved += size

    def _measure(self) -> None:
        self._stored = used_bytes(self._directory)
        self._counted_at = time.monotonic()
        metrics.SPOOL_BYTES.set(self._stored)

    async def _commit_forever(self) -> None:
        try:
            while not self._closing or self._pending.frames:
                await self._wait_for_work()
                batch, self._pending = self._pending, _Pending()
                if batch.frames:
                    await self._commit(batch)
                if self._roll_is_due():
                    await self._roll()
            await self._roll()
        finally:
            _settle(self._pending, SpoolClosed("the spool is closed"))  # nobody may wait for a commit that never comes

    async def _wait_for_work(self) -> None:
        if self._pending.frames or self._closing:
            self._wake.clear()
            return
        remaining = self._writer.opened_at + self._roll_seconds - time.monotonic() if self._writer.is_open else None
        try:
            async with asyncio.timeout(None if remaining is None else max(0.0, remaining)):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _commit(self, batch: _Pending) -> None:
        try:
            await self._in_thread(self._writer.commit, batch.frames)
        except OSError as error:
            log.error("spool_write_failed", errno=error.errno, reason=error.strerror)
            metrics.SPOOL_FAILURES.inc()
            _settle(
                batch, SpoolFull("the disk is full") if error.errno in _DISK_FULL else SpoolClosed("the disk failed")
            )
            return
        except BaseException:
            _settle(batch, SpoolClosed("the spool failed"))
            raise
        finally:
            self._reserved -= batch.size
        self._stored += batch.size
        metrics.SPOOL_COMMITS.inc()
        metrics.SPOOL_BATCHES.inc(len(batch.settlers))
        _settle(batch, None)

    def _roll_is_due(self) -> bool:
        writer = self._writer
        if not writer.is_open:
            return False
        return writer.length >= self._segment_bytes or time.monotonic() - writer.opened_at >= self._roll_seconds

    async def _roll(self) -> None:
        try:
            await self._in_thread(self._writer.roll)
            await self._in_thread(self._measure)
        except OSError as error:
            log.error("spool_roll_failed", errno=error.errno, reason=error.strerror)

    async def _in_thread(self, call: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._disk, lambda: call(*arguments, **named))
