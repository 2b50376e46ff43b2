"""Publishing through outages, with the relay's loop running as it does in the control plane: whatever happens to Redis,
what the database says reaches it in the end, and a newer revision is never replaced by an older one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from control_plane import outbox
from control_plane.outbox import OutboxRelay
from manifests.redis_client import connect_redis
from manifests.redis_store import RedisManifestStore
from manifests.store import ManifestStore, Notice, Publication, StoreUnavailable
from tests.control_plane.databases import fresh_database, migrated_postgres
from tests.control_plane.world import World, open_world, stop
from tests.servers.postgres import postgres_server
from tests.servers.redis import RedisServer, redis_server

__all__ = ["fresh_database", "migrated_postgres", "postgres_server", "redis_server"]

WAIT_SECONDS = 60.0


@pytest.fixture
async def world(tmp_path: Path, fresh_database: str, redis_server: RedisServer) -> AsyncIterator[World]:
    client = connect_redis(redis_server.url, timeout_seconds=1)
    async with open_world(tmp_path, fresh_database, store=RedisManifestStore(client)) as world:
        await world.version({"weights": b"one"})
        await world.version({"weights": b"two"})
        yield world
    await client.aclose()


@pytest.fixture(autouse=True)
def quick_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rounds follow quickly; nothing here depends on how long they take."""
    monkeypatch.setattr(outbox, "TICK_SECONDS", 0.1)
    monkeypatch.setattr(outbox, "MAX_PAUSE_SECONDS", 0.2)


@asynccontextmanager
async def running(relay: OutboxRelay) -> AsyncIterator[None]:
    """Run the relay's loop while the block runs."""
    task = asyncio.create_task(relay.run())
    try:
        yield
    finally:
        await stop(task)


async def deploy(world: World, version: int) -> int:
    deployment = await world.publisher.deploy(world.actor, world.prod.id, world.model.id, version)
    return deployment.revision


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until ``condition`` holds, for a bounded time."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not await condition():  # noqa: ASYNC110 - what is waited for happens elsewhere
            await asyncio.sleep(0.05)


async def held(world: World) -> int:
    """Return the revision that Redis has of the prod environment; 0 while it has none, or does not answer."""
    key = (await world.keys())[0].key
    with suppress(StoreUnavailable):
        publication = await world.store.load(key)
        return publication.revision if isinstance(publication, Publication) else 0
    return 0


async def flush(server: RedisServer) -> None:
    client = connect_redis(server.url)
    await client.flushall()
    await client.aclose()


async def test_after_flushall_everything_is_published_again(world: World, redis_server: RedisServer) -> None:
    async with running(world.relay):
        revision = await deploy(world, 1)
        await until(lambda: marked(world.store))
        await flush(redis_server)
        assert await held(world) in (0, revision)
        await until(lambda: marked(world.store))
        await world.assert_published(world.prod)
        await world.assert_published(world.dev)


async def marked(store: ManifestStore) -> bool:
    return await store.generation() is not None


async def is_published(world: World) -> bool:
    try:
        await world.assert_published(world.dev)
    except AssertionError:
        return False
    return True


async def test_flushall_in_the_middle_of_deploys_loses_none_of_them(world: World, redis_server: RedisServer) -> None:
    async with running(world.relay):
        for number in range(6):
            revision = await deploy(world, 1 + number % 2)
            await flush(redis_server)
        await until(lambda: holds(world, revision))
        await until(lambda: marked(world.store))
        # What was emptied again before the mark was set is found by the comparison that follows.
        await until(lambda: is_published(world))


async def holds(world: World, revision: int) -> bool:
    return await held(world) == revision


async def test_a_redis_that_was_stopped_and_comes_back_empty_is_filled(world: World, redis_server: RedisServer) -> None:
    async with running(world.relay):
        await deploy(world, 1)
        redis_server.stop()
        revision = await deploy(world, 2)
        assert [row.revision for row in await world.outbox()] == [revision]
        redis_server.start()
        await until(lambda: holds(world, revision))
        await until(lambda: marked(world.store))
        await until(lambda: delivered(world))
        await world.assert_published(world.dev)


async def delivered(world: World) -> bool:
    return await world.outbox() == []


async def test_a_redis_that_is_killed_again_and_again_has_the_newest_manifest_in_the_end(
    world: World, redis_server: RedisServer
) -> None:
    async with running(world.relay):
        for number in range(4):
            redis_server.kill()
            revision = await deploy(world, 1 + number % 2)
            redis_server.start()
        await until(lambda: holds(world, revision))
        await until(lambda: delivered(world))


async def test_what_a_control_plane_that_died_left_undelivered_the_next_one_delivers(
    world: World, redis_server: RedisServer
) -> None:
    redis_server.stop()
    revision = await deploy(world, 1)
    redis_server.start()
    async with running(OutboxRelay(world.database, world.store)):
        await until(lambda: holds(world, revision))
        await until(lambda: delivered(world))


async def test_two_control_planes_that_publish_at_once_leave_the_newest_revision_everywhere(
    world: World, redis_server: RedisServer
) -> None:
    other = OutboxRelay(world.database, world.store)
    async with running(world.relay), running(other):
        await asyncio.gather(*(deploy(world, 1 + number % 2) for number in range(6)))
        await until(lambda: delivered(world))
        await world.assert_published(world.prod)
        assert (await world.manifest()).revision == 7


async def test_an_edge_that_follows_the_notices_never_sees_a_revision_go_back(
    world: World, redis_server: RedisServer
) -> None:
    edge = connect_redis(redis_server.url)
    store = RedisManifestStore(edge)
    key = (await world.keys())[0].key
    seen: list[int] = []

    async def follow() -> None:
        async for notice in store.notices():
            if not isinstance(notice, Notice) or notice.key == key:
                publication = await store.load(key)
                if isinstance(publication, Publication):
                    seen.append(publication.revision)

    following = asyncio.create_task(follow())
    async with running(world.relay):
        for number in range(5):
            revision = await deploy(world, 1 + number % 2)
        await until(lambda: saw(seen, revision))
    await stop(following)
    await edge.aclose()
    assert seen == sorted(seen)


async def saw(seen: list[int], revision: int) -> bool:
    return bool(seen) and seen[-1] == revision
