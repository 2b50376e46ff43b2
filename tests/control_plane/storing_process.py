"""What stores registrations, as a process to be killed: ``python -m …storing_process DATABASE REDIS``."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from control_plane.database import Database
from control_plane.registrations import RegistrationConsumer
from manifests.redis_client import connect_redis
from telemetry import registrations

# So that there is something between two deliveries.
READ_COUNT = 50


async def store(database_url: str, redis_url: str) -> None:
    """Store until the process is ended."""
    registrations.READ_COUNT = READ_COUNT  # type: ignore[misc]  # a constant everywhere else
    redis: Any = connect_redis(redis_url)
    await RegistrationConsumer(Database(database_url), registrations.Registrations(redis)).run()


if __name__ == "__main__":
    asyncio.run(store(sys.argv[1], sys.argv[2]))
