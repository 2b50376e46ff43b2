"""A new name of an application or an organization reaches edges that run: Redis, the edge's feed and cache are real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from control_plane import resign
from control_plane.api.applications import change_application
from control_plane.api.organizations import change_organization
from control_plane.api.schemas import ApplicationChange, OrganizationChange
from control_plane.resign import Resigner
from control_plane.tables import Member, utc_now
from edge.manifest_cache import ManifestCache
from edge.manifest_feed import ManifestFeed
from manifests.redis_client import connect_redis
from manifests.redis_store import RedisManifestStore
from manifests.store import Labels
from manifests.trust import Lifetimes
from tests.control_plane.calls import call_in
from tests.control_plane.databases import fresh_database, migrated_postgres
from tests.control_plane.world import World, open_world, stop
from tests.servers.postgres import postgres_server
from tests.servers.redis import RedisServer, redis_server

__all__ = ["fresh_database", "migrated_postgres", "postgres_server", "redis_server"]

WAIT_SECONDS = 60.0
# So long that nothing here arrives by a poll.
POLL_SECONDS = 3600.0


@pytest.fixture
async def world(tmp_path: Path, fresh_database: str, redis_server: RedisServer) -> AsyncIterator[World]:
    client = connect_redis(redis_server.url, timeout_seconds=5)
    async with open_world(tmp_path, fresh_database, store=RedisManifestStore(client)) as world:
        await world.version({"weights": b"one"})
        await world.publisher.deploy(world.actor, world.prod.id, world.model.id, 1)
        async with world.database.write() as session:
            session.add(Member(organization_id=world.organization.id, user_id=world.actor.user_id or "", role="owner"))
        yield world
    await client.aclose()


@asynccontextmanager
async def running_edge(world: World, redis_server: RedisServer) -> AsyncIterator[ManifestCache]:
    """Run an edge's feed and the control plane's signing while the block lasts."""
    client = connect_redis(redis_server.url, timeout_seconds=5)
    cache = ManifestCache()
    feed = ManifestFeed(RedisManifestStore(client), cache, POLL_SECONDS)
    resigner = Resigner(world.database, world.publisher, Lifetimes())
    tasks = [asyncio.create_task(feed.follow()), asyncio.create_task(resigner.run())]
    try:
        yield cache
    finally:
        for task in tasks:
            await stop(task)
        await client.aclose()


async def labels_when(cache: ManifestCache, key: str, field: str, name: str) -> Labels:
    """Return the labels that the edge has of a key, once one of them is what it should be."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            environment = cache.get(key)
            if environment is not None and getattr(environment.labels, field) == name:
                return environment.labels
            await asyncio.sleep(0.02)


async def test_the_new_name_of_an_application_reaches_a_running_edge(world: World, redis_server: RedisServer) -> None:
    key = (await world.keys())[0].key
    async with running_edge(world, redis_server) as cache:
        await labels_when(cache, key, "application", "Camera")
        before = cache.revision(key)
        await change_application(call_in(world, app="Camera"), ApplicationChange(name="Kamera"))
        labels = await labels_when(cache, key, "application", "Kamera")
        assert (labels.organization, labels.environment) == ("Example", "prod")
        assert cache.revision(key) == before + 1
    assert [(release.model, release.version) for release in await world.offered()] == [("digits", 1)]
    await world.assert_published()


async def test_the_new_name_of_an_organization_reaches_a_running_edge_for_every_environment(
    world: World, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resign, "BATCH", 1)  # so that signing one is no reason to pause
    monkeypatch.setattr(resign, "CHECK_SECONDS", POLL_SECONDS)
    keys = [(await world.keys(environment))[0].key for environment in (world.dev, world.prod)]
    async with running_edge(world, redis_server) as cache:
        for key in keys:
            await labels_when(cache, key, "organization", "Example")
        await change_organization(call_in(world), OrganizationChange(name="Ejemplo"))
        for key in keys:
            labels = await labels_when(cache, key, "organization", "Ejemplo")
            assert labels.application == "Camera"


async def test_a_name_that_was_given_while_nobody_signed_reaches_the_edge_later(
    world: World, redis_server: RedisServer
) -> None:
    key = (await world.keys())[0].key
    await change_application(call_in(world, app="Camera"), ApplicationChange(name="Kamera"))
    world.publisher.signing_due.clear()  # as in a control plane that was started since
    async with running_edge(world, redis_server) as cache:
        await labels_when(cache, key, "application", "Kamera")
        assert cache.revision(key) == (await world.manifest()).revision


async def test_other_changes_of_an_application_sign_nothing(world: World) -> None:
    before = (await world.manifest()).revision
    change = ApplicationChange(name="Camera", bundle_id="com.example.other")
    await change_application(call_in(world, app="Camera"), change)
    await change_organization(call_in(world), OrganizationChange(name="Example"))
    assert not world.publisher.signing_due.is_set()
    assert await Resigner(world.database, world.publisher, Lifetimes()).step(utc_now()) == 0
    assert (await world.manifest()).revision == before
