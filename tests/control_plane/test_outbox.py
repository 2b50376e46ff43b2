"""Telling the edges: at once when Redis answers, later when it does not, all of it again when it was emptied."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from control_plane import outbox
from control_plane.outbox import COMPARE_EVERY, RETELL_WITHDRAWN_FOR
from control_plane.repository import queue
from control_plane.tables import Environment, EnvironmentKey, WithdrawnKey, utc_now
from edge.manifest_cache import ManifestCache
from edge.manifest_feed import ManifestFeed
from manifests.redis_client import connect_redis
from manifests.redis_store import RedisManifestStore
from manifests.store import WITHDRAWN, Publication
from tests.control_plane.databases import fresh_database
from tests.control_plane.world import World, open_world
from tests.servers.redis import RedisServer, redis_server

__all__ = ["fresh_database", "redis_server"]


@pytest.fixture
async def world(tmp_path: Path, fresh_database: str, redis_server: RedisServer) -> AsyncIterator[World]:
    client = connect_redis(redis_server.url, timeout_seconds=1)
    async with open_world(tmp_path, fresh_database, store=RedisManifestStore(client)) as world:
        yield world
    await client.aclose()


async def deploy(world: World) -> None:
    await world.version({"weights": b"one"})
    await world.publisher.deploy(world.actor, world.prod.id, world.model.id, "latest")


async def test_a_deploy_reaches_redis_before_it_answers(world: World) -> None:
    await deploy(world)
    await world.assert_published()


async def test_a_deploy_succeeds_while_redis_is_down_and_is_delivered_afterwards(
    world: World, redis_server: RedisServer
) -> None:
    redis_server.stop()
    await deploy(world)
    assert [row.revision for row in await world.outbox()] == [2]
    redis_server.start()
    await world.relay.step(utc_now())
    await world.assert_published()
    assert await world.outbox() == []


async def test_a_redis_that_hangs_delays_a_deploy_for_a_bounded_time_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(publication: Publication) -> bool:
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr(outbox, "DELIVERY_SECONDS", 0.1)
    with monkeypatch.context() as hanging:
        hanging.setattr(world.store, "publish", hang)
        await deploy(world)
    assert [row.revision for row in await world.outbox()] == [2]
    await world.relay.step(utc_now())
    await world.assert_published()


async def test_many_changes_during_an_outage_become_one_delivery_of_the_newest(
    world: World, redis_server: RedisServer
) -> None:
    redis_server.stop()
    for _ in range(3):
        await deploy(world)
    redis_server.start()
    await world.relay.step(utc_now())
    await world.assert_published()
    assert (await world.manifest()).revision == 4


async def test_an_emptied_redis_is_filled_again_with_every_environment(world: World, redis_server: RedisServer) -> None:
    await deploy(world)
    await world.relay.step(utc_now())
    await flush(redis_server)
    await world.relay.step(utc_now())
    await world.assert_published(world.dev)
    await world.assert_published(world.prod)
    assert await world.store.generation() is not None


async def test_a_redis_that_is_emptied_within_a_publication_while_it_is_filled_is_filled_again(
    world: World, redis_server: RedisServer
) -> None:
    """What is left of that publication is its revision, by which it looks as if it were there."""
    await deploy(world)
    await world.relay.step(utc_now())
    await flush(redis_server)
    client: Any = vars(world.store)["_client"]
    add, emptied = client.zadd, list[bool]()

    async def zadd(*arguments: object, **options: object) -> object:
        if not emptied:
            emptied.append(True)
            await flush(redis_server)
        return await add(*arguments, **options)

    client.zadd = zadd
    await world.relay.step(utc_now())
    assert emptied
    assert await world.store.generation() is None
    await world.relay.step(utc_now())
    await world.assert_published(world.dev)
    await world.assert_published(world.prod)


async def test_a_full_redis_is_not_written_again(world: World) -> None:
    await world.relay.step(utc_now())
    writes: list[Publication] = []
    publish = world.store.publish

    async def counted(publication: Publication) -> bool:
        writes.append(publication)
        return await publish(publication)

    world.store.publish = counted  # type: ignore[method-assign]
    await world.relay.step(utc_now())
    await world.relay.step(utc_now() + COMPARE_EVERY)
    assert writes == []


async def test_an_environment_that_redis_lost_alone_is_found_by_comparing_revisions(
    world: World, redis_server: RedisServer
) -> None:
    await deploy(world)
    await world.relay.step(utc_now())
    key = (await world.keys())[0].key
    client = connect_redis(redis_server.url)
    await client.delete(f"skafos:environment:{key}")
    await client.zrem("skafos:revisions", key)
    await client.aclose()
    await world.relay.step(utc_now() + COMPARE_EVERY)
    await world.assert_published()


async def test_an_older_revision_in_redis_is_found_by_comparing_revisions(
    world: World, redis_server: RedisServer
) -> None:
    """As after a failover to a replica that had not yet heard of the last change."""
    key = (await world.keys())[0].key
    older = await world.store.load(key)
    assert isinstance(older, Publication)
    await world.relay.step(utc_now())
    await deploy(world)
    client = connect_redis(redis_server.url)
    await client.delete(f"skafos:environment:{key}")
    await client.zrem("skafos:revisions", key)
    await client.aclose()
    assert await world.store.publish(older)
    assert (await world.store.revisions())[key] == older.revision < (await world.manifest()).revision
    await world.relay.step(utc_now() + COMPARE_EVERY)
    await world.assert_published()


async def test_a_key_whose_time_is_over_is_withdrawn_once(world: World) -> None:
    (key,) = await world.keys()
    await world.relay.step(utc_now())
    async with world.database.write() as session:
        await session.execute(update(EnvironmentKey).where(EnvironmentKey.id == key.id).values(expires_at=utc_now()))
    later = utc_now() + timedelta(seconds=1)
    await world.relay.step(later)
    assert await world.store.load(key.key) is WITHDRAWN
    told = (await world.keys())[0].withdrawn_at
    assert told is not None
    await world.relay.step(later)
    assert (await world.keys())[0].withdrawn_at == told


async def test_the_keys_of_a_deleted_environment_are_withdrawn(world: World) -> None:
    (key,) = await world.keys()
    async with world.database.write() as session:
        await world.publisher.close_environment(session, world.prod.id)
        await session.delete(await session.get(Environment, world.prod.id))
    await world.relay.step(utc_now())
    assert await world.store.load(key.key) is WITHDRAWN
    assert await world.outbox() == []


async def test_a_key_stays_withdrawn_after_redis_was_emptied(world: World, redis_server: RedisServer) -> None:
    (old,) = await world.keys()
    new = await world.publisher.add_key(world.actor, world.prod.id, timedelta(days=1))
    await world.publisher.revoke_key(world.actor, old.id)
    assert await world.store.load(old.key) is WITHDRAWN
    await flush(redis_server)
    await world.relay.step(utc_now())
    assert await world.store.load(old.key) is WITHDRAWN
    assert isinstance(await world.store.load(new.key), Publication)


async def test_an_edge_that_was_cut_off_is_told_of_a_deleted_environment_after_redis_was_emptied(
    world: World, redis_server: RedisServer
) -> None:
    (key,) = await world.keys()
    kept = (await world.keys(world.dev))[0].key
    cache = ManifestCache()
    edge = ManifestFeed(world.store, cache, poll_seconds=3600)
    await world.relay.step(utc_now())
    assert await edge.synchronize()
    async with world.database.write() as session:
        await world.publisher.close_environment(session, world.prod.id)
        await session.delete(await session.get(Environment, world.prod.id))
    await world.relay.step(utc_now())
    await flush(redis_server)
    await world.relay.step(utc_now())
    assert cache.get(key.key) is not None
    assert await edge.synchronize()
    assert cache.get(key.key) is None
    assert cache.get(kept) is not None


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_late_publication_under_an_ended_key_is_withdrawn_when_revisions_are_compared(
    world: World, redis_server: RedisServer, deleted: bool
) -> None:
    (key,) = await world.keys()
    late = await world.store.load(key.key)
    assert isinstance(late, Publication)
    if deleted:
        async with world.database.write() as session:
            await world.publisher.close_environment(session, world.prod.id)
            await session.delete(await session.get(Environment, world.prod.id))
    else:
        await world.publisher.add_key(world.actor, world.prod.id, timedelta(days=1))
        await world.publisher.revoke_key(world.actor, key.id)
    await flush(redis_server)
    await world.store.set_generation("filled")
    assert await world.store.publish(late)
    await world.relay.step(utc_now() + COMPARE_EVERY)
    assert await world.store.load(key.key) is WITHDRAWN


async def test_keys_of_deleted_environments_are_forgotten_in_time(world: World) -> None:
    async with world.database.write() as session:
        session.add(WithdrawnKey(key="old", revision=1, withdrawn_at=utc_now() - 2 * RETELL_WITHDRAWN_FOR))
    async with world.database.write() as session:
        await world.publisher.close_environment(session, world.prod.id)
        await session.delete(await session.get(Environment, world.prod.id))
    async with world.database.read() as session:
        kept = await session.scalars(select(WithdrawnKey.key))
        assert "old" not in list(kept)


async def test_one_environment_that_cannot_be_published_does_not_hold_up_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.relay.step(utc_now())
    publish = world.store.publish

    async def broken_for_dev(publication: Publication) -> bool:
        if publication.labels.environment == "dev":
            raise ValueError("too strange to be stored")
        return await publish(publication)

    monkeypatch.setattr(world.store, "publish", broken_for_dev)
    async with world.database.write() as session:
        for environment in (world.dev, world.prod):
            queue(session, environment.id, 1)
    await world.relay.step(utc_now())
    assert [(row.environment_id, row.attempts) for row in await world.outbox()] == [(world.dev.id, 1)]


async def flush(server: RedisServer) -> None:
    client = connect_redis(server.url)
    await client.flushall()
    await client.aclose()
