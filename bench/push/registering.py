"""Registrations from the stream in Redis to the database: ``python -m bench.push.registering URL COUNT`` in a process.

Everything but who puts them there is the product's: the stream, its consumer, the database with a flush a commit. The
half before that, from a device's request into the stream, is the edge's, and measured with it (``make bench-edge``).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any
from uuid import uuid4

import msgspec
import uvloop
from sqlalchemy import func, select

from control_plane.database import Database
from control_plane.migrate import migrate
from control_plane.registrations import RegistrationConsumer
from control_plane.tables import Application, Device, Environment, Organization
from manifests.redis_client import connect_redis
from telemetry.registrations import STREAM, Registration, Registrations
from tests.servers.redis import running_redis

FACTS = {"os": "ios", "os_version": "17.4.1", "device_model": "iPhone15,2", "app_version": "5.12.0", "locale": "de-AT"}
PIPELINE = 1_000
LOOK_SECONDS = 0.02


async def measure(url: str, count: int) -> dict[str, Any]:
    """Bring so many devices into the database at ``url``, and then what each says anew; return the rates."""
    database = Database(url)
    await migrate(database)
    environment_id = await _environment(database)
    devices = [str(uuid4()) for _ in range(count)]
    with running_redis() as redis:
        client: Any = connect_redis(redis.url)
        told: dict[str, Any] = {"count": count}
        for turn, name in enumerate(("new", "known")):
            await _fill(client, environment_id, devices, time.time() + turn)
            told[name] = await _drain(client, database)
        async with database.read() as session:
            told["stored"] = await session.scalar(select(func.count()).select_from(Device))
        await client.aclose()
    await database.close()
    return told


async def _environment(database: Database) -> str:
    async with database.write() as session:
        organization = Organization(name=f"Bench {uuid4()}")
        session.add(organization)
        await session.flush()
        application = Application(organization_id=organization.id, name="Camera", bundle_id="b", platform="ios")
        session.add(application)
        await session.flush()
        environment = Environment(application_id=application.id, name="prod")
        session.add(environment)
        await session.flush()
        return environment.id


async def _fill(client: Any, environment_id: str, devices: list[str], at: float) -> None:
    for start in range(0, len(devices), PIPELINE):
        pipeline = client.pipeline(transaction=False)
        for device_id in devices[start : start + PIPELINE]:
            one = Registration(device_id, environment_id, "prod-key", at, FACTS, uuid4().hex * 2, "apns")
            pipeline.xadd(STREAM, {"registration": msgspec.json.encode(one)})
        await pipeline.execute()


async def _drain(client: Any, database: Database) -> dict[str, float]:
    consumer = RegistrationConsumer(database, Registrations(client))
    count = await client.xlen(STREAM)
    began, used = time.perf_counter(), time.process_time()
    running = asyncio.create_task(consumer.run())
    while await client.xlen(STREAM):  # noqa: ASYNC110 - Redis tells nobody
        await asyncio.sleep(LOOK_SECONDS)
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return {"rate": count / seconds, "cpu_microseconds": cpu / count * 1e6}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(sys.argv[1], int(sys.argv[2])))))
