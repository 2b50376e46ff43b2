"""What every manifest store does: in memory, in both Redis servers, behind Sentinel, in a cluster."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, aclosing
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import RedisCluster

from manifests.redis_client import connect_redis
from manifests.redis_store import RedisManifestStore
from manifests.store import (
    WITHDRAWN,
    Labels,
    ManifestStore,
    MemoryManifestStore,
    Notice,
    Publication,
    Resubscribed,
)
from tests.servers.redis import redis_of_system, redis_of_wheel, running_cluster, running_redis, running_sentinel

KINDS = ["memory", "redis of the wheel", "redis of the system", "sentinel", "cluster"]
# A store that tells nothing for this long has nothing to tell.
PATIENCE_SECONDS = 10.0

LABELS = Labels("o1", "Acme", "a1", "Größe \u2028 \U0001f4f1", "e1", "prod")


def publication(key: str = "prod-1", revision: int = 1, body: bytes = b"{}") -> Publication:
    files = {"timestamp.json": b"\x00\xff\r\n", f"{revision}.targets.json": b"targets", "1.root.json": b""}
    return Publication(key, revision, body, '"tag"', files, LABELS)


@pytest.fixture(scope="module", params=KINDS)
def url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """The address of a server of each kind; None for the store in memory."""
    with ExitStack() as stack:
        match request.param:
            case "memory":
                yield None
            case "redis of the wheel":
                yield stack.enter_context(running_redis(redis_of_wheel())).url
            case "redis of the system":
                yield stack.enter_context(running_redis(redis_of_system(), tcp=True)).url
            case "sentinel":
                yield stack.enter_context(running_sentinel())
            case "cluster":
                yield stack.enter_context(running_cluster())


@pytest.fixture
async def store(url: str | None) -> AsyncIterator[ManifestStore]:
    """An empty store."""
    if url is None:
        yield MemoryManifestStore()
        return
    client: Any = connect_redis(url)
    await client.flushall(**({"target_nodes": RedisCluster.PRIMARIES} if "cluster" in url else {}))
    yield RedisManifestStore(client)
    await client.aclose()


class Listener:
    """Reads a store's notices one at a time."""

    def __init__(self, store: ManifestStore) -> None:
        self._notices: Any = store.notices()

    async def __aenter__(self) -> Listener:
        assert await self.next() == Resubscribed()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._notices.aclose()

    async def next(self) -> Notice | Resubscribed:
        notice: Notice | Resubscribed = await asyncio.wait_for(anext(self._notices), PATIENCE_SECONDS)
        return notice


async def test_knows_nothing_at_first(store: ManifestStore) -> None:
    await store.ping()
    assert await store.load("prod-1") is None
    assert await store.revisions() == {}
    assert await store.generation() is None


async def test_gives_back_what_was_published(store: ManifestStore) -> None:
    assert await store.publish(publication())
    assert await store.load("prod-1") == publication()
    assert await store.load("prod-2") is None
    assert await store.revisions() == {"prod-1": 1}


async def test_a_newer_revision_replaces_all_of_an_older_one(store: ManifestStore) -> None:
    await store.publish(publication(revision=1))
    newer = replace(publication(revision=12, body=b"newer"), labels=replace(LABELS, organization="Other"))
    assert await store.publish(newer)
    assert await store.load("prod-1") == newer
    assert await store.revisions() == {"prod-1": 12}


async def test_an_older_revision_never_wins(store: ManifestStore) -> None:
    await store.publish(publication(revision=12))
    async with Listener(store) as listener:
        assert not await store.publish(publication(revision=11))
        await store.publish(publication("prod-2"))
        assert await listener.next() == Notice("prod-2", 1)
    assert await store.load("prod-1") == publication(revision=12)
    assert await store.revisions() == {"prod-1": 12, "prod-2": 1}


async def test_the_same_revision_again_is_stored_and_told_again(store: ManifestStore) -> None:
    await store.publish(publication())
    renamed = replace(publication(), labels=replace(LABELS, application="New name"))
    async with Listener(store) as listener:
        assert await store.publish(renamed)
        assert await listener.next() == Notice("prod-1", 1)
    assert await store.load("prod-1") == renamed


async def test_of_many_publishers_at_once_the_newest_revision_stays(store: ManifestStore) -> None:
    revisions = random.Random(7).sample(range(1, 41), 40)
    done = await asyncio.gather(*(store.publish(publication(revision=number)) for number in revisions))
    assert done[revisions.index(40)]
    assert await store.load("prod-1") == publication(revision=40)
    assert await store.revisions() == {"prod-1": 40}


async def test_revisions_beyond_32_bits_keep_their_order(store: ManifestStore) -> None:
    large = 2**53 - 2
    assert await store.publish(publication(revision=large))
    assert await store.publish(publication(revision=large + 1))
    assert not await store.publish(publication(revision=large))
    assert await store.revisions() == {"prod-1": large + 1}
    await store.withdraw("prod-1", large)
    assert await store.revisions() == {"prod-1": -large - 1}


async def test_a_withdrawn_key_stays_withdrawn(store: ManifestStore) -> None:
    await store.publish(publication(revision=3))
    await store.withdraw("prod-1", 3)
    assert await store.load("prod-1") is WITHDRAWN
    assert await store.revisions() == {"prod-1": -3}
    for revision in (2, 3, 4):
        assert not await store.publish(publication(revision=revision))
    assert await store.load("prod-1") is WITHDRAWN


async def test_a_key_that_was_never_seen_can_be_withdrawn(store: ManifestStore) -> None:
    await store.withdraw("prod-9", 5)
    assert await store.load("prod-9") is WITHDRAWN
    assert not await store.publish(publication("prod-9", 6))


async def test_withdrawing_again_keeps_the_higher_revision(store: ManifestStore) -> None:
    await store.publish(publication(revision=7))
    for revision in (5, 9, 8):
        await store.withdraw("prod-1", revision)
    assert await store.revisions() == {"prod-1": -9}


async def test_tells_of_everything_in_order_to_everybody(store: ManifestStore) -> None:
    async with Listener(store) as one, Listener(store) as other:
        await store.publish(publication("prod-1", 1))
        await store.publish(publication("prod-1", 2))
        await store.publish(publication("dev-größe", 1))
        await store.withdraw("prod-1", 2)
        told = [Notice("prod-1", 1), Notice("prod-1", 2), Notice("dev-größe", 1), Notice("prod-1", -2)]
        for listener in (one, other):
            assert [await listener.next() for _ in told] == told


async def test_a_notice_comes_after_what_it_tells_of(store: ManifestStore) -> None:
    async with Listener(store) as listener:
        await store.publish(publication(revision=4))
        notice = await listener.next()
    assert isinstance(notice, Notice)
    assert await store.load(notice.key) == publication(revision=4)


async def test_a_listener_that_leaves_is_forgotten(store: ManifestStore) -> None:
    async with aclosing(store.notices()) as notices:  # type: ignore[type-var]
        assert await anext(notices) == Resubscribed()
    await store.publish(publication())
    async with Listener(store) as listener:
        await store.publish(publication(revision=2))
        assert await listener.next() == Notice("prod-1", 2)


async def test_keeps_the_generation(store: ManifestStore) -> None:
    await store.set_generation("größe 1")
    assert await store.generation() == "größe 1"
    await store.set_generation("2")
    assert await store.generation() == "2"
    assert await store.revisions() == {}


async def test_a_filling_ends_as_it_began(store: ManifestStore) -> None:
    assert not await store.end_filling("1")
    await store.begin_filling("1")
    assert await store.generation() is None
    assert await store.end_filling("1")
    assert await store.generation() == "1"
    await store.begin_filling("2")
    assert not await store.end_filling("1")
    assert await store.generation() == "1"


@pytest.mark.parametrize("seed", range(3))
async def test_does_the_same_as_the_store_in_memory(store: ManifestStore, seed: int) -> None:
    model, chance = MemoryManifestStore(), random.Random(seed)
    for _ in range(120):
        key, revision = f"k-{chance.randrange(4)}", chance.randrange(1, 9)
        if chance.random() < 0.03:
            await store.withdraw(key, revision)
            await model.withdraw(key, revision)
        else:
            offered = publication(key, revision, body=bytes([chance.randrange(256)]))
            assert await store.publish(offered) == await model.publish(offered)
        assert await store.load(key) == await model.load(key)
    assert await store.revisions() == await model.revisions()
