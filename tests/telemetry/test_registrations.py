"""Registrations: at least once, bounded, and claimed from the dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from telemetry import registrations as room
from telemetry.registrations import STREAM, Delivery, Registration, Registrations, RegistrationsUnavailable
from tests.servers.redis import RedisServer, redis_of_system, redis_of_wheel, redis_server, running_redis

__all__ = ["redis_server"]  # fixture

GROUP = "control-plane"
PATIENCE_SECONDS = 30.0


def registration(device: str) -> Registration:
    return Registration(
        device_id=device,
        environment_id="environment-1",
        key="prod-aaaa-bbbb",
        registered_at=1_778_760_000.5,
        facts={"os": "iOS", "app_version": "4.2"},
        push_token="f" * 64,
        push_service="apns",
    )


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
async def redis(request: pytest.FixtureRequest, redis_server: RedisServer) -> AsyncIterator[Any]:
    from redis.asyncio import Redis

    client: Any = Redis.from_url(redis_server.url, protocol=request.param)
    await client.flushall()
    yield client
    await client.aclose()


async def next_delivery(stream: Registrations, consumer: str = "one") -> Delivery:
    return await anext(stream.consume(GROUP, consumer))


async def test_a_registration_comes_out_as_it_went_in(redis: Any) -> None:
    stream = Registrations(redis)
    await stream.add(registration("a"))

    assert (await next_delivery(stream)).registrations == (registration("a"),)


class Swallowing:
    """A client whose reads return normally when they are cancelled, as redis-py's may on Python 3.11."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def xreadgroup(self, *arguments: Any, **named: Any) -> Any:
        self.reads += 1
        with suppress(asyncio.CancelledError):
            return await self._redis.xreadgroup(*arguments, **named)
        return None


async def test_a_consumer_without_news_ends_although_its_cancellation_was_swallowed(redis: Any) -> None:
    client: Any = Swallowing(redis)
    consuming = asyncio.create_task(next_delivery(Registrations(client)))
    while client.reads < 2:  # noqa: ASYNC110  counted by the client; the first asks for what was left over
        await asyncio.sleep(0.01)

    consuming.cancel()

    done, _ = await asyncio.wait({consuming}, timeout=PATIENCE_SECONDS)
    assert done
    assert consuming.cancelled()


async def test_what_was_acknowledged_is_gone_and_what_was_not_comes_again_after_a_restart(redis: Any) -> None:
    stream = Registrations(redis)
    await stream.add(registration("a"))
    await stream.acknowledge(GROUP, await next_delivery(stream))
    await stream.add(registration("b"))
    await next_delivery(stream)  # and the consumer dies

    again = await next_delivery(stream)

    assert [one.device_id for one in again.registrations] == ["b"]
    await stream.acknowledge(GROUP, again)
    assert await redis.xlen(STREAM) == 0


async def test_what_a_dead_consumer_held_is_claimed_by_another(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Registrations(redis)
    await stream.add(registration("a"))
    await next_delivery(stream, "dead")
    await stream.add(registration("b"))

    fresh = await next_delivery(stream, "alive")
    monkeypatch.setattr(room, "CLAIM_IDLE_MS", 0)
    claimed = await next_delivery(stream, "alive too")

    assert [one.device_id for one in fresh.registrations] == ["b"]
    assert [one.device_id for one in claimed.registrations] == ["a", "b"]


async def test_a_large_pile_comes_in_several_deliveries_each_entry_once(redis: Any) -> None:
    stream = Registrations(redis)
    for n in range(room.READ_COUNT + 30):
        await stream.add(registration(f"device-{n}"))
    seen: list[str] = []
    async for delivery in stream.consume(GROUP, "one"):
        seen += [one.device_id for one in delivery.registrations]
        await stream.acknowledge(GROUP, delivery)
        if len(seen) >= room.READ_COUNT + 30:
            break

    assert seen == [f"device-{n}" for n in range(room.READ_COUNT + 30)]


async def test_the_stream_is_bounded_and_forgets_the_oldest(redis: Any) -> None:
    stream = Registrations(redis, max_length=100)
    for n in range(1_000):
        await stream.add(registration(f"device-{n}"))

    assert 100 <= await redis.xlen(STREAM) <= 300  # Redis trims whole nodes of about a hundred entries
    (newest,) = await redis.xrevrange(STREAM, count=1)
    assert b"device-999" in str(newest).encode()


async def test_an_emptied_redis_is_noticed_and_consuming_goes_on(redis: Any) -> None:
    stream = Registrations(redis)
    consuming = stream.consume(GROUP, "one")
    await stream.add(registration("a"))
    await stream.acknowledge(GROUP, await anext(consuming))

    await redis.flushall()
    await stream.add(registration("b"))

    assert [one.device_id for one in (await anext(consuming)).registrations] == ["b"]


async def test_an_entry_that_cannot_be_read_is_acknowledged_with_the_others(redis: Any) -> None:
    stream = Registrations(redis)
    await redis.xadd(STREAM, {"registration": b"no json"})
    await redis.xadd(STREAM, {"something": b"else"})
    await stream.add(registration("a"))

    delivery = await next_delivery(stream)

    assert [one.device_id for one in delivery.registrations] == ["a"]
    assert len(delivery.entry_ids) == 3


@pytest.mark.parametrize("program", [redis_of_wheel, redis_of_system], ids=["Redis 6", "Redis 7"])
@pytest.mark.parametrize("protocol", [2, 3])
async def test_what_was_trimmed_while_a_dead_consumer_held_it_does_not_stop_the_others(
    program: Callable[[], Path], protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from redis.asyncio import Redis

    monkeypatch.setattr(room, "CLAIM_IDLE_MS", 0)
    with running_redis(program()) as server:
        client: Any = Redis.from_url(server.url, protocol=protocol)
        stream = Registrations(client)
        for device in ("a", "b", "c"):
            await stream.add(registration(device))
        await next_delivery(stream, "dead")
        await client.xtrim(STREAM, maxlen=1, approximate=False)

        claimed = await next_delivery(stream, "alive")
        await stream.acknowledge(GROUP, claimed)

        assert [one.device_id for one in claimed.registrations] == ["c"]
        assert (await client.xpending(STREAM, GROUP))["pending"] == 0
        await client.aclose()


async def test_news_wake_a_waiting_consumer(redis: Any) -> None:
    stream = Registrations(redis)
    waiting = asyncio.create_task(next_delivery(stream))
    await asyncio.sleep(0.05)
    await stream.add(registration("a"))

    assert (await waiting).registrations[0].device_id == "a"


async def test_without_redis_adding_and_consuming_say_so() -> None:
    from redis.asyncio import Redis

    client: Any = Redis.from_url("redis://127.0.0.1:1")
    stream = Registrations(client)
    with pytest.raises(RegistrationsUnavailable):
        await stream.add(registration("a"))
    with pytest.raises(RegistrationsUnavailable):
        await next_delivery(stream)
    await client.aclose()
