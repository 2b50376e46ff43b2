"""Manifests in Redis when things go wrong: outages, dead connections, lost data, strange data."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from manifests.redis_client import connect_redis
from manifests.redis_store import (
    ENVIRONMENT_PREFIX,
    NOTICES,
    REVISIONS,
    TOMBSTONE_SECONDS,
    WITHDRAWN_KEYS,
    RedisManifestStore,
)
from manifests.store import (
    WITHDRAWN,
    CorruptPublication,
    Labels,
    Notice,
    Publication,
    Resubscribed,
    StoreUnavailable,
)
from tests.servers.redis import RedisServer, running_redis

PATIENCE_SECONDS = 20.0
# Short enough that a dead connection is found within a test.
IDLE_SECONDS = 0.2


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Any]:
    client = connect_redis(server.url, 1.0)
    yield client
    await client.aclose()


@pytest.fixture
def store(client: Any) -> RedisManifestStore:
    return RedisManifestStore(client, idle_seconds=IDLE_SECONDS)


def publication(key: str = "prod-1", revision: int = 1) -> Publication:
    return Publication(key, revision, b"{}", '"tag"', {"timestamp.json": b"{}"}, Labels(*"abcdef"))


Next = Callable[[], Coroutine[Any, Any, Notice | Resubscribed]]


@asynccontextmanager
async def listening(store: RedisManifestStore) -> AsyncIterator[Next]:
    """Give a function that waits for the next notice; the first has been read when the block begins."""
    notices: Any = store.notices()

    async def following() -> Notice | Resubscribed:
        notice: Notice | Resubscribed = await asyncio.wait_for(anext(notices), PATIENCE_SECONDS)
        return notice

    async with aclosing(notices):
        assert await following() == Resubscribed()
        yield following


# --- Outages ---


async def test_a_listener_survives_a_server_that_is_killed_and_started_again(
    server: RedisServer, store: RedisManifestStore
) -> None:
    async with listening(store) as following:
        server.kill()
        waiting = asyncio.create_task(following())
        await asyncio.sleep(1.0)
        assert not waiting.done()
        server.start()
        assert await waiting == Resubscribed()
        await store.publish(publication())
        assert await following() == Notice("prod-1", 1)


async def test_a_listener_is_told_to_read_again_after_notices_were_lost(
    server: RedisServer, store: RedisManifestStore
) -> None:
    async with listening(store) as following:
        server.kill()
        server.start()
        await store.publish(publication())
        assert await following() == Resubscribed()
        assert await store.revisions() == {"prod-1": 1}


async def test_a_listener_whose_connection_is_cut_subscribes_again(client: Any, store: RedisManifestStore) -> None:
    async with listening(store) as following:
        await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert await following() == Resubscribed()
        await store.publish(publication())
        assert await following() == Notice("prod-1", 1)


async def test_a_listener_whose_connection_is_dead_but_open_subscribes_again(
    server: RedisServer, store: RedisManifestStore
) -> None:
    async with listening(store) as following:
        os.kill(server.pid, signal.SIGSTOP)
        waiting = asyncio.create_task(following())
        await asyncio.sleep(1.0)
        os.kill(server.pid, signal.SIGCONT)
        assert await waiting == Resubscribed()


async def test_a_quiet_but_living_connection_is_kept(store: RedisManifestStore) -> None:
    async with listening(store) as following:
        waiting = asyncio.create_task(following())
        await asyncio.sleep(5 * IDLE_SECONDS)
        assert not waiting.done()
        await store.publish(publication())
        assert await waiting == Notice("prod-1", 1)


async def test_a_listener_may_come_before_the_server(server: RedisServer, store: RedisManifestStore) -> None:
    server.stop()
    starting = asyncio.create_task(first_of(store))
    await asyncio.sleep(0.5)
    server.start()
    assert await starting == Resubscribed()


async def first_of(store: RedisManifestStore) -> Notice | Resubscribed:
    async with listening(store):
        return Resubscribed()


OPERATIONS: dict[str, Callable[[RedisManifestStore], Coroutine[Any, Any, object]]] = {
    "publish": lambda store: store.publish(publication()),
    "withdraw": lambda store: store.withdraw("prod-1", 1),
    "load": lambda store: store.load("prod-1"),
    "revisions": lambda store: store.revisions(),
    "generation": lambda store: store.generation(),
    "set_generation": lambda store: store.set_generation("1"),
    "begin_filling": lambda store: store.begin_filling("1"),
    "end_filling": lambda store: store.end_filling("1"),
    "ping": lambda store: store.ping(),
}


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_without_a_server_it_is_unavailable_and_works_again_later(
    server: RedisServer, store: RedisManifestStore, operation: str
) -> None:
    await store.ping()
    server.kill()
    with pytest.raises(StoreUnavailable):
        await OPERATIONS[operation](store)
    server.start()
    await OPERATIONS[operation](store)


async def test_a_server_that_does_not_answer_is_unavailable_after_the_time_limit(
    server: RedisServer, store: RedisManifestStore
) -> None:
    await store.ping()
    os.kill(server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(store.load("prod-1"), PATIENCE_SECONDS)
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def test_a_full_server_is_unavailable_and_keeps_what_it_has(client: Any, store: RedisManifestStore) -> None:
    await store.publish(publication())
    await client.config_set("maxmemory", "1")
    with pytest.raises(StoreUnavailable):
        await store.publish(publication(revision=2))
    await client.config_set("maxmemory", "0")
    assert await store.load("prod-1") == publication()
    assert await store.revisions() == {"prod-1": 1}


async def test_an_emptied_server_shows_it_and_is_filled_again(client: Any, store: RedisManifestStore) -> None:
    await store.publish(publication())
    await store.set_generation("1")
    await client.flushall()
    assert (await store.generation(), await store.load("prod-1"), await store.revisions()) == (None, None, {})
    assert await store.publish(publication())
    assert await store.load("prod-1") == publication()


async def test_scripts_work_after_the_server_forgot_them(client: Any, store: RedisManifestStore) -> None:
    await store.publish(publication())
    await client.script_flush()
    assert await store.publish(publication(revision=2))


async def test_secrets_do_not_show_in_errors() -> None:
    with running_redis(tcp=True, options=("--requirepass", "right")) as server:
        good = connect_redis(server.url.replace("//", "//:right@"))
        await RedisManifestStore(good).ping()
        bad = connect_redis(server.url.replace("//", "//:hunter2@"))
        with pytest.raises(StoreUnavailable) as refused:
            await RedisManifestStore(bad).ping()
        assert "hunter2" not in str(refused.value)
        assert str(server.port) not in str(refused.value)
        for client in (good, bad):
            await client.aclose()


# --- Tombstones ---


async def test_a_tombstone_ends_by_itself_and_leaves_nothing(client: Any) -> None:
    now = 1_000_000.0
    store = RedisManifestStore(client, clock=lambda: now, tombstone_seconds=1)
    await store.withdraw("prod-1", 3)
    assert await client.ttl(ENVIRONMENT_PREFIX + "prod-1") <= 1
    assert await client.zscore(WITHDRAWN_KEYS, "prod-1") == now + 1
    now += 2
    await store.withdraw("prod-2", 1)
    assert await store.revisions() == {"prod-2": -1}
    assert await client.zrange(WITHDRAWN_KEYS, 0, -1) == [b"prod-2"]


async def test_a_tombstone_lasts_thirty_days(client: Any, store: RedisManifestStore) -> None:
    await store.withdraw("prod-1", 3)
    assert 0 < await client.ttl(ENVIRONMENT_PREFIX + "prod-1") <= TOMBSTONE_SECONDS == 2_592_000


async def test_a_publisher_that_a_withdrawal_overtook_does_not_bring_the_key_back(
    client: Any, store: RedisManifestStore
) -> None:
    await store.publish(publication(revision=3))
    await store.withdraw("prod-1", 3)
    # What is left of a publish that was between its script and its notice.
    await client.zadd(REVISIONS, {"prod-1": 3}, gt=True)
    assert await store.revisions() == {"prod-1": -3}
    assert await store.load("prod-1") is WITHDRAWN


# --- Strange data ---


@pytest.mark.parametrize("missing", ["revision", "bundle", "etag", "labels"])
async def test_a_hash_that_lacks_a_field_is_corrupt_until_it_is_published_again(
    client: Any, store: RedisManifestStore, missing: str
) -> None:
    await store.publish(publication())
    await client.hdel(ENVIRONMENT_PREFIX + "prod-1", missing)
    with pytest.raises(CorruptPublication):
        await store.load("prod-1")
    assert await store.publish(publication())
    assert await store.load("prod-1") == publication()


@pytest.mark.parametrize("labels", [b"", b"[]", b"\xff", b"{}", b'{"x": 1}', b"null"])
async def test_labels_that_are_none_are_corrupt(client: Any, store: RedisManifestStore, labels: bytes) -> None:
    await store.publish(publication())
    await client.hset(ENVIRONMENT_PREFIX + "prod-1", "labels", labels)
    with pytest.raises(CorruptPublication):
        await store.load("prod-1")


async def test_another_type_under_the_key_is_unavailable(client: Any, store: RedisManifestStore) -> None:
    await client.set(ENVIRONMENT_PREFIX + "prod-1", "text")
    with pytest.raises(StoreUnavailable):
        await store.load("prod-1")
    with pytest.raises(StoreUnavailable):
        await store.publish(publication())


async def test_notices_that_cannot_be_read_are_skipped(client: Any, store: RedisManifestStore) -> None:
    async with listening(store) as following:
        for text in (b"", b"x", b"one prod-1", b"1 \xff", b"1"):
            await client.publish(NOTICES, text)
        await store.publish(publication())
        notices = [await following()]
        while notices[-1] != Notice("prod-1", 1):
            notices.append(await following())
    assert all(isinstance(notice, Notice) for notice in notices)


async def test_only_metadata_files_are_published(client: Any, store: RedisManifestStore) -> None:
    strange = Publication("prod-1", 1, b"{}", '"tag"', {"withdrawn": b"1"}, Labels(*"abcdef"))
    with pytest.raises(ValueError, match="no name of a TUF metadata file"):
        await store.publish(strange)
    assert await client.keys("*") == []


async def test_every_key_is_below_the_prefix(client: Any, store: RedisManifestStore) -> None:
    await store.publish(publication())
    await store.withdraw("prod-2", 1)
    await store.set_generation("1")
    keys = await client.keys("*")
    assert sorted(keys) == [
        b"skafos:environment:prod-1",
        b"skafos:environment:prod-2",
        b"skafos:generation",
        b"skafos:revisions",
        b"skafos:withdrawn",
    ]
