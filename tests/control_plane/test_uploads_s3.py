"""Uploads that go past us: to the presigned URL of a real S3 server, then fetched, checked and forgotten there."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import ClientSession

from artifacts.errors import BlobMissing
from artifacts.store import ObjectStore, open_store
from control_plane.errors import Conflict, Invalid, TooLarge
from control_plane.presign import Presigner
from control_plane.tables import ModelVersion
from control_plane.uploads import Begun, Uploads
from tests.control_plane.world import LIMITS, World, open_world, zipped
from tests.servers.s3 import S3Server, s3

__all__ = ["s3"]

MODEL = {"weights": b"0123456789" * 3000}


@dataclass(frozen=True)
class Cloud:
    """A control plane whose blobs and uploads are in S3."""

    world: World
    objects: ObjectStore
    uploads: Uploads

    async def begin(self) -> Begun:
        return await self.uploads.begin(self.world.actor, self.world.model.id, "digits.zip")

    async def finish(self, begun: Begun) -> ModelVersion:
        return await self.uploads.finish(self.world.actor, begun.model_version_id, begun.filepath)


@pytest.fixture
async def cloud(tmp_path: Path, s3: S3Server) -> AsyncIterator[Cloud]:
    async with open_world(tmp_path) as world:
        objects = open_store(s3.url, s3.options)
        uploads = Uploads(world.database, objects, tmp_path / "s3", Presigner(bytes(32)), LIMITS, "http://control.test")
        yield Cloud(world, objects, uploads)


async def put(url: str, data: bytes) -> int:
    headers = {"Content-Type": "application/octet-stream"}
    async with ClientSession() as client, client.put(url, data=data, headers=headers) as answer:
        return answer.status


async def test_an_upload_goes_straight_to_the_object_store_and_becomes_a_version(cloud: Cloud) -> None:
    begun = await cloud.begin()
    data = zipped(MODEL)
    assert await put(begun.presigned_url, data) == 200
    version = await cloud.finish(begun)
    assert version.upload_sha256 == hashlib.sha256(data).hexdigest()
    assert b"".join([chunk async for chunk in cloud.objects.stream(version.upload_sha256)]) == data
    with pytest.raises(BlobMissing):
        await cloud.objects.upload_length(begun.model_version_id)


async def test_two_that_finish_at_once_get_the_same_version(cloud: Cloud) -> None:
    begun = await cloud.begin()
    await put(begun.presigned_url, zipped(MODEL))
    versions = await asyncio.gather(*(cloud.finish(begun) for _ in range(3)))
    assert {version.version for version in versions} == {1}


async def test_an_upload_that_never_came_cannot_be_finished(cloud: Cloud) -> None:
    with pytest.raises(Conflict, match="not complete"):
        await cloud.finish(await cloud.begin())


async def test_an_upload_that_is_too_large_is_refused_before_it_is_fetched(cloud: Cloud) -> None:
    begun = await cloud.begin()
    await put(begun.presigned_url, bytes(LIMITS.max_upload_bytes + 1))
    with pytest.raises(TooLarge):
        await cloud.finish(begun)
    with pytest.raises(BlobMissing):
        await cloud.objects.upload_length(begun.model_version_id)


async def test_a_refused_upload_is_removed_from_the_object_store(cloud: Cloud) -> None:
    begun = await cloud.begin()
    await put(begun.presigned_url, zipped({"../escape": b"x"}))
    with pytest.raises(Invalid):
        await cloud.finish(begun)
    with pytest.raises(BlobMissing):
        await cloud.objects.upload_length(begun.model_version_id)


async def test_an_altered_url_is_refused_by_the_object_store(cloud: Cloud) -> None:
    begun = await cloud.begin()
    assert await put(begun.presigned_url[:-4] + "0000", zipped(MODEL)) == 403
