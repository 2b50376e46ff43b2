"""A control plane's inside for tests: a real database, signing keys in files, blobs in a folder; one organization,
one application with the environments dev and prod, and one model."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select

from artifacts.archive import UploadLimits
from artifacts.encodings import ZSTD_PREFIX
from artifacts.store import ObjectStore, open_store
from control_plane.actor import Actor
from control_plane.database import Database
from control_plane.migrate import migrate
from control_plane.model_names import take_name
from control_plane.outbox import OutboxRelay
from control_plane.patch_policy import PatchPolicy
from control_plane.presign import Presigner
from control_plane.publish import Publisher
from control_plane.repository import Signing, signed
from control_plane.staging import Staging
from control_plane.tables import (
    Application,
    AuditEntry,
    Environment,
    EnvironmentKey,
    Manifest,
    Model,
    ModelVersion,
    Organization,
    OutboxRow,
    User,
    utc_now,
)
from control_plane.uploads import Uploads
from manifests.model import Release
from manifests.signing import FileKeyStore
from manifests.store import ManifestStore, MemoryManifestStore, Publication
from manifests.trust import Lifetimes, releases_of
from tests.control_plane.databases import fresh_sqlite

LIMITS = UploadLimits(max_upload_bytes=1 << 20, max_unpacked_bytes=4 << 20)
# The encoding that is made the quickest, where a test is not about another.
QUICK = PatchPolicy(encodings=(ZSTD_PREFIX,))


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = utc_now()

    def __call__(self) -> datetime:
        return self.now


@dataclass(frozen=True)
class World:
    """The parts under test and the rows that they work on."""

    database: Database
    store: ManifestStore
    objects: ObjectStore
    uploads: Uploads
    staging: Staging
    relay: OutboxRelay
    publisher: Publisher
    folder: Path
    actor: Actor
    organization: Organization
    application: Application
    dev: Environment
    prod: Environment
    model: Model

    async def version(self, files: Mapping[str, bytes] | bytes, model: Model | None = None) -> ModelVersion:
        """Upload a zip of ``files``, or a bare file, and return the version that it becomes."""
        begun = await self.uploads.begin(self.actor, (model or self.model).id, "model.bin")
        stage(self.staging, begun.model_version_id, files if isinstance(files, bytes) else zipped(files))
        return await self.uploads.finish(self.actor, begun.model_version_id, begun.filepath)

    async def offered(self, environment: Environment | None = None) -> list[Release]:
        """Return what the environment's signed manifest offers, as a device would read it."""
        return list(releases_of((await self.manifest(environment)).targets_bytes))

    async def manifest(self, environment: Environment | None = None) -> Manifest:
        """Return the manifest in force."""
        async with self.database.read() as session:
            return await session.get_one(Manifest, (environment or self.prod).id)

    async def keys(self, environment: Environment | None = None) -> list[EnvironmentKey]:
        """Return the environment's keys, the oldest first."""
        query = select(EnvironmentKey).where(EnvironmentKey.environment_id == (environment or self.prod).id)
        async with self.database.read() as session:
            return list(await session.scalars(query.order_by(EnvironmentKey.created_at)))

    async def audit(self) -> list[AuditEntry]:
        """Return the audit log, the oldest entry first."""
        async with self.database.read() as session:
            return list(await session.scalars(select(AuditEntry).order_by(AuditEntry.id)))

    async def outbox(self) -> list[OutboxRow]:
        """Return what waits to be told to the store."""
        async with self.database.read() as session:
            return list(await session.scalars(select(OutboxRow).order_by(OutboxRow.id)))

    async def assert_published(self, environment: Environment | None = None) -> None:
        """Check that the store has the manifest in force under every key, byte for byte."""
        manifest = await self.manifest(environment)
        for key in await self.keys(environment):
            publication = await self.store.load(key.key)
            assert isinstance(publication, Publication)
            assert publication.revision == manifest.revision
            assert publication.files["timestamp.json"] == signed(manifest).timestamp


@asynccontextmanager
async def open_world(
    folder: Path,
    database_url: str | None = None,
    store: ManifestStore | None = None,
    lifetimes: Lifetimes | None = None,
    limits: UploadLimits = LIMITS,
    objects: ObjectStore | None = None,
    policy: PatchPolicy = QUICK,
) -> AsyncIterator[World]:
    """Make a world in ``folder``; with the URL of a database that is empty, or that another world has filled."""
    database = Database(database_url or fresh_sqlite(folder))
    await migrate(database)
    store = store or MemoryManifestStore()
    objects = objects or open_store((folder / "objects").as_uri())
    relay = OutboxRelay(database, store)
    publisher = Publisher(database, relay, Signing(FileKeyStore(folder / "keys"), lifetimes or Lifetimes()), policy)
    staging_dir = folder / "staging"
    uploads = Uploads(database, objects, staging_dir, Presigner(bytes(32)), limits, "http://control.test")
    try:
        user, organization, application, dev, prod, model = await _rows(database, publisher)
        yield World(
            database=database,
            store=store,
            objects=objects,
            uploads=uploads,
            staging=Staging(staging_dir),
            relay=relay,
            publisher=publisher,
            folder=folder,
            actor=Actor(user.id, user.email),
            organization=organization,
            application=application,
            dev=dev,
            prod=prod,
            model=model,
        )
    finally:
        await database.close()


def stage(staging: Staging, upload_id: str, data: bytes) -> None:
    """Put an upload's bytes where a PUT would have put them."""
    staged = staging.upload(upload_id)
    with staged.lock():
        writer = staged.write_at(0)
        writer.write(data)
        staged.complete(writer.close())


def zipped(files: Mapping[str, bytes]) -> bytes:
    """Return a zip of ``files``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data)
    return buffer.getvalue()


async def stop(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it ends: see `telemetry.cancellation` for why once may not be enough."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=1)


async def _rows(
    database: Database, publisher: Publisher
) -> tuple[User, Organization, Application, Environment, Environment, Model]:
    user = User(email="ada@example.com")
    organization = Organization(name="Example")
    async with database.write() as session:
        session.add_all([user, organization])
        await session.flush()
        application = Application(
            organization_id=organization.id, name="Camera", bundle_id="com.example.camera", platform="ios"
        )
        session.add(application)
        await session.flush()
        dev, prod = (Environment(application_id=application.id, name=name) for name in ("dev", "prod"))
        model = Model(application_id=application.id, name="digits", created_at=utc_now())
        session.add_all([dev, prod, model])
        await session.flush()
        await take_name(session, model)
        for environment in (dev, prod):
            await publisher.open_environment(session, environment)
    for environment in (dev, prod):
        await publisher.announce(environment.id)
    return user, organization, application, dev, prod, model
