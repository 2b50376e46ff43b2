"""Uploads that finish at the same time, on both databases: every number once, every version once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control_plane.presign import Presigner
from control_plane.tables import ModelVersion
from control_plane.uploads import Begun, Uploads
from tests.control_plane.databases import fresh_database
from tests.control_plane.world import LIMITS, World, open_world, stage, zipped

__all__ = ["fresh_database"]

MODEL = {"weights": b"0123456789" * 3000, "labels.txt": b"cat\ndog\n"}


@pytest.fixture
async def world(tmp_path: Path, fresh_database: str) -> AsyncIterator[World]:
    async with open_world(tmp_path, fresh_database) as world:
        yield world


async def begin(world: World) -> Begun:
    return await world.uploads.begin(world.actor, world.model.id, "digits.zip")


async def finish(world: World, begun: Begun) -> ModelVersion:
    return await world.uploads.finish(world.actor, begun.model_version_id, begun.filepath)


async def test_uploads_finished_at_once_get_numbers_of_their_own(world: World) -> None:
    uploads = [await begin(world) for _ in range(4)]
    for begun in uploads:
        stage(world.staging, begun.model_version_id, zipped(MODEL))
    versions = await asyncio.gather(*(finish(world, begun) for begun in uploads))
    assert sorted(version.version or 0 for version in versions) == [1, 2, 3, 4]


async def test_two_that_finish_at_once_get_the_same_version(world: World) -> None:
    begun = await begin(world)
    stage(world.staging, begun.model_version_id, zipped(MODEL))
    versions = await asyncio.gather(*(finish(world, begun) for _ in range(5)))
    assert {version.version for version in versions} == {1}
    assert [entry.action for entry in await world.audit()].count("version.upload") == 1


async def test_two_control_planes_that_finish_the_same_upload_make_one_version(world: World, tmp_path: Path) -> None:
    begun = await begin(world)
    sent = tmp_path / "objects" / "uploads" / begun.model_version_id
    sent.parent.mkdir(parents=True)
    sent.write_bytes(zipped(MODEL))
    presigner = Presigner(bytes(32))
    other = Uploads(world.database, world.objects, tmp_path / "other", presigner, LIMITS, "http://other.test")
    versions = await asyncio.gather(
        finish(world, begun), other.finish(world.actor, begun.model_version_id, begun.filepath)
    )
    assert {version.version for version in versions} == {1}
    assert [entry.action for entry in await world.audit()].count("version.upload") == 1
