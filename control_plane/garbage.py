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
from sqlalchemy import ColumnElement, Select, delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from artifacts.store import ObjectStore, StoredObject, StoreUnavailable
from control_plane.database import Database
from control_plane.errors import Conflict, Unavailable
from control_plane.metrics import GARBAGE_BYTES, GARBAGE_OBJECTS
from control_plane.patch_plan import RUNNING
from control_plane.tables import ArtifactEncoding, Manifest, ModelVersion, OutboxRow, PatchJob, utc_now
from control_plane.uploads import UPLOADING
from manifests.trust import releases_of
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
        if not dry_run:
            await self._forget_encodings_of_the_dead()
        marked, uploading = await self._named_blobs(only_living=dry_run), await self._open_uploads()
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
            await session.execute(delete(PatchJob).where(dead, PatchJob.state != RUNNING))

    async def _named_blobs(self, only_living: bool) -> set[bytes]:
        """Return the hashes of all blobs that something names, at a hundred bytes of memory each.

        Args:
            only_living: leave out encodings that `_forget_encodings_of_the_dead` would forget.
        """
        encodings = select(ArtifactEncoding.blob_sha256)
        queries: tuple[Select[Any], ...] = (
            select(ModelVersion.upload_sha256).where(ModelVersion.upload_sha256.is_not(None)),
            select(ModelVersion.artifact_sha256).where(ModelVersion.artifact_sha256.is_not(None)),
            encodings.where(_lives()) if only_living else encodings,
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
