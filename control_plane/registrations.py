"""Devices that registered with an edge, brought from the stream in Redis into the database.

A delivery is stored in one transaction and acknowledged after it, so it may come twice: storing is idempotent, and an
older registration never replaces a newer one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database
from control_plane.eraser import without_erased
from control_plane.errors import Unavailable
from control_plane.metrics import REGISTRATIONS_REFUSED, REGISTRATIONS_STORED
from control_plane.tables import Device, Environment
from control_plane.upserts import insert_into
from telemetry.cancellation import heed_cancellation
from telemetry.registrations import Delivery, Registration, Registrations, RegistrationsUnavailable

GROUP = "control-plane"
FIRST_PAUSE_SECONDS = 0.5
LAST_PAUSE_SECONDS = 5.0

_log = structlog.get_logger(__name__)


class RegistrationConsumer:
    """Stores registrations as they come.

    Args:
        database: where devices are kept.
        registrations: the stream.
        consumer: this process's own name in the group; the same after a restart.
    """

    def __init__(self, database: Database, registrations: Registrations, consumer: str = "control-plane-0") -> None:
        self._database = database
        self._registrations = registrations
        self._consumer = consumer

    async def run(self) -> None:
        """Store registrations until cancelled; while Redis or the database is away, try again and again."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                async for delivery in self._registrations.consume(GROUP, self._consumer):
                    await self.store(delivery)
                    pause = FIRST_PAUSE_SECONDS
                    heed_cancellation()
            except (RegistrationsUnavailable, Unavailable) as error:
                _log.warning("registrations_postponed", reason=str(error), next_try_seconds=pause)
            except Exception:  # a fault in one delivery must not end the storing of all
                _log.exception("registrations_failed")
            heed_cancellation()
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads load, keeps no secret
            pause = min(2 * pause, LAST_PAUSE_SECONDS)

    async def store(self, delivery: Delivery) -> None:
        """Store a delivery, then acknowledge it.

        Raises:
            Unavailable: the database did not take it; it will come again.
            RegistrationsUnavailable: it is stored, but Redis could not be told; it will come again.
        """
        try:
            stored = await self._store(delivery.registrations)
        except DBAPIError:
            # One of them cannot be stored (a zero byte in a token, on PostgreSQL): the others must not wait for it.
            stored = sum([await self._store_alone(registration) for registration in delivery.registrations])
        await self._registrations.acknowledge(GROUP, delivery)
        REGISTRATIONS_STORED.inc(stored)

    async def _store(self, registrations: Iterable[Registration]) -> int:
        async with self._database.write() as session:
            return await store_registrations(session, registrations)

    async def _store_alone(self, registration: Registration) -> int:
        try:
            return await self._store([registration])
        except DBAPIError as error:
            REGISTRATIONS_REFUSED.inc()
            _log.warning("registration_refused", reason=type(error.orig).__name__)
            return 0


async def store_registrations(session: AsyncSession, registrations: Iterable[Registration]) -> int:
    """Store the newest registration of each device, where its environment is there and it was not erased.

    Returns:
        How many were stored.
    """
    registrations = await without_erased(session, registrations)
    newest = {(r.environment_id, r.device_id): r for r in sorted(registrations, key=lambda r: r.registered_at)}
    environments = {environment_id for environment_id, _ in newest}
    present = set(await session.scalars(select(Environment.id).where(Environment.id.in_(environments))))
    rows = [_row(registration) for registration in newest.values() if registration.environment_id in present]
    if rows:
        # One statement for each row, prepared once: a statement with all rows takes longer to write than to run.
        await (await session.connection()).execute(_upsert(session), rows)
    return len(rows)


def _row(registration: Registration) -> dict[str, Any]:
    at = datetime.fromtimestamp(registration.registered_at, UTC)
    return {
        "environment_id": registration.environment_id,
        "device_id": registration.device_id,
        "facts": dict(registration.facts),
        "push_token": registration.push_token,
        "push_service": registration.push_service,
        "push_retired_at": None,
        "registered_at": at,
        "updated_at": at,
    }


def _upsert(session: AsyncSession) -> Any:
    """Return the statement that adds a device, and gives a known one what it said last."""
    statement = insert_into(session, Device)
    told = ("facts", "push_token", "push_service", "push_retired_at", "updated_at")
    news = {name: statement.excluded[name] for name in told}
    return statement.on_conflict_do_update(
        index_elements=["environment_id", "device_id"],
        set_=news,
        where=Device.updated_at <= statement.excluded.updated_at,
    )
