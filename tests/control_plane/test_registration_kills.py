"""Every registration that an edge was told is in the stream gets into the database, whenever who stores it is killed.

``make test-kills KILLS=50`` kills it as often as that.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from control_plane.database import Database
from control_plane.tables import Device
from manifests.redis_client import connect_redis
from telemetry.registrations import STREAM, Registration, Registrations
from tests.control_plane.world import open_world
from tests.servers.redis import RedisServer, redis_server

__all__ = ["redis_server"]

KILLS = int(os.environ.get("SKAFOS_TEST_KILLS") or "2")
SEED = int(os.environ.get("SKAFOS_TEST_SEED") or "1")
DEVICES_A_KILL = 200
START_SECONDS = 60.0


@pytest.mark.timeout(300 + 20 * KILLS)
async def test_no_registration_is_lost_whenever_who_stores_them_is_killed(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    url = f"sqlite:///{tmp_path / 'test.sqlite3'}"
    async with open_world(tmp_path, url) as world:
        environment_id = world.prod.id
    client: Any = connect_redis(redis_server.url)
    stream, numbers = Registrations(client), random.Random(SEED)
    accepted = 0
    command = [sys.executable, "-m", "tests.control_plane.storing_process", url, redis_server.url]
    database = Database(url)

    async def add(count: int) -> None:
        nonlocal accepted
        for _ in range(count):
            await stream.add(Registration(f"device-{accepted:06d}", environment_id, "prod-key", time.time()))
            accepted += 1

    async def stored() -> int:
        async with database.read() as session:
            return await session.scalar(select(func.count()).select_from(Device)) or 0

    async def until(stands: int) -> None:
        async with asyncio.timeout(START_SECONDS):
            while await stored() < stands:  # noqa: ASYNC110 - it is in the database
                await asyncio.sleep(0.002)

    half_done = 0
    for _ in range(KILLS):
        await add(DEVICES_A_KILL)
        before = await stored()
        process = await asyncio.create_subprocess_exec(*command)
        adding = asyncio.create_task(add(DEVICES_A_KILL))
        await until(before + 1)
        await asyncio.sleep(numbers.random() * 0.05)
        process.kill()
        await process.wait()
        await adding
        half_done += await client.xlen(STREAM) > 0
    process = await asyncio.create_subprocess_exec(*command)
    try:
        await until(accepted)
        async with asyncio.timeout(START_SECONDS):
            while await client.xlen(STREAM):  # noqa: ASYNC110 - Redis tells nobody
                await asyncio.sleep(0.01)
    finally:
        process.kill()
        await process.wait()
    assert await stored() == accepted == 2 * KILLS * DEVICES_A_KILL
    assert half_done, "nothing was left over at any kill, so nothing was tried"
    await client.aclose()
    await database.close()
