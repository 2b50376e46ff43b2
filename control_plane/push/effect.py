"""The effect of a push: what the devices that it was accepted for did within the hour after they were sent to.

Beside it stands what the same devices did within the hour before, so that nobody takes the rhythm of a day for an
effect. Of a large push an even sample is looked at: slices are ranges of ids, which are random, so blocks of the log
taken at even distances are devices taken at random, from the beginning of the push to its end.

What telemetry answers is kept with the push. A figure is final a day after the last device's hour: until then spools
that were cut off may still bring events of it.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from sqlalchemy import Row, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database
from control_plane.errors import Invalid, Missing, Unavailable
from control_plane.model_names import names_of
from control_plane.push.channel import Outcome
from control_plane.push.jobs import ENDED
from control_plane.push.log import forget_old_logs, require_log, unpack
from control_plane.tables import Application, Environment, Model, PushEffect, PushJob, PushLog, utc_now
from control_plane.upserts import insert_into
from control_plane.warehouse import WarehouseGate, telling_of_clickhouse
from telemetry.cancellation import heed_cancellation
from telemetry.subject import Subject
from telemetry.wake_ups import HOUR, Steps, WakeUps, wake_ups

MAX_COUNTED: Final = 100_000
"""Devices that are looked at. A share of so many is right within 0.31 percentage points, 19 times in 20."""
SHIPPED_AFTER: Final = timedelta(minutes=2)
"""Events are in ClickHouse some seconds after an edge received them."""
FINAL_AFTER: Final = timedelta(days=1)
"""When an edge or ClickHouse was away, they come later; who repairs it has a day."""
FRESH_FOR: Final = timedelta(minutes=1)
"""A figure that still grows is not asked for more often, however many look at it."""
LOOK_SECONDS: Final = 60.0
AWAY_SECONDS: Final = 300.0
AT_ONCE: Final = 20
"""Pushes that are asked about in one turn, each with some seconds of small questions."""
_Z_95: Final = 1.96

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Effect:
    """What became of a push's devices.

    Args:
        devices: that a service accepted it for.
        counted: those of them that the figures are about.
        woken: what they did.
        until: when the last one's hour ends; None while more may be sent, and when none was sent to.
        asked_at: when telemetry was asked.
        ask_again_at: when that is worth it again; None when the figures are final.
    """

    devices: int
    counted: int
    woken: WakeUps
    until: datetime | None
    asked_at: datetime
    ask_again_at: datetime | None

    @property
    def complete(self) -> bool:
        """Whether the push had ended, and with it the hour of every device."""
        return self.ask_again_at is None or (self.until is not None and self.until <= self.asked_at)

    @property
    def margin(self) -> float:
        """By how much a share of the counted ones may be off as one of all, 19 times in 20 (0.5 is the worst share)."""
        if self.counted in (0, self.devices):
            return 0.0
        rest = (self.devices - self.counted) / (self.devices - 1)
        return _Z_95 * 0.5 / math.sqrt(self.counted) * math.sqrt(rest)

    def is_good(self, now: datetime) -> bool:
        """Say whether it need not be asked anew for whoever looks at it."""
        settled = self.until is not None and self.asked_at >= self.until + SHIPPED_AFTER
        return self.ask_again_at is None or settled or now - self.asked_at < FRESH_FOR


def effect_of(row: PushEffect) -> Effect:
    """Return what is kept of an effect."""
    after = Steps(row.checked, row.downloaded, row.activated)
    before = Steps(row.checked_before, row.downloaded_before, row.activated_before)
    return Effect(row.devices, row.counted, WakeUps(after, before), row.until, row.asked_at, row.ask_again_at)


class PushEffects:
    """Asks what pushes brought about, and keeps it.

    Args:
        database: has the pushes.
        warehouse: has what devices did.
        keep_logs: how long logs are kept at the most.
    """

    def __init__(self, database: Database, warehouse: WarehouseGate, keep_logs: timedelta) -> None:
        self._database = database
        self._warehouse = warehouse
        self._keep_logs = keep_logs
        # One after the other: each takes ClickHouse's time from whoever asks for other figures.
        self._turn = asyncio.Lock()

    async def get(self, job_id: str, now: datetime) -> Effect:
        """Return the effect of a push, asked anew where what is kept may have changed.

        Raises:
            Missing: its log was forgotten before the effect was asked for.
            Unavailable: ClickHouse, or the database, cannot be asked.
        """
        async with self._turn:
            async with self._database.read() as session:
                kept = await session.get(PushEffect, job_id)
            if kept is not None and (effect := effect_of(kept)).is_good(now):
                return effect
            return await self._ask(job_id, now)

    async def run(self) -> None:
        """Ask for the effects of pushes whose hour is over, and forget old logs, until cancelled."""
        while True:
            pause = LOOK_SECONDS
            try:
                await self.look(utc_now())
            except Unavailable as error:
                _log.warning("push_effects_postponed", reason=str(error), next_try_seconds=AWAY_SECONDS)
                pause = AWAY_SECONDS
            heed_cancellation()
            await asyncio.sleep(pause)

    async def look(self, now: datetime) -> None:
        """Do what is due.

        Raises:
            Unavailable: ClickHouse, or the database, cannot be asked.
        """
        async with self._database.write() as session:
            forgotten = await forget_old_logs(session, now, self._keep_logs)
        if forgotten:
            _log.info("push_logs_forgotten", pushes=forgotten)
        async with self._database.read() as session:
            due = list(await session.scalars(_due(now)))
        for job_id in due:
            try:
                async with self._turn:
                    await self._ask(job_id, now)
            except (Missing, Invalid) as error:  # deleted meanwhile, or too much for ClickHouse's limits
                _log.warning("push_effect_unknown", job=job_id, reason=str(error))

    async def _ask(self, job_id: str, now: datetime) -> Effect:
        async with self._database.read() as session:
            job, subject = await _job_and_subject(session, job_id)
            blocks = list(await session.execute(_blocks(job_id)))
        require_log(job)
        devices = sum(block.accepted for block in blocks)
        counted, woken = 0, WakeUps()
        for block in _sample(blocks, devices):
            sent = await self._accepted(job_id, block.after)
            counted += len(sent)
            with telling_of_clickhouse():
                woken += await wake_ups(self._warehouse.get(), subject, job.version, sent)
        last = max((block.last_sent_at for block in blocks), default=None)
        until = last + HOUR if last is not None and job.state in ENDED else None
        effect = Effect(devices, counted, woken, until, now, _next(job, until, now))
        await self._keep(job_id, effect)
        return effect

    async def _accepted(self, job_id: str, after: str) -> list[tuple[str, datetime]]:
        async with self._database.read() as session:
            block = await session.get(PushLog, (job_id, after))
        entries = [] if block is None else unpack(block.packed)
        return [(entry.device_id, entry.sent_at) for entry in entries if entry.outcome is Outcome.ACCEPTED]

    async def _keep(self, job_id: str, effect: Effect) -> None:
        after, before = effect.woken.after, effect.woken.before
        news = {
            "devices": effect.devices,
            "counted": effect.counted,
            "checked": after.checked,
            "downloaded": after.downloaded,
            "activated": after.activated,
            "checked_before": before.checked,
            "downloaded_before": before.downloaded,
            "activated_before": before.activated,
            "until": effect.until,
            "asked_at": effect.asked_at,
            "ask_again_at": effect.ask_again_at,
        }
        async with self._database.write() as session:
            if await session.get(PushJob, job_id) is None:
                return  # deleted meanwhile, with its model
            statement = insert_into(session, PushEffect).values(job_id=job_id, **news)
            await session.execute(statement.on_conflict_do_update(index_elements=["job_id"], set_=news))


def _due(now: datetime) -> Any:
    """Return the query for the pushes to ask about: those whose hour is over, and those whose figures may change."""
    over = PushJob.finished_at < now - HOUR - SHIPPED_AFTER
    return (
        select(PushJob.id)
        .outerjoin(PushEffect, PushEffect.job_id == PushJob.id)
        .where(
            PushJob.log_forgotten_at.is_(None),
            or_(and_(PushEffect.job_id.is_(None), over), PushEffect.ask_again_at <= now),
        )
        .order_by(PushJob.created_at)
        .limit(AT_ONCE)
    )


def _next(job: PushJob, until: datetime | None, now: datetime) -> datetime | None:
    if job.state not in ENDED:
        return now + HOUR
    if until is None or now >= until + FINAL_AFTER:
        return None
    settled = until + SHIPPED_AFTER
    return settled if now < settled else until + FINAL_AFTER


def _blocks(job_id: str) -> Any:
    return (
        select(PushLog.after, PushLog.accepted, PushLog.last_sent_at)
        .where(PushLog.job_id == job_id, PushLog.accepted > 0)
        .order_by(PushLog.after)
    )


def _sample(blocks: list[Row[Any]], devices: int) -> list[Row[Any]]:
    """Return the blocks to look at: all, or so many at even distances that they have about `MAX_COUNTED` devices."""
    if devices <= MAX_COUNTED:
        return blocks
    wanted = max(1, len(blocks) * MAX_COUNTED // devices)
    return [blocks[place * len(blocks) // wanted] for place in range(wanted)]


async def _job_and_subject(session: AsyncSession, job_id: str) -> tuple[PushJob, Subject]:
    query = (
        select(PushJob, Environment.name, Model, Application.organization_id)
        .join(Environment, Environment.id == PushJob.environment_id)
        .join(Application, Application.id == Environment.application_id)
        .join(Model, Model.id == PushJob.model_id)
        .where(PushJob.id == job_id)
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise Missing("There is no such push.")
    job, environment, model, organization_id = row
    names = await names_of(session, model)
    return job, Subject(organization_id, model.application_id, environment, names)
