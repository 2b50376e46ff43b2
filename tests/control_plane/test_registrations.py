"""Registrations from the stream in Redis to the table of devices: each stored, the newest kept, none stored twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import delete, select

from control_plane.errors import Unavailable
from control_plane.registrations import GROUP, RegistrationConsumer, store_registrations
from control_plane.tables import Device, Environment, new_id
from manifests.redis_client import RedisClient, connect_redis
from telemetry.registrations import STREAM, Registration, Registrations
from tests.control_plane.databases import fresh_database
from tests.control_plane.world import World, open_world, stop
from tests.servers.redis import RedisServer, redis_server

__all__ = ["fresh_database", "redis_server"]


@pytest.fixture
async def world(tmp_path: Path, fresh_database: str) -> AsyncIterator[World]:
    async with open_world(tmp_path, fresh_database) as world:
        yield world


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[RedisClient]:
    client = connect_redis(redis_server.url)
    yield client
    await client.aclose()


@pytest.fixture
async def registrations(client: RedisClient) -> Registrations:
    return Registrations(client)  # type: ignore[arg-type]


def registration(world: World, device: str, at: float = 1_700_000_000, **facts: str) -> Registration:
    return Registration(
        device_id=device,
        environment_id=world.prod.id,
        key="prod-key",
        registered_at=at,
        facts=facts,
        push_token=f"token of {device} at {at:.0f}",
        push_service="apns",
    )


async def devices(world: World) -> dict[str, Device]:
    async with world.database.read() as session:
        return {device.device_id: device for device in await session.scalars(select(Device))}


async def run_until(world: World, consumer: RegistrationConsumer, count: int) -> None:
    """Run the consumer until there are ``count`` devices."""
    running = asyncio.create_task(consumer.run())
    async with asyncio.timeout(30):
        while len(await devices(world)) < count:  # noqa: ASYNC110 - the consumer says nothing to a test
            await asyncio.sleep(0.02)
    await stop(running)


async def test_registrations_become_devices(world: World, registrations: Registrations) -> None:
    for number in range(250):
        await registrations.add(registration(world, f"device-{number:04d}", os_version="17.1"))
    await run_until(world, RegistrationConsumer(world.database, registrations), 250)
    device = (await devices(world))["device-0007"]
    assert device.environment_id == world.prod.id
    assert device.facts == {"os_version": "17.1"}
    assert device.push_token == "token of device-0007 at 1700000000"
    assert device.registered_at == datetime.fromtimestamp(1_700_000_000, UTC)


async def test_what_is_stored_leaves_the_stream(
    world: World, registrations: Registrations, client: RedisClient
) -> None:
    await registrations.add(registration(world, "device-0001"))
    consumer = RegistrationConsumer(world.database, registrations)
    async for delivery in registrations.consume(GROUP, "c"):
        await consumer.store(delivery)
        break
    assert await client.xlen(STREAM) == 0
    assert len(await devices(world)) == 1


async def test_what_could_not_be_stored_comes_again(
    world: World, registrations: Registrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registrations.add(registration(world, "device-0001"))
    consumer = RegistrationConsumer(world.database, registrations)

    def away() -> object:
        raise Unavailable("The database does not answer.")

    with monkeypatch.context() as broken:
        broken.setattr(world.database, "write", away)
        async for delivery in registrations.consume(GROUP, "control-plane-0"):
            with pytest.raises(Unavailable):
                await consumer.store(delivery)
            break
    await run_until(world, consumer, 1)


async def test_the_newest_registration_of_a_device_is_kept_whatever_the_order(world: World) -> None:
    newer = registration(world, "device-0001", 1_700_000_100, app_version="2.0")
    older = registration(world, "device-0001", 1_700_000_000, app_version="1.0")
    for batch in ([newer, older], [older], [newer]):
        async with world.database.write() as session:
            await store_registrations(session, batch)
    (device,) = (await devices(world)).values()
    assert device.facts == {"app_version": "2.0"}
    assert device.push_token == "token of device-0001 at 1700000100"
    assert device.updated_at == datetime.fromtimestamp(1_700_000_100, UTC)


async def test_a_device_that_registers_again_keeps_the_time_of_its_first_registration(world: World) -> None:
    for at in (1_700_000_000, 1_700_000_100):
        async with world.database.write() as session:
            assert await store_registrations(session, [registration(world, "device-0001", at)]) == 1
    (device,) = (await devices(world)).values()
    assert device.registered_at == datetime.fromtimestamp(1_700_000_000, UTC)


async def test_registrations_of_a_deleted_environment_are_dropped_and_the_others_stored(world: World) -> None:
    gone = Registration(device_id="device-0002", environment_id=new_id(), key="k", registered_at=1.0)
    async with world.database.write() as session:
        assert await store_registrations(session, [gone, registration(world, "device-0001")]) == 1
    assert set(await devices(world)) == {"device-0001"}


async def test_a_registration_that_the_database_cannot_hold_does_not_hold_up_the_others(
    world: World, registrations: Registrations
) -> None:
    strange = registration(world, "device-0002")
    await registrations.add(registration(world, "device-0001"))
    await registrations.add(msgspec.structs.replace(strange, push_token="a\x00b"))
    await registrations.add(registration(world, "device-0003"))
    await run_until(world, RegistrationConsumer(world.database, registrations), 2)
    assert {"device-0001", "device-0003"} <= set(await devices(world))


async def test_deleting_an_environment_deletes_its_devices(world: World) -> None:
    async with world.database.write() as session:
        await store_registrations(session, [registration(world, "device-0001")])
        await session.execute(delete(Environment).where(Environment.id == world.prod.id))
    assert await devices(world) == {}
