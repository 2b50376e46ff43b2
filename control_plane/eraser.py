"""Erasing devices and organizations: recorded with the request, carried out in ClickHouse until nothing is left.

The request deletes what the database holds, in one transaction with the record of it and the audit log's entry.
ClickHouse may be away then, and its deletions take their time, so they are this task's. When nothing is left the
erasure is finished; an hour later it is looked at once more, for an insert, or a registration, that was under way.
After that the record has no device id any more, only the hash that keeps the device away as long as events are kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Select, and_, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database
from control_plane.errors import Unavailable
from control_plane.push.log import forget_device
from control_plane.tables import Application, Device, DevicePush, Environment, Erasure, utc_now
from control_plane.warehouse import WarehouseGate
from telemetry import erasure as telemetry_erasure
from telemetry.erasure import device_subject
from telemetry.registrations import Registration
from telemetry.warehouse import WarehouseUnavailable

# One small question to the database; whoever asked waits for it.
LOOK_SECONDS = 1.0
# While ClickHouse is away.
AWAY_SECONDS = 10.0
# An insert takes a minute at the most, and a registration waits in its stream while the control plane is away.
CHECK_AGAIN_AFTER = timedelta(hours=1)
# Looked at in one turn; each takes a few small questions.
_BATCH = 20

_log = structlog.get_logger(__name__)


class Eraser:
    """Carries erasures out.

    Args:
        database: has the list of them.
        warehouse: where events are.
        keep: how long events are kept, and with them the record of an erasure.
        clock: the present.
    """

    def __init__(
        self,
        database: Database,
        warehouse: WarehouseGate,
        keep: timedelta,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._warehouse = warehouse
        self._keep = keep
        self._clock = clock

    async def run(self) -> None:
        """Carry erasures out until cancelled."""
        while True:
            pause = LOOK_SECONDS
            try:
                await self.look()
            except (Unavailable, WarehouseUnavailable) as error:
                _log.warning("erasing_postponed", reason=str(error), next_try_seconds=AWAY_SECONDS)
                pause = AWAY_SECONDS
            await asyncio.sleep(pause)

    async def look(self) -> None:
        """Take one step with each erasure that is due.

        Raises:
            Unavailable: the database does not answer, or ClickHouse is not there yet.
            WarehouseUnavailable: ClickHouse does not answer.
        """
        now = self._clock()
        async with self._database.read() as session:
            due = list(await session.scalars(_due(now)))
        for erasure in due:
            await self._step(erasure, now)

    async def _step(self, erasure: Erasure, now: datetime) -> None:
        asked = telemetry_erasure.Erasure(erasure.organization_id, erasure.device_id, erasure.asked_at.date())
        if not await self._warehouse.get().erase(asked):
            return
        async with self._database.write() as session:
            stored = await session.get(Erasure, erasure.id)
            if stored is None:
                return
            if stored.device_id is not None:
                await delete_device(session, stored.organization_id, stored.device_id)
            if stored.finished_at is None:
                stored.finished_at = now
            else:
                stored.checked_at, stored.device_id = now, None
            await session.execute(
                delete(Erasure).where(Erasure.checked_at.is_not(None), Erasure.asked_at < now - self._keep)
            )
        _log.info("erased", erasure=erasure.id, again=erasure.finished_at is not None)


def _due(now: datetime) -> Select[Erasure]:
    again = and_(Erasure.checked_at.is_(None), Erasure.finished_at < now - CHECK_AGAIN_AFTER)
    return select(Erasure).where(or_(Erasure.finished_at.is_(None), again)).order_by(Erasure.asked_at).limit(_BATCH)


async def delete_device(session: AsyncSession, organization_id: str, device_id: str) -> None:
    """Delete a device's registrations, with its push tokens and what became of pushes to it, in every environment."""
    environments = (
        select(Environment.id)
        .join(Application, Application.id == Environment.application_id)
        .where(Application.organization_id == organization_id)
    )
    for table in (Device, DevicePush):
        await session.execute(
            delete(table).where(table.device_id == device_id, table.environment_id.in_(environments.scalar_subquery()))
        )
    await forget_device(session, environments, device_id)


async def without_erased(session: AsyncSession, registrations: Iterable[Registration]) -> list[Registration]:
    """Leave out the registrations of devices that were erased."""
    given = list(registrations)
    organizations = await _organizations(session, {each.environment_id for each in given})
    query = select(Erasure.organization_id, Erasure.subject).where(
        Erasure.organization_id.in_(set(organizations.values()))
    )
    erased = {(organization_id, subject) for organization_id, subject in await session.execute(query)}
    if not erased:
        return given
    return [each for each in given if _key(organizations.get(each.environment_id, ""), each.device_id) not in erased]


async def _organizations(session: AsyncSession, environment_ids: set[str]) -> dict[str, str]:
    """Return the organization of each environment that is there."""
    query = (
        select(Environment.id, Application.organization_id)
        .join(Application, Application.id == Environment.application_id)
        .where(Environment.id.in_(environment_ids))
    )
    return {row[0]: row[1] for row in await session.execute(query)}


def _key(organization_id: str, device_id: str) -> tuple[str, str]:
    return organization_id, device_subject(organization_id, device_id)
