"""Freeing what nothing names any more: blobs of versions that were deleted, and uploads that never became one.

Mark, then sweep. Marked is every blob that a version, one of its encodings or a manifest in force names; so what can
be deployed, rolled back to or downloaded stays. Swept is what is not marked and was last written before the grace
period. An upload under way is never hit: its blobs are written before they are named, and `ObjectStore.put_file`
writes a blob that it finds in the store anew when it is not fresh, so its time shows that somebody counts on it. The
time is asked again right before each deletion, since a collection may take long.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Select, delete, func, or_, select, true, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from artifacts.store import ObjectStore, StoredObject, StoreUnavailable
from control_plane.database import Database
from control_plane.errors import Conflict, Unavailable
from control_plane.metrics import GARBAGE_BYTES, GARBAGE_OBJECTS
from control_plane.patch_jobs import PENDING, RUNNING, lock_jobs, skip_unwanted
from control_plane.patch_wishes import Unwanted
from control_plane.tables import ArtifactEncoding, Manifest, ModelVersion, OutboxRow, PatchJob, PatchWish, utc_now
from control_plane.uploads import UPLOADING
from manifests.trust import Lifetimes, releases_of
from telemetry.cancellation import heed_cancellation

# What was written in the last day may belong to an upload that is being finished, or to one that goes on tomorrow.
GRACE = timedelta(hours=24)
# Finishing an upload takes three blobs of an hour each at the very most (`artifacts.store.TRANSFER_TIMEOUT`), and what
# it finds in the store may be an hour old (`artifacts.store.FRESH_FOR`).
MIN_GRACE = timedelta(hours=6)
# Older than any object: what is asked for beyond is a slip of the hand.
MAX_GRACE = timedelta(days=3650)
# Storage costs by the month: once a day is often enough.
EVERY_SECONDS = 24 * 3600.0
# At the start others have more to do.
FIRST_AFTER_SECONDS = 600.0
# What kept a collection from being made is mostly over by then.
AGAIN_AFTER_SECONDS = 3600.0
# A manifest that lists a patch is valid until its timestamp expires, in a cache on the way or on a device; a day more
# for clocks, and for a download that goes on. So long after nobody wants a patch any more, its blob is kept.
UNWANTED_FOR = Lifetimes().timestamp + timedelta(days=1)
# Rows that are read at once; a manifest has up to some hundred kilobytes.
_BATCH = 1000
_MANIFEST_BATCH = 50

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Collected:
    """What was freed, or would have been."""

    blobs: int = 0
    uploads: int = 0
    bytes: int = 0


class GarbageCollector:
    """Frees what nothing names.

    Args:
        database: tells what is named.
        objects: where blobs and uploads are.
    """

    def __init__(self, database: Database, objects: ObjectStore) -> None:
        self._database = database
        self._objects = objects

    async def run(self) -> None:
        """Collect once a day until cancelled."""
        pause = FIRST_AFTER_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = AGAIN_AFTER_SECONDS
            try:
                await self.collect(utc_now())
                pause = EVERY_SECONDS
            except (Conflict, Unavailable, StoreUnavailable) as error:
                _log.warning("garbage_collection_postponed", reason=str(error))
            except Exception:  # the next round may fare better
                _log.exception("garbage_collection_failed")
            heed_cancellation()

    async def collect(self, now: datetime, grace: timedelta = GRACE, dry_run: bool = False) -> Collected:
        """Free what nothing names and nobody has written since ``now - grace``; return how much.

        Args:
            now: the present moment.
            grace: how long what is not named yet is left alone.
            dry_run: only count.

        Raises:
            Conflict: edges have yet to be told of changes, so they may offer what the database does not any more.
            Unavailable: the database does not answer.
            StoreUnavailable: the object store does not answer. What was freed until then is freed.
        """
        before = now - grace
        await self._refuse_while_edges_are_behind()
        kept = _lives() & ~_is_forgotten(now - UNWANTED_FOR)
        if not dry_run:
            await self._forget_encodings_of_the_dead()
            await self._forget_unwanted_patches(now - UNWANTED_FOR)
        marked, uploading = await self._named_blobs(kept if dry_run else true()), await self._open_uploads()
        collected = Collected()
        async for blob in _old(self._objects.blobs(), before):
            if bytes.fromhex(blob.name) in marked:
                continue
            if dry_run or await self._objects.delete_if_older(blob.name, before):
                collected.blobs += 1
                collected.bytes += blob.length
        async for upload in _old(self._objects.uploads(), before):
            if upload.name not in uploading:
                await self._drop_upload(upload, dry_run)
                collected.uploads += 1
                collected.bytes += upload.length
        if not dry_run:
            await self._objects.remove_leftovers(before)
            _count(collected)
        return collected

    async def _drop_upload(self, upload: StoredObject, dry_run: bool) -> None:
        if not dry_run:
            await self._objects.delete_upload(upload.name)

    # --- What is named --------------------------------------------------------------------------------------------

    async def _refuse_while_edges_are_behind(self) -> None:
        async with self._database.read() as session:
            waiting = await session.scalar(select(func.count()).select_from(OutboxRow)) or 0
        if waiting:
            sentence = f"{waiting} changes have yet to be told to the edges, which may offer what was deleted since."
            raise Conflict(f"{sentence} Try again once Redis has them.", "edges_behind")

    async def _forget_encodings_of_the_dead(self) -> None:
        """Remove what is recorded of encodings and patches whose artifacts no version has.

        Before anything is marked: a row that outlives this run keeps its blob, so none ever names a missing one.
        """
        async with self._database.write() as session:
            await session.execute(delete(ArtifactEncoding).where(~_lives()))
            dead = ~_is_an_artifact(PatchJob.target_sha256) | ~_is_an_artifact(PatchJob.base_sha256)
            jobs = await lock_jobs(session, dead & (PatchJob.state != RUNNING))
            await session.execute(delete(PatchJob).where(PatchJob.id.in_([job.id for job in jobs])))

    async def _forget_unwanted_patches(self, before: datetime) -> None:
        """Remove patches that no environment has wanted since ``before``; one that is wanted again is made anew."""
        async with self._database.write() as session:
            pair = ArtifactEncoding.artifact_sha256, ArtifactEncoding.base_sha256
            rows = await session.execute(select(*pair).where(_is_forgotten(before)).distinct())
            forgotten = [tuple(row) for row in rows]
            for start in range(0, len(forgotten), _BATCH):
                pairs = forgotten[start : start + _BATCH]
                jobs = await lock_jobs(session, tuple_(PatchJob.target_sha256, PatchJob.base_sha256).in_(pairs))
                ended = [job.id for job in jobs if job.state not in (PENDING, RUNNING)]
                await skip_unwanted(session, ended, Unwanted.NO_LONGER_WANTED, utc_now(), tried=[])
                # Asked again: whoever wished one meanwhile held its job.
                await session.execute(delete(ArtifactEncoding).where(tuple_(*pair).in_(pairs), _is_forgotten(before)))
        async with self._database.write() as session:
            # One that a plan holds at this moment goes the next time.
            old = PatchWish.unwanted == Unwanted.NO_LONGER_WANTED, PatchWish.since < before
            for wish in await session.scalars(select(PatchWish).where(*old).with_for_update(skip_locked=True)):
                await session.delete(wish)

    async def _named_blobs(self, kept: ColumnElement[bool]) -> set[bytes]:
        """Return the hashes of all blobs that something names, at a hundred bytes of memory each.

        Args:
            kept: of the encodings, those that count.
        """
        encodings = select(ArtifactEncoding.blob_sha256)
        queries: tuple[Select[Any], ...] = (
            select(ModelVersion.upload_sha256).where(ModelVersion.upload_sha256.is_not(None)),
            select(ModelVersion.artifact_sha256).where(ModelVersion.artifact_sha256.is_not(None)),
            encodings.where(kept),
        )
        named: set[bytes] = set()
        async with self._database.read() as session:
            for query in queries:
                async for hashes in _batches(session, query, _BATCH):
                    named.update(bytes.fromhex(sha256) for sha256 in hashes)
            async for targets in _batches(session, select(Manifest.targets_bytes), _MANIFEST_BATCH):
                named.update(await asyncio.to_thread(_offered_blobs, targets))
        return named

    async def _open_uploads(self) -> set[str]:
        async with self._database.read() as session:
            return set(await session.scalars(select(ModelVersion.id).where(ModelVersion.state == UPLOADING)))


def _is_an_artifact(column: InstrumentedAttribute[str]) -> ColumnElement[bool]:
    """Return the condition that a version has the artifact that a column names."""
    return select(ModelVersion.id).where(ModelVersion.artifact_sha256 == column).exists()


def _lives() -> ColumnElement[bool]:
    """Return the condition that an encoding leads to a version's artifact, from one if it is a patch."""
    base = ArtifactEncoding.base_sha256
    return _is_an_artifact(ArtifactEncoding.artifact_sha256) & or_(base == "", _is_an_artifact(base))


def _is_forgotten(before: datetime) -> ColumnElement[bool]:
    """Return the condition that an encoding is a patch that no environment has wanted since ``before``."""
    pair = (
        PatchWish.target_sha256 == ArtifactEncoding.artifact_sha256,
        PatchWish.base_sha256 == ArtifactEncoding.base_sha256,
    )
    wished = select(PatchWish.rank).where(*pair, PatchWish.unwanted.is_(None) | (PatchWish.since >= before)).exists()
    return (ArtifactEncoding.base_sha256 != "") & (ArtifactEncoding.created_at < before) & ~wished


async def _batches(session: AsyncSession, query: Select[Any], size: int) -> AsyncIterator[list[Any]]:
    """Yield a query's only column, so many rows at a time."""
    stream = await session.stream_scalars(query.execution_options(yield_per=size))
    async for batch in stream.partitions():
        yield list(batch)


def _offered_blobs(targets: Iterable[bytes]) -> set[bytes]:
    """Return the hashes of the blobs that manifests name."""
    releases = [release for metadata in targets for release in releases_of(metadata)]
    named = {release.artifact for release in releases}
    named.update(encoding.blob for release in releases for encoding in release.encodings)
    return {bytes.fromhex(sha256) for sha256 in named}


async def _old(objects: AsyncIterator[StoredObject], before: datetime) -> AsyncIterator[StoredObject]:
    async for each in objects:
        if each.last_modified < before:
            yield each


def _count(collected: Collected) -> None:
    GARBAGE_OBJECTS.inc(collected.blobs + collected.uploads)
    GARBAGE_BYTES.inc(collected.bytes)
    _log.info("garbage_collected", blobs=collected.blobs, uploads=collected.uploads, bytes=collected.bytes)
