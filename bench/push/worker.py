"""One push worker as a process: ``python -m bench.push.worker FOLDER DEVICES`` registers devices and pushes to all.

Everything is the product's: the database, the vault, the worker and its channel.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import uvloop
from sqlalchemy import insert

from bench.push.told import AUTHORITY, SERVER
from control_plane.database import Database
from control_plane.migrate import migrate
from control_plane.push import jobs
from control_plane.push.servers import Servers
from control_plane.push.vault import Upload, Vault
from control_plane.push.worker import PushPolicy, PushWorker
from control_plane.sealing import MasterKeys
from control_plane.tables import Application, Device, Environment, Model, Organization, PushJob, utc_now

ROWS_A_STATEMENT = 10_000
LOOK_SECONDS = 0.25
FIRST_LOOK_SECONDS = 0.02
AS_FAST_AS_IT_GOES = PushPolicy(per_second=1e9, interval=timedelta(0))


async def measure(folder: Path, devices: int) -> dict[str, Any]:
    """Push to so many devices and return what was measured."""
    told = json.loads((folder / SERVER).read_text())
    database = Database(f"sqlite:///{folder / 'push.sqlite3'}")
    await migrate(database)
    servers = Servers(apns=("127.0.0.1", told["port"]), authorities=folder / AUTHORITY)
    vault = Vault(database, MasterKeys(folder / "master-keys"), servers)
    environment, model = await prepare(database, vault, told, devices)
    worker = PushWorker(database, vault.channel, AS_FAST_AS_IT_GOES, "bench")
    job = PushJob(environment_id=environment, model_id=model, version=1, sandbox=False)
    me = psutil.Process()
    seen: list[tuple[float, int]] = []

    async def watch() -> None:
        while True:
            seen.append((time.perf_counter() - began, me.memory_info().rss))
            await asyncio.sleep(LOOK_SECONDS)

    began, began_at, used = time.perf_counter(), utc_now(), time.process_time()
    async with database.write() as session:
        await jobs.begin(session, job)
    watching, working = asyncio.create_task(watch()), asyncio.create_task(worker.run())
    await _until(database, job.id, lambda it: it.accepted > 0, FIRST_LOOK_SECONDS)
    first = time.perf_counter() - began
    done = await _until(database, job.id, lambda it: it.finished_at is not None, LOOK_SECONDS)
    cpu = time.process_time() - used
    assert done.finished_at is not None
    seconds = (done.finished_at - began_at).total_seconds()
    for task in (watching, working):
        task.cancel()
    await asyncio.gather(watching, working, return_exceptions=True)
    await vault.close()
    await database.close()
    # What is loaded and cached by then is no growth of sending.
    settled = [size for moment, size in seen if moment > seconds / 10] or [seen[-1][1]]
    return {
        "devices": devices,
        "state": done.state,
        "accepted": done.accepted,
        "seconds": seconds,
        "first_slice_seconds": first,
        "cpu_seconds": cpu,
        "grown_bytes": max(settled) - settled[0],
    }


async def _until(database: Database, job_id: str, true: Callable[[PushJob], bool], pause: float) -> PushJob:
    while True:
        async with database.read() as session:
            job = await session.get_one(PushJob, job_id)
        if true(job):
            return job
        await asyncio.sleep(pause)


async def prepare(database: Database, vault: Vault, told: dict[str, Any], devices: int) -> tuple[str, str]:
    """Make an environment with devices and a credential; return its id and that of a model."""
    async with database.write() as session:
        organization = Organization(name="Bench")
        session.add(organization)
        await session.flush()
        application = Application(
            organization_id=organization.id, name="Camera", bundle_id=told["bundle_id"], platform="ios"
        )
        session.add(application)
        await session.flush()
        environment = Environment(application_id=application.id, name="prod")
        model = Model(application_id=application.id, name="faces", created_at=utc_now())
        session.add_all([environment, model])
        await session.flush()
        upload = Upload("key", told["key"].encode(), told["key_id"], told["team_id"])
        await vault.store(session, environment, "apns", upload, None)
    for first in range(0, devices, ROWS_A_STATEMENT):
        rows = [
            {
                "environment_id": environment.id,
                "device_id": f"{number:032x}",
                "facts": {},
                "push_token": f"{number:064x}",
                "push_service": jobs.APPLE,
                "registered_at": utc_now(),
                "updated_at": utc_now(),
            }
            for number in range(first, min(first + ROWS_A_STATEMENT, devices))
        ]
        async with database.write() as session:
            await session.execute(insert(Device), rows)
    return environment.id, model.id


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(Path(sys.argv[1]), int(sys.argv[2])))))
