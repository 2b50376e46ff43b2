"""Deploying and rolling back: what is signed, recorded and told to the edges."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from control_plane.errors import Conflict, Invalid
from control_plane.offers import salt_of
from control_plane.tables import Deployment, Model, ModelVersion, new_id
from manifests.model import BUCKETS
from manifests.rollout import DeviceFacts, choose
from tests.control_plane.databases import fresh_database
from tests.control_plane.world import World, open_world

__all__ = ["fresh_database"]


@pytest.fixture
async def world(tmp_path: Path, fresh_database: str) -> AsyncIterator[World]:
    async with open_world(tmp_path, fresh_database) as world:
        yield world


async def deploy(world: World, version: int | str, percent: float = 100, **options: object) -> Deployment:
    return await world.publisher.deploy(
        world.actor,
        world.prod.id,
        world.model.id,
        version,  # type: ignore[arg-type]
        percent,
        **options,  # type: ignore[arg-type]
    )


async def roll_back(world: World) -> Deployment:
    return await world.publisher.roll_back(world.actor, world.prod.id, world.model.id)


async def versions(world: World, count: int) -> None:
    for number in range(1, count + 1):
        await world.version({"weights": b"version %d" % number})


async def offered(world: World) -> list[int]:
    return [release.version for release in await world.offered()]


async def test_a_new_environment_offers_nothing_and_the_edges_have_it(world: World) -> None:
    assert await world.offered() == []
    assert (await world.manifest()).revision == 1
    await world.assert_published()
    assert await world.outbox() == []


async def test_a_deployed_version_is_offered_with_its_encodings_and_its_rule(world: World) -> None:
    version = await world.version({"weights": bytes(50_000)})
    deployment = await deploy(world, 1)
    (release,) = await world.offered()
    assert (release.model, release.version, release.artifact) == ("digits", 1, version.artifact_sha256)
    assert release.length == version.artifact_length
    assert [encoding.name for encoding in release.encodings] == ["zstd", "identity"]
    assert release.rule.salt == salt_of(world.prod.id, version.id)
    assert release.rule.buckets == BUCKETS
    assert (deployment.kind, deployment.number, deployment.version, deployment.revision) == ("deploy", 1, 1, 2)


async def test_every_blob_that_a_manifest_names_is_in_the_object_store(world: World) -> None:
    await world.version({"weights": bytes(50_000)})
    await deploy(world, 1)
    for release in await world.offered():
        for encoding in release.encodings:
            assert await world.objects.length(encoding.blob) == encoding.length


async def test_when_deploy_answers_the_edges_have_the_manifest(world: World) -> None:
    await versions(world, 1)
    await deploy(world, 1)
    await world.assert_published()
    assert await world.outbox() == []


async def test_the_latest_version_is_the_one_with_the_highest_number(world: World) -> None:
    await versions(world, 3)
    assert (await deploy(world, "latest")).version == 3


async def test_a_full_deploy_replaces_and_a_partial_one_goes_on_top(world: World) -> None:
    await versions(world, 3)
    await deploy(world, 1)
    await deploy(world, 2, 25)
    assert await offered(world) == [2, 1]
    await deploy(world, 3)
    assert await offered(world) == [3]


async def test_raising_the_percentage_takes_the_version_away_from_nobody(world: World) -> None:
    await versions(world, 2)
    await deploy(world, 1)

    async def holders() -> set[str]:
        releases = await world.offered()
        devices = [f"device-{number}" for number in range(400)]
        chosen = {device: choose(releases, DeviceFacts(device)) for device in devices}
        return {device for device, release in chosen.items() if release is not None and release.version == 2}

    await deploy(world, 2, 20)
    some = await holders()
    await deploy(world, 2, 60)
    more = await holders()
    assert some < more


async def test_conditions_reach_the_device(world: World) -> None:
    await versions(world, 2)
    await deploy(world, 1)
    await deploy(world, 2, conditions={"os_version": {"min": "17"}})
    releases = await world.offered()
    old = choose(releases, DeviceFacts("d", os_version="16.7"))
    new = choose(releases, DeviceFacts("d", os_version="17.1"))
    assert old is not None
    assert new is not None
    assert (old.version, new.version) == (1, 2)


async def test_roll_backs_restore_what_was_offered_before_each_version(world: World) -> None:
    await versions(world, 3)
    await deploy(world, 1)
    await deploy(world, 2, 25)
    await deploy(world, 3)
    second = await roll_back(world)
    assert (second.kind, second.version, second.percent, second.restores) == ("rollback", 2, 25, 2)
    assert await offered(world) == [2, 1]
    first = await roll_back(world)
    assert (first.version, first.restores) == (1, 1)
    assert await offered(world) == [1]
    with pytest.raises(Conflict, match="nothing to roll back to"):
        await roll_back(world)
    await world.assert_published()


async def test_a_roll_back_takes_a_staged_rollout_back_as_a_whole(world: World) -> None:
    await versions(world, 2)
    await deploy(world, 1)
    for percent in (10, 50, 100):
        await deploy(world, 2, percent)
    back = await roll_back(world)
    assert (back.version, back.percent, back.restores) == (1, 100, 1)
    (release,) = await world.offered()
    assert (release.version, release.rule.buckets) == (1, BUCKETS)
    with pytest.raises(Conflict, match="nothing to roll back to"):
        await roll_back(world)
    await world.assert_published()


async def test_a_roll_back_leaves_what_other_builds_of_the_app_are_offered(world: World) -> None:
    await versions(world, 3)
    async with world.database.write() as session:
        second = update(ModelVersion).where(ModelVersion.model_id == world.model.id, ModelVersion.version == 3)
        await session.execute(second.values(interface="b" * 64))
    await deploy(world, 1)
    await deploy(world, 2, 10)
    await deploy(world, 3)
    await deploy(world, 2)
    back = await roll_back(world)
    assert (back.version, back.restores) == (3, 3)
    assert await offered(world) == [3, 1]


async def test_conditions_come_back_with_the_version(world: World) -> None:
    await versions(world, 3)
    await deploy(world, 1)
    await deploy(world, 2, 33.33, conditions={"os_version": {"min": "17"}})
    await deploy(world, 3)
    back = await roll_back(world)
    assert (back.percent, back.conditions) == (33.33, {"os_version": {"min": "17"}})
    releases = await world.offered()
    assert all(choose(releases, DeviceFacts(f"d{number}", os_version="16")) == releases[1] for number in range(50))


async def test_versions_that_were_deleted_long_since_do_not_hinder_a_roll_back(world: World) -> None:
    await versions(world, 3)
    for version in (1, 2, 3):
        await deploy(world, version)
    await roll_back(world)
    async with world.database.write() as session:
        third = await session.scalar(select(ModelVersion).where(ModelVersion.version == 3))
        await session.delete(third)
    assert (await roll_back(world)).version == 1


async def test_a_roll_back_makes_a_newer_revision_not_an_older_one(world: World) -> None:
    await versions(world, 2)
    await deploy(world, 1)
    before = (await deploy(world, 2)).revision
    assert (await roll_back(world)).revision == before + 1


async def test_a_roll_back_to_a_deleted_version_is_a_conflict_and_changes_nothing(world: World) -> None:
    await versions(world, 2)
    await deploy(world, 1)
    await deploy(world, 2)
    async with world.database.write() as session:
        first = await session.scalar(select(ModelVersion).where(ModelVersion.version == 1))
        await session.delete(first)
    with pytest.raises(Conflict, match="Version 1, which was offered then, has been deleted"):
        await roll_back(world)
    assert await offered(world) == [2]


async def test_models_and_environments_do_not_touch_each_other(world: World) -> None:
    await versions(world, 1)
    other = Model(application_id=world.application.id, name="faces")
    async with world.database.write() as session:
        session.add(other)
    await world.version({"weights": b"faces"}, other)
    await deploy(world, 1)
    await world.publisher.deploy(world.actor, world.prod.id, other.id, "latest")
    assert [(release.model, release.version) for release in await world.offered()] == [("digits", 1), ("faces", 1)]
    assert await world.offered(world.dev) == []


async def test_the_audit_log_tells_who_deployed_what_where(world: World) -> None:
    await versions(world, 2)
    await deploy(world, 1, 50)
    await deploy(world, 2)
    await roll_back(world)
    entries = [entry for entry in await world.audit() if entry.action.startswith("version.")][2:]
    assert [(entry.action, entry.target) for entry in entries] == [
        ("version.deploy", "Camera/digits/1"),
        ("version.deploy", "Camera/digits/2"),
        ("version.rollback", "Camera/digits/1"),
    ]
    assert {entry.actor for entry in entries} == {"ada@example.com"}
    assert entries[0].detail == {
        "environment": "prod",
        "percent": 50.0,
        "conditions": {},
        "deployment": 1,
        "revision": 2,
    }
    assert entries[0].organization_id == world.organization.id


async def test_a_version_that_does_not_exist_is_invalid(world: World) -> None:
    with pytest.raises(Invalid, match="has no version yet"):
        await deploy(world, "latest")
    await versions(world, 1)
    with pytest.raises(Invalid, match="The model has no version 7"):
        await deploy(world, 7)


async def test_a_version_whose_upload_never_finished_cannot_be_deployed(world: World) -> None:
    await world.uploads.begin(world.actor, world.model.id, "model.zip")
    with pytest.raises(Invalid):
        await deploy(world, "latest")
    assert (await world.manifest()).revision == 1


async def test_an_environment_that_does_not_exist_is_invalid(world: World) -> None:
    await versions(world, 1)
    with pytest.raises(Invalid, match="no such environment"):
        await world.publisher.deploy(world.actor, new_id(), world.model.id, 1)


async def test_a_model_of_another_application_is_invalid(world: World) -> None:
    with pytest.raises(Invalid, match="no such model"):
        await world.publisher.deploy(world.actor, world.prod.id, new_id(), 1)


@pytest.mark.parametrize(
    ("percent", "conditions"),
    [(0, {}), (100.5, {}), (50, {"shoe_size": {"min": "42"}}), (50, {"os_version": {"min": 17}})],
)
async def test_a_malformed_rule_is_refused_and_changes_nothing(
    world: World, percent: float, conditions: dict[str, object]
) -> None:
    await versions(world, 1)
    with pytest.raises(Invalid):
        await deploy(world, 1, percent, conditions=conditions)
    assert (await world.manifest()).revision == 1
    assert await world.outbox() == []


async def test_the_same_bytes_uploaded_again_are_another_version_of_the_same_artifact(world: World) -> None:
    first = await world.version({"weights": b"same"})
    second = await world.version({"weights": b"same"})
    assert (first.version, second.version) == (1, 2)
    assert first.artifact_sha256 == second.artifact_sha256
    await deploy(world, 1)
    await deploy(world, 2, 10)
    assert [release.artifact for release in await world.offered()] == [first.artifact_sha256] * 2


async def test_deploys_at_once_come_in_one_order_for_manifest_history_and_audit_log(world: World) -> None:
    await versions(world, 6)
    deployments = await asyncio.gather(*(deploy(world, number) for number in range(1, 7)))
    in_order = sorted(deployments, key=lambda deployment: deployment.revision)
    assert [deployment.revision for deployment in in_order] == list(range(2, 8))
    assert [deployment.number for deployment in in_order] == list(range(1, 7))
    assert await offered(world) == [in_order[-1].version]
    entries = [entry for entry in await world.audit() if entry.action == "version.deploy"]
    assert [entry.detail["revision"] for entry in entries] == list(range(2, 8))
    assert [entry.target for entry in entries] == [f"Camera/digits/{each.version}" for each in in_order]
    await world.assert_published()


async def test_publishing_again_what_has_not_changed_makes_no_new_manifest(world: World) -> None:
    await versions(world, 1)
    await deploy(world, 1)
    before = await world.offered()
    assert not await world.publisher.republish(world.prod.id)
    assert await world.offered() == before
    assert (await world.manifest()).revision == 2
    await world.assert_published()


async def test_what_was_uploaded_comes_back_as_it_was(world: World) -> None:
    data = os.urandom(5000)
    version = await world.version(data)
    assert version.upload_sha256 is not None
    assert b"".join([chunk async for chunk in world.objects.stream(version.upload_sha256)]) == data
