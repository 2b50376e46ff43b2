"""A model version's way in: begin, receive the bytes, finish.

`begin` makes a row in state `uploading` and a URL that anybody who holds it may send the bytes to: of the object store
when it signs URLs, else our own. `finish` turns the bytes into a version: the archive in canonical form, what the
model's inputs and outputs are, the compressed form; every blob is in the object store before the row becomes `ready`
and takes the model's next number. So no row that is `ready` names a missing blob.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath

import structlog
from aiohttp import web
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from artifacts.archive import UploadLimits
from artifacts.errors import BlobMissing, InvalidUpload, StoreUnavailable
from artifacts.hashing import hash_file
from artifacts.store import ObjectStore
from control_plane import audit
from control_plane.actor import Actor
from control_plane.database import Database
from control_plane.encodings import record_encodings
from control_plane.errors import Conflict, Forbidden, Invalid, Missing, TooLarge, Unavailable
from control_plane.names import check_filename
from control_plane.places import place_of_model
from control_plane.preparing import Prepared, prepare
from control_plane.presign import Presigner
from control_plane.receiving import disk_errors, receive_part, tell_progress
from control_plane.staging import StagedUpload, Staging
from control_plane.tables import Model, ModelVersion, new_id, utc_now

# A URL lives long enough for the largest upload over a slow line to be resumed the next morning.
URL_LIFETIME = timedelta(hours=12)
# Twice that: nobody can be sending any more.
ABANDONED_AFTER = timedelta(hours=24)
CLEAN_EVERY_SECONDS = 3600
# Uploads of one model that have begun and not finished. A person has a few; a broken script is stopped here.
MAX_OPEN_UPLOADS = 100
# Archiving and compressing are work for a core each; more at once only slows all of them down.
MAX_FINISHING = 2

UPLOADING = "uploading"
READY = "ready"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Begun:
    """An upload that may start: where to PUT the bytes, and what to name when finishing it."""

    presigned_url: str
    filepath: str
    model_version_id: str


class Uploads:
    """The uploads of every model.

    Args:
        database: where versions are recorded.
        objects: where blobs go.
        staging_dir: on a local disk with room for the uploads under way, each up to three times.
        presigner: signs our own upload URLs.
        limits: what an upload may be.
        public_url: the control plane's address as clients see it, without a slash at its end.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        staging_dir: Path,
        presigner: Presigner,
        limits: UploadLimits,
        public_url: str,
    ) -> None:
        self._database = database
        self._objects = objects
        self._staging = Staging(staging_dir)
        self._presigner = presigner
        self._limits = limits
        self._public_url = public_url.rstrip("/")
        self._finishing: dict[str, asyncio.Task[ModelVersion]] = {}
        self._room = asyncio.Semaphore(MAX_FINISHING)

    # --- The protocol, step by step -------------------------------------------------------------------------------

    async def begin(self, actor: Actor, model_id: str, filename: str, description: str | None = None) -> Begun:
        """Announce an upload.

        Args:
            model_id: a model that the actor may change.
            filename: what the uploaded file is called; a bare model file keeps this name inside the version.

        Raises:
            Missing: the model is gone.
            Conflict: too many uploads of this model have begun and not finished.
        """
        upload_id = new_id()
        async with self._database.write() as session:
            if await session.get(Model, model_id, with_for_update=True) is None:
                raise _gone("model")
            await _check_open_uploads(session, model_id)
            version = ModelVersion(
                id=upload_id,
                model_id=model_id,
                filename=_base_name(filename),
                description=description,
                filepath=f"uploads/{upload_id}",
                created_by=actor.user_id,
            )
            session.add(version)
        return Begun(self._url(upload_id), version.filepath, version.id)

    async def receive(self, request: web.Request) -> web.StreamResponse:
        """Answer PUT and HEAD on an upload URL of our own; `control_plane.receiving` has the conversation.

        Raises:
            Forbidden: the URL is not one of ours, or it has expired, if only while the bytes were coming.
            Missing: the upload, its model or its organization is gone.
            Conflict: the upload is finished, or another request is sending it.
            Invalid, TooLarge, Unavailable: see `receive_part`.
        """
        upload_id = request.match_info["id"]
        lasts = self._check_url(request, upload_id)
        if (await self._version(upload_id)).state != UPLOADING:
            raise Conflict("This upload is finished; begin another one.", "upload_finished")
        staged = self._staging.upload(upload_id)
        if request.method == "HEAD":
            return tell_progress(staged)
        return await receive_part(request, staged, self._limits.max_upload_bytes, lasts.total_seconds())

    async def finish(self, actor: Actor, model_version_id: str, filepath: str) -> ModelVersion:
        """Make a version of an upload whose bytes have all come. Asking again gives the same answer.

        Two at once: one does it, the other waits for it.

        Raises:
            Missing: there is no such upload.
            Invalid: ``filepath`` is another upload's, or the bytes are not a model that we accept.
            Conflict: bytes are missing, or are still being sent.
            TooLarge: the upload in the object store is over the limit.
            Unavailable: the object store does not answer, or the disk is full.
        """
        version = await self._version(model_version_id)
        if filepath != version.filepath:
            raise Invalid("filepath is not the one that this upload was given.", "invalid_filepath")
        if version.state == READY:
            return version
        task = self._finishing.get(version.id)
        if task is None:
            task = asyncio.create_task(self._finish(actor, version), name=f"finish-{version.id}")
            self._finishing[version.id] = task
            task.add_done_callback(lambda _: self._finishing.pop(version.id, None))
        try:
            # A caller that goes away takes nothing from the one that waits beside it.
            return await asyncio.shield(task)
        except Conflict:
            # Another control plane on the same database may have been quicker.
            version = await self._version(model_version_id)
            if version.state == READY:
                return version
            raise

    async def _finish(self, actor: Actor, version: ModelVersion) -> ModelVersion:
        staged = self._staging.upload(version.id)
        async with self._room:
            with staged.lock(), disk_errors(), _as_ours():
                await self._fetch_from_store(version.id, staged)
                prepared = await self._prepare(version, staged)
                await self._store_blobs(prepared)
                ready = await self._record(actor, version.id, prepared)
                await asyncio.to_thread(staged.remove)
            await self._forget_in_store(version.id)
        _log.info("upload_finished", model_version_id=ready.id, version=ready.version, length=ready.upload_length)
        return ready

    # --- The steps ------------------------------------------------------------------------------------------------

    def _url(self, upload_id: str) -> str:
        url = self._objects.presigned_put(upload_id, URL_LIFETIME)
        if url is not None:
            return url
        return f"{self._public_url}/v2/uploads/{upload_id}?{self._presigner.query(upload_id, utc_now() + URL_LIFETIME)}"

    def _check_url(self, request: web.Request, upload_id: str) -> timedelta:
        """Return for how long a URL of ours is still valid."""
        now = utc_now()
        expires = request.query.get("expires", "")
        signature = request.query.get("signature", "")
        if not self._presigner.allows(upload_id, expires, signature, now):
            raise Forbidden("This upload URL is not valid, or it has expired; begin the upload anew.", "upload_url")
        return timedelta(seconds=int(expires) - now.timestamp())

    async def _version(self, upload_id: str) -> ModelVersion:
        async with self._database.read() as session:
            version = await session.get(ModelVersion, upload_id)
        if version is None:
            raise _gone("upload")
        return version

    async def _fetch_from_store(self, upload_id: str, staged: StagedUpload) -> None:
        """Bring an upload that went to the object store's own URL here; say so when bytes are missing."""
        if staged.is_whole:
            return
        try:
            length = await self._objects.upload_length(upload_id)
        except BlobMissing:
            sentence = f"The upload is not complete: {staged.offset} bytes have come."
            raise Conflict(sentence, "upload_incomplete") from None
        limit = self._limits.max_upload_bytes
        if length > limit:
            await self._forget_in_store(upload_id)
            raise TooLarge(f"An upload may have at most {limit} bytes.", "upload_too_large")
        fetched = (await asyncio.to_thread(staged.fresh_work)) / "fetched"
        await self._objects.fetch_upload(upload_id, fetched)
        sha256, _ = await asyncio.to_thread(hash_file, fetched)
        await asyncio.to_thread(staged.adopt, sha256, fetched)

    async def _prepare(self, version: ModelVersion, staged: StagedUpload) -> Prepared:
        work = await asyncio.to_thread(staged.fresh_work)
        try:
            return await asyncio.to_thread(prepare, staged.whole, staged.sha256, version.filename, work, self._limits)
        except InvalidUpload:
            await asyncio.to_thread(staged.remove)
            await self._forget_in_store(version.id)
            raise

    async def _store_blobs(self, prepared: Prepared) -> None:
        for sha256, path in prepared.blobs.items():
            await self._objects.put_file(sha256, path)

    async def _record(self, actor: Actor, version_id: str, prepared: Prepared) -> ModelVersion:
        """Number the version and make it ready, in one transaction that holds the model."""
        async with self._database.write() as session:
            model, version = await _lock_for_numbering(session, version_id)
            if version.state == READY:
                return version
            model.last_version += 1
            model.updated_at = utc_now()
            _fill_in(version, model.last_version, prepared)
            await record_encodings(session, prepared.archive.sha256, prepared.encodings)
            place = await place_of_model(session, model.id)
            target = f"{place.application}/{model.name}/{version.version}"
            detail = {"sha256": prepared.upload_sha256, "length": prepared.upload_length}
            audit.record(session, actor, place.organization_id, "version.upload", target, detail)
        return version

    async def _forget_in_store(self, upload_id: str) -> None:
        """Remove the object store's copy; one that stays behind does no harm, so its failure is only logged."""
        try:
            await self._objects.delete_upload(upload_id)
        except StoreUnavailable as error:
            _log.warning("upload_left_in_store", upload_id=upload_id, reason=str(error))

    # --- Abandoned uploads ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Remove abandoned uploads every hour until cancelled."""
        while True:
            try:
                await self.clean(utc_now())
            except Exception:  # the next round may fare better
                _log.exception("upload_cleaning_failed")
            await asyncio.sleep(CLEAN_EVERY_SECONDS)

    async def clean(self, now: datetime) -> int:
        """Remove uploads that began more than a day ago and never finished; return how many."""
        before = now - ABANDONED_AFTER
        async with self._database.write() as session:
            abandoned = ModelVersion.state == UPLOADING, ModelVersion.created_at < before
            under_way = ModelVersion.id.in_(list(self._finishing))
            rows = await session.scalars(delete(ModelVersion).where(*abandoned, ~under_way).returning(ModelVersion.id))
            ids = list(rows)
        for upload_id in ids:
            await self._forget_in_store(upload_id)
        for upload_id in await asyncio.to_thread(self._staging.ids_untouched_since, before):
            if upload_id not in self._finishing:
                await asyncio.to_thread(self._staging.upload(upload_id).remove)
        return len(ids)


async def _check_open_uploads(session: AsyncSession, model_id: str) -> None:
    uploading = ModelVersion.model_id == model_id, ModelVersion.state == UPLOADING
    if (await session.scalar(select(func.count()).where(*uploading)) or 0) >= MAX_OPEN_UPLOADS:
        raise Conflict(
            f"{MAX_OPEN_UPLOADS} uploads of this model have begun and not finished; finish one, or wait a day.",
            "too_many_uploads",
        )


async def _lock_for_numbering(session: AsyncSession, version_id: str) -> tuple[Model, ModelVersion]:
    """Return the model and the version, both held until the transaction ends, so that numbers come one by one."""
    found = await session.get(ModelVersion, version_id)
    model = await session.get(Model, found.model_id, with_for_update=True) if found else None
    version = await session.get(ModelVersion, version_id, with_for_update=True, populate_existing=True)
    if model is None or version is None:
        raise _gone("upload")
    return model, version


def _fill_in(version: ModelVersion, number: int, prepared: Prepared) -> None:
    version.version = number
    version.state = READY
    version.upload_sha256 = prepared.upload_sha256
    version.upload_length = prepared.upload_length
    version.artifact_sha256 = prepared.archive.sha256
    version.artifact_length = prepared.archive.length
    version.format = prepared.inspection.format
    version.interface = prepared.inspection.interface
    version.files = [asdict(file) for file in prepared.archive.files]
    version.inputs = [asdict(tensor) for tensor in prepared.inspection.inputs]
    version.outputs = [asdict(tensor) for tensor in prepared.inspection.outputs]


def _base_name(filename: str) -> str:
    """Return the last part of ``filename``: clients send paths of their own machine, Windows' among them.

    Raises:
        Invalid: nothing is left that could name a file, inside an archive too if it is no zip.
    """
    try:
        return check_filename(PurePosixPath(filename.replace("\\", "/")).name)
    except ValueError as error:
        raise Invalid(f"filename: {error}.", "invalid_filename") from error


def _gone(kind: str) -> Missing:
    return Missing(f"There is no such {kind}.")


@contextmanager
def _as_ours() -> Iterator[None]:
    """Turn what the artifacts' side raises into what an API caller understands."""
    try:
        yield
    except InvalidUpload as error:
        raise Invalid(error.sentence, error.code) from error
    except StoreUnavailable as error:
        raise Unavailable("The object store does not answer; try again in a moment.", "object_store") from error
