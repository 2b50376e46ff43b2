"""Blobs for devices: from the local disk, and filled from the object store when they are not there yet.

A miss is one flight per blob, whoever asks meanwhile: ask the store for the length, make room, fetch into a file that
is hashed while it is written, make it durable, admit it. Devices read along (`edge.blob_growing`), but have nothing
whole before the hash holds. While the store is away, what is on the disk is served and the rest is `Unavailable`. A
blob that the store does not have is `Missing`, and is believed to be absent for a few seconds, so that asking for it
again costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import structlog

from artifacts.store import BlobCorrupt, BlobMissing, StoreUnavailable
from edge import metrics
from edge.absent import RecentlyAbsent
from edge.blob_directory import BlobDirectory, NoRoom, OpenBlob
from edge.blob_fill import BlobSource, fetch
from edge.blob_growing import GrowingBlob
from edge.errors import EdgeError, Missing, Unavailable
from edge.single_flight import SingleFlight, TooManyFlights

# Bytes come before the pointer to them, so a missing blob is a mistake or an attack, and seldom heals.
ABSENT_SECONDS = 5.0
# About 2 MB of memory. A flood of made-up hashes pushes out its own oldest entries only.
MAX_ABSENT = 10_000
# Different blobs in flight at once, for bytes and for lengths each; a few fetch, the others queue for a turn.
MAX_FLIGHTS = 256
# One question to the object store; its own client retries within this.
LENGTH_TIMEOUT_SECONDS = 15.0

# Asked for with every download: looking the label up would cost more than counting.
_FOUND_ON_DISK = metrics.BLOB_REQUESTS.labels("disk")

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class BlobCache:
    """The blobs of one worker.

    Args:
        directory: where whole blobs lie, recovered already.
        source: where blobs come from.
        fills: fetches at once; others wait for their turn.
        fill_timeout: longest fetch, in seconds.
        wait: longest time that a caller waits for the next piece, in seconds; the fetch goes on after it.
    """

    def __init__(
        self, directory: BlobDirectory, source: BlobSource, *, fills: int, fill_timeout: float, wait: float
    ) -> None:
        self._directory = directory
        self._source = source
        self._turns = asyncio.Semaphore(fills)
        self._fill_timeout = fill_timeout
        self._wait = wait
        self._growing: dict[str, GrowingBlob] = {}
        self._fills: SingleFlight[None] = SingleFlight(MAX_FLIGHTS)
        self._lengths: SingleFlight[int] = SingleFlight(MAX_FLIGHTS)
        self._absent = RecentlyAbsent(ABSENT_SECONDS, MAX_ABSENT)

    async def open(self, sha256: str) -> OpenBlob:
        """Return the blob open for reading, as it is fetched when it is not here.

        Args:
            sha256: 64 lower-case hex digits.

        Raises:
            Missing: the object store has no such blob.
            Unavailable: the object store is away, or takes too long. Both may also come later, from `OpenBlob.ready`.
        """
        blob = self.open_here(sha256)
        if blob is not None:
            return blob
        self._refuse_absent(sha256)
        growing = self._growing.get(sha256) or self._begin(sha256)
        blob = await growing.open() or self._directory.open(sha256)
        metrics.BLOB_REQUESTS.labels("store").inc()
        if blob is None:
            raise Unavailable("The artifact had to make room for others; ask again.", "cache_full")
        return blob

    def open_here(self, sha256: str) -> OpenBlob | None:
        """Return the blob open for reading when it is on the disk, whole; else None."""
        blob = self._directory.open(sha256)
        if blob is not None:
            _FOUND_ON_DISK.inc()
        return blob

    def _begin(self, sha256: str) -> GrowingBlob:
        growing = GrowingBlob(self._wait)
        try:
            self._fills.begin(sha256, lambda: self._fill(sha256, growing))
        except TooManyFlights:
            raise _too_many() from None
        self._growing[sha256] = growing
        return growing

    async def length(self, sha256: str) -> int:
        """Return the blob's length in bytes without fetching it.

        Raises:
            Missing, Unavailable: as for `open`.
        """
        growing = self._growing.get(sha256)
        length = growing.length if growing else self._directory.length(sha256)
        if length is not None:
            return length
        self._refuse_absent(sha256)
        return await self._join(self._lengths.do(sha256, lambda: self._ask_length(sha256)))

    async def close(self) -> None:
        """End fetches that are under way; what they wrote is removed."""
        await self._fills.cancel()
        for sha256, growing in list(self._growing.items()):  # those that were cancelled before they began
            self._over(sha256, growing, _ending())
        await self._lengths.cancel()

    def _refuse_absent(self, sha256: str) -> None:
        if sha256 in self._absent:
            metrics.BLOB_REQUESTS.labels("absent").inc()
            raise _missing()

    async def _join(self, flight: Awaitable[Result]) -> Result:
        try:
            async with asyncio.timeout(self._wait):
                return await flight
        except TimeoutError:
            raise Unavailable("The artifact is still being fetched; ask again.", "fetching", retry_after=5) from None
        except TooManyFlights:
            raise _too_many() from None

    async def _ask_length(self, sha256: str) -> int:
        try:
            async with asyncio.timeout(LENGTH_TIMEOUT_SECONDS):
                return await self._source.length(sha256)
        except BlobMissing:
            self._absent.add(sha256)
            metrics.BLOB_REQUESTS.labels("absent").inc()
            raise _missing() from None
        except (StoreUnavailable, TimeoutError) as error:
            raise self._failed("store", sha256, error) from None

    async def _fill(self, sha256: str, growing: GrowingBlob) -> None:
        """Fetch a blob. Its readers hear of a failure when everything is cleaned up."""
        failure: EdgeError | None = _ending()
        try:
            await self._fetch_in_turn(sha256, growing)
            failure = None
        except EdgeError as error:
            failure = error
        finally:
            self._over(sha256, growing, failure)

    def _over(self, sha256: str, growing: GrowingBlob, failure: EdgeError | None) -> None:
        del self._growing[sha256]
        growing.close(failure)

    async def _fetch_in_turn(self, sha256: str, growing: GrowingBlob) -> None:
        async with self._turns:
            length = await self._ask_length(sha256)
            try:
                await self._fetch(sha256, length, growing)
            except NoRoom as error:
                raise self._failed("no_room", sha256, error) from None
            except BlobMissing:
                self._absent.add(sha256)
                raise _missing() from None
            except BlobCorrupt as error:
                raise self._failed("corrupt", sha256, error) from None
            except (StoreUnavailable, TimeoutError) as error:
                raise self._failed("store", sha256, error) from None
            except OSError as error:
                raise self._failed("disk", sha256, error) from None
            except Exception as error:  # nobody awaits this task: what we did not think of must not end in silence
                log.exception("blob_fill_broke", sha256=sha256)
                raise self._failed("defect", sha256, error) from None

    async def _fetch(self, sha256: str, length: int, growing: GrowingBlob) -> None:
        with self._directory.room(sha256, length) as path:
            async with asyncio.timeout(self._fill_timeout):
                await fetch(self._source, sha256, length, path, growing)
            self._directory.admit(sha256, path, length)
        metrics.BLOB_FILL_BYTES.inc(length)
        metrics.BLOB_CACHE_BYTES.set(self._directory.stored_bytes)

    def _failed(self, cause: str, sha256: str, error: Exception) -> EdgeError:
        metrics.BLOB_FILL_FAILURES.labels(cause).inc()
        log.warning("blob_fill_failed", cause=cause, sha256=sha256, error=type(error).__name__)
        return Unavailable("The artifact cannot be fetched at the moment; ask again.")


def _too_many() -> Unavailable:
    metrics.SATURATED.labels("blob_flights").inc()
    return Unavailable("Too many artifacts are being fetched; ask again.", "busy")


def _ending() -> Unavailable:
    return Unavailable("The edge ends; ask another.")


def _missing() -> Missing:
    return Missing("There is no such artifact.")
