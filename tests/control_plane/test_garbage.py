"""Freeing storage: what nothing names goes, what anything names or may soon name stays; on a folder and on real S3."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, select

from artifacts.encodings import Encoded
from artifacts.errors import BlobMissing
from artifacts.hashing import hash_file
from artifacts.store import ObjectStore, StoredObject, open_store
from control_plane import garbage
from control_plane.encodings import record_encodings
from control_plane.errors import Conflict
from control_plane.garbage import GRACE, Collected, GarbageCollector
from control_plane.patch_jobs import BUILT, RUNNING
from control_plane.tables import (
    ArtifactEncoding,
    Model,
    ModelVersion,
    OutboxRow,
    PatchJob,
    Release,
    new_id,
    utc_now,
)
from tests.control_plane.running import ORGANIZATION, Api
from tests.control_plane.world import World, open_world, zipped
from tests.servers.s3 import S3Server, running_s3

ONE, TWO = {"weights": b"0123456789" * 3000}, {"weights": b"9876543210" * 3000}
# When everything that was written until now is old enough.
LATER = GRACE + timedelta(hours=1)


@pytest.fixture(scope="module")
def own_s3() -> Iterator[S3Server]:
    """A server for this module alone: its listings are compared as a whole."""
    with running_s3() as server:
        yield server


@pytest.fixture(params=["file", "s3"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    objects: ObjectStore = open_store((tmp_path / "objects").as_uri())
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("own_s3")
        objects = open_store(f"{server.url}/{tmp_path.name}", server.options)
    async with open_world(tmp_path, objects=objects) as world:
        yield world


async def collect(world: World, dry_run: bool = False) -> Collected:
    """Collect as if everything had been written before the grace period."""
    return await GarbageCollector(world.database, world.objects).collect(utc_now() + LATER, dry_run=dry_run)


async def names(objects: AsyncIterator[StoredObject]) -> set[str]:
    return {each.name async for each in objects}


async def blobs_of(world: World, version: ModelVersion) -> set[str]:
    """Return the blobs that a version needs."""
    async with world.database.read() as session:
        full = ArtifactEncoding.artifact_sha256 == version.artifact_sha256, ArtifactEncoding.base_sha256 == ""
        encodings = await session.scalars(select(ArtifactEncoding.blob_sha256).where(*full))
        return {*encodings, version.upload_sha256 or "", version.artifact_sha256 or ""}


async def remove(world: World, version: ModelVersion) -> None:
    async with world.database.write() as session:
        await session.execute(delete(ModelVersion).where(ModelVersion.id == version.id))


async def add_patch(world: World, base: ModelVersion, target: ModelVersion, state: str = BUILT) -> str:
    """Store a patch between two versions as the builder does; return its blob."""
    path = world.folder / new_id()
    path.write_bytes(os.urandom(100))
    sha256, length = hash_file(path)
    await world.objects.put_file(sha256, path)
    patch = Encoded("zstd-prefix", sha256, length, base.artifact_sha256, path)
    pair = (PatchJob.base_sha256 == base.artifact_sha256, PatchJob.target_sha256 == target.artifact_sha256)
    job = PatchJob(base_sha256=base.artifact_sha256, target_sha256=target.artifact_sha256, state=state)
    async with world.database.write() as session:
        await record_encodings(session, target.artifact_sha256 or "", [patch])
        await session.execute(delete(PatchJob).where(*pair))  # a deployment may have planned it
        session.add(job)
    return sha256


# --- What goes and what stays -----------------------------------------------------------------------------------------


async def test_what_versions_need_stays_and_what_only_a_deleted_one_needed_goes(world: World) -> None:
    kept, gone = await world.version(ONE), await world.version(TWO)
    needed, unneeded = await blobs_of(world, kept), await blobs_of(world, gone)
    assert await collect(world) == Collected()
    await remove(world, gone)
    collected = await collect(world)
    assert await names(world.objects.blobs()) == needed
    assert collected.blobs == len(unneeded) == 3
    assert collected.bytes > 0
    assert await collect(world) == Collected()


async def test_bytes_that_two_versions_share_stay_until_both_are_gone(world: World) -> None:
    first, second = await world.version(ONE), await world.version(ONE)
    shared = await blobs_of(world, first)
    await remove(world, first)
    await collect(world)
    assert await names(world.objects.blobs()) == shared == await blobs_of(world, second)
    await remove(world, second)
    await collect(world)
    assert await names(world.objects.blobs()) == set()


async def test_deleting_a_model_frees_all_its_versions(world: World) -> None:
    await world.version(ONE)
    await world.version(TWO)
    async with world.database.write() as session:
        await session.delete(await session.get_one(Model, world.model.id))
    assert (await collect(world)).blobs == 6
    assert await names(world.objects.blobs()) == set()


async def test_a_version_that_may_be_rolled_back_to_keeps_its_bytes(world: World) -> None:
    old, new = await world.version(ONE), await world.version(TWO)
    for version in (old, new):
        await world.publisher.deploy(world.actor, world.prod.id, world.model.id, version.version or 0)
    await collect(world)
    await world.publisher.roll_back(world.actor, world.prod.id, world.model.id)
    (offered,) = await world.offered()
    assert offered.version == 1
    for encoding in offered.encodings:
        assert await world.objects.length(encoding.blob) == encoding.length


async def test_what_a_manifest_in_force_names_stays_even_when_its_version_is_gone(world: World) -> None:
    """A model was deleted with `withdraw`, and the process ended before its environments were published again."""
    base, version = await world.version(ONE), await world.version(TWO)
    await world.publisher.deploy(world.actor, world.prod.id, world.model.id, 1)
    await world.publisher.deploy(world.actor, world.prod.id, world.model.id, 2)
    patch = await add_patch(world, base, version)
    await world.publisher.republish(world.prod.id)
    (offered,) = await world.offered()
    named = {offered.artifact, *(encoding.blob for encoding in offered.encodings)}
    assert patch in named
    async with world.database.write() as session:
        await session.execute(delete(Release))
        await session.execute(delete(ModelVersion))
    await collect(world)
    assert await names(world.objects.blobs()) == named
    await world.publisher.republish(world.prod.id)
    await collect(world)
    assert await names(world.objects.blobs()) == set()


async def test_patches_go_with_either_of_their_versions_and_can_be_asked_for_again(world: World) -> None:
    base, target, other = await world.version(ONE), await world.version(TWO), await world.version({"w": b"3" * 999})
    patch, from_other = await add_patch(world, base, target), await add_patch(world, other, target, RUNNING)
    await collect(world)
    assert {patch, from_other} <= await names(world.objects.blobs())
    await remove(world, base)
    await remove(world, other)
    await collect(world)
    assert not {patch, from_other} & await names(world.objects.blobs())
    async with world.database.read() as session:
        assert await session.scalar(select(ArtifactEncoding.id).where(ArtifactEncoding.base_sha256 != "")) is None
        (left,) = await session.scalars(select(PatchJob.state))
    assert left == RUNNING, "its builder still holds it"


async def test_a_dry_run_counts_the_same_and_frees_nothing(world: World) -> None:
    base, target = await world.version(ONE), await world.version(TWO)
    await add_patch(world, base, target)
    await remove(world, base)
    there = await names(world.objects.blobs())
    counted = await collect(world, dry_run=True)
    assert await names(world.objects.blobs()) == there
    async with world.database.read() as session:
        assert len(list(await session.scalars(select(PatchJob.id)))) == 1
    assert await collect(world) == counted
    assert counted.blobs == 4


# --- Uploads under way ------------------------------------------------------------------------------------------------


async def test_nothing_is_freed_within_the_grace_period(world: World) -> None:
    await remove(world, await world.version(ONE))
    there = await names(world.objects.blobs())
    collected = await GarbageCollector(world.database, world.objects).collect(utc_now())
    assert (collected, await names(world.objects.blobs())) == (Collected(), there)


async def test_uploads_in_the_object_store_go_unless_they_are_under_way(world: World) -> None:
    async def send(upload_id: str) -> None:
        import obstore

        await obstore.put_async(world.objects._store, f"uploads/{upload_id}", zipped(ONE))

    under_way, deleted = [await world.uploads.begin(world.actor, world.model.id, "model.zip") for _ in range(2)]
    for begun in (under_way, deleted):
        await send(begun.model_version_id)
    async with world.database.write() as session:
        await session.delete(await session.get_one(ModelVersion, deleted.model_version_id))
    assert (await GarbageCollector(world.database, world.objects).collect(utc_now())).uploads == 0
    assert (await collect(world, dry_run=True)).uploads == 1
    assert (await collect(world)).uploads == 1
    assert await names(world.objects.uploads()) == {under_way.model_version_id}
    finished = await world.uploads.finish(world.actor, under_way.model_version_id, under_way.filepath)
    await send(finished.id)  # sent again to an address that is still valid
    assert (await collect(world)).uploads == 1


async def test_bytes_that_come_again_while_they_are_being_freed_stay(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collection has seen that nothing names them, and that they are old; then the same model is uploaded."""
    monkeypatch.setattr("artifacts.store.FRESH_FOR", timedelta(0))
    await remove(world, await world.version(ONE))
    await asyncio.sleep(2.5)  # servers tell whole seconds
    again: list[ModelVersion] = []
    listing = world.objects.blobs

    async def interrupted() -> AsyncIterator[StoredObject]:
        seen = [blob async for blob in listing()]
        again.append(await world.version(ONE))
        for blob in seen:
            yield blob

    world.objects.blobs = interrupted  # type: ignore[method-assign]
    collected = await GarbageCollector(world.database, world.objects).collect(utc_now(), grace=timedelta(seconds=1))
    assert collected.blobs == 0
    for sha256 in await blobs_of(world, again[0]):
        assert await world.objects.length(sha256) > 0


# --- When it is made --------------------------------------------------------------------------------------------------


async def test_nothing_is_freed_while_the_edges_are_behind(world: World) -> None:
    await remove(world, await world.version(ONE))
    async with world.database.write() as session:
        session.add(OutboxRow(environment_id=world.prod.id, revision=99))
    with pytest.raises(Conflict, match="1 changes have yet to be told"):
        await collect(world)
    assert len(await names(world.objects.blobs())) == 3


async def test_it_runs_by_itself_and_goes_on_after_it_was_kept_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "FIRST_AFTER_SECONDS", 0.01)
    monkeypatch.setattr(garbage, "AGAIN_AFTER_SECONDS", 0.01)
    async with open_world(tmp_path) as world:
        version = await world.version(ONE)
        await remove(world, version)
        for path in (tmp_path / "objects").rglob("*"):
            os.utime(path, (0, 0))
        async with world.database.write() as session:
            session.add(OutboxRow(environment_id=world.prod.id, revision=99))
        running = asyncio.create_task(GarbageCollector(world.database, world.objects).run())
        await asyncio.sleep(0.2)
        assert await world.objects.length(version.artifact_sha256 or "") > 0
        async with world.database.write() as session:
            await session.execute(delete(OutboxRow))
        for _ in range(1000):
            if not await names(world.objects.blobs()):
                break
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(BlobMissing):
            await world.objects.length(version.artifact_sha256 or "")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # the command is what is tested
def test_an_operator_can_have_it_done_at_once(api: Api) -> None:
    org = f"/v2/organizations/{ORGANIZATION}"
    api.post(f"{org}/apps", {"name": "app", "bundle_id": "a.b", "platform": "ios"})
    model = api.post(f"{org}/apps/app/models", {"name": "m"})["name"]
    path = f"{org}/apps/app/models/{model}"
    version = api.upload(path, os.urandom(5000), "m.bin")
    stored = api.folder / "data" / "objects" / "blobs" / version["upload_sha256"][:2] / version["upload_sha256"]
    api.delete(f"{path}/model_versions/1")
    os.utime(stored, (0, 0))
    for wrong in ("5", "nan", "1e30", "-1"):
        refused = api.command("collect-garbage", "--older-than", wrong)
        assert (refused.returncode, "--older-than must be from 6" in refused.stderr) == (1, True)
    counted = api.command("collect-garbage", "--older-than", "6", "--dry-run")
    expected = {"blobs": 1, "uploads": 0, "bytes": 5000, "dry_run": True}
    assert (counted.returncode, json.loads(counted.stdout)) == (0, expected), counted.stderr
    assert stored.exists()
    collected = api.command("collect-garbage")
    assert json.loads(collected.stdout) == expected | {"dry_run": False}, collected.stderr
    assert not stored.exists()
