"""A push worker as a process, to be killed: ``python -m …sending_process DATABASE PORT FOLDER``.

It works through small slices and ends when nothing is left to do.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

from sqlalchemy import select

from control_plane.database import Database
from control_plane.push import jobs
from control_plane.push.servers import Servers
from control_plane.push.vault import Vault
from control_plane.push.worker import PushPolicy, PushWorker
from control_plane.sealing import MasterKeys
from control_plane.tables import PushJob

SLICE_DEVICES = 50
# A worker that was killed is found out soon.
HEARTBEAT_SECONDS, ABANDONED_AFTER = 0.2, timedelta(seconds=2)


async def send(url: str, port: int, folder: Path) -> None:
    """Send until no job is active."""
    jobs.SLICE_DEVICES, jobs.HEARTBEAT_SECONDS, jobs.ABANDONED_AFTER = SLICE_DEVICES, HEARTBEAT_SECONDS, ABANDONED_AFTER
    database = Database(url)
    servers = Servers(apns=("127.0.0.1", port), authorities=folder / "push-authority.pem")
    vault = Vault(database, MasterKeys(folder / "master-keys"), servers)
    worker = PushWorker(database, vault.channel, PushPolicy(per_second=1_000, interval=timedelta(0)), "sender")
    running = asyncio.create_task(worker.run())
    while await active(database):  # noqa: ASYNC110 - it is in the database
        await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await vault.close()
    await database.close()


async def active(database: Database) -> bool:
    """Say whether a job is still to be sent."""
    async with database.read() as session:
        return await session.scalar(select(PushJob.id).where(PushJob.state.in_(jobs.ACTIVE)).limit(1)) is not None


if __name__ == "__main__":
    asyncio.run(send(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
