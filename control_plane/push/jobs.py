"""Push jobs in the database: which devices a worker takes next, and what became of them.

A job goes through the devices of its environment in the order of their ids. A worker takes a *slice*: the next so many
devices, noted in one transaction with the job's new position, so that no device is in two slices and none is left out.
When the slice is sent, its results, the job's counts and the end of the slice are one transaction again. A worker that
dies in between leaves its slice behind; another one takes it up when nobody has said for a while that it is alive, and
sends it again. So at most one slice of each worker is sent twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, delete, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database
from control_plane.push import log
from control_plane.push.channel import Outcome, Result
from control_plane.tables import Device, DevicePush, PushJob, PushSlice, utc_now
from control_plane.upserts import insert_into

PENDING, RUNNING, PAUSED = "pending", "running", "paused"
FINISHED, CANCELLED, FAILED = "finished", "cancelled", "failed"
ACTIVE = (PENDING, RUNNING)
ENDED = (FINISHED, CANCELLED, FAILED)

# What a crash may send twice; at 5,000 pushes a second it takes two fifths of a second.
SLICE_DEVICES = 2_000
# How often a worker says that it is alive, and after how long without that its slices are another's.
HEARTBEAT_SECONDS = 5.0
ABANDONED_AFTER = timedelta(seconds=30)
REASON_LENGTH = 255
# What is kept of a device's own reason; the services' are single words.
REASON_KEPT = 64
# Different reasons that a job counts; services have some thirty.
MAX_REASONS = 64

APPLE, APPLE_SANDBOX, GOOGLE = "apns", "apns-sandbox", "fcm"
# After these a device may be awake. One that was refused, for want of a credential perhaps, is not.
WOKEN = (Outcome.ACCEPTED, Outcome.UNKNOWN)


def services_of(job: PushJob) -> tuple[str, ...]:
    """Return the services whose devices a job is for: a device has a token of one of Apple's servers or the other."""
    return (APPLE_SANDBOX if job.sandbox else APPLE, GOOGLE)


@dataclass(frozen=True, slots=True)
class Target:
    """A device to push to."""

    device_id: str
    token: str = field(repr=False)
    service: str


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a job that this worker sends to.

    Args:
        job: as it was when the slice was taken.
        after, last: devices behind the first id, up to the last one.
    """

    job: PushJob
    after: str
    last: str


async def claim(database: Database, worker: str, now: datetime) -> Slice | None:
    """Return the next slice to send, or None when there is nothing to do.

    Slices that were left behind come first. Jobs take turns, so that a small one need not wait for a large one.

    Args:
        worker: who takes it.
        now: the present moment.
    """
    async with database.write() as session:
        return await _take_up(session, worker, now) or await _cut(session, worker, now)


def _is_due(now: datetime) -> ColumnElement[bool]:
    return and_(PushJob.state.in_(ACTIVE), or_(PushJob.resume_at.is_(None), PushJob.resume_at <= now))


async def _take_up(session: AsyncSession, worker: str, now: datetime) -> Slice | None:
    left = or_(PushSlice.worker.is_(None), PushSlice.alive_at < now - ABANDONED_AFTER)
    query = (
        select(PushSlice, PushJob)
        .join(PushJob, PushJob.id == PushSlice.job_id)
        .where(left, _is_due(now))
        .order_by(PushSlice.alive_at, PushSlice.after)
        .limit(1)
        .with_for_update(of=PushSlice, skip_locked=True)
    )
    found = (await session.execute(query)).first()
    if found is None:
        return None
    part, job = found
    part.worker, part.alive_at = worker, now
    return Slice(job, part.after, part.last)


async def _cut(session: AsyncSession, worker: str, now: datetime) -> Slice | None:
    while True:
        query = (
            select(PushJob)
            .where(_is_due(now), PushJob.position.is_not(None))
            .order_by(func.coalesce(PushJob.claimed_at, PushJob.created_at), PushJob.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        job = (await session.scalars(query)).first()
        if job is None:
            return None
        after = job.position
        assert after is not None
        job.state, job.started_at, job.claimed_at = RUNNING, job.started_at or now, now
        job.reason = job.resume_at = None
        last = await _last_of_slice(session, job, after)
        if last is None:
            job.position = None
            await session.flush()
            await _finish_if_done(session, job.id, now)
            continue
        job.position = last
        session.add(PushSlice(job_id=job.id, after=after, last=last, worker=worker, alive_at=now))
        return Slice(job, after, last)


async def _last_of_slice(session: AsyncSession, job: PushJob, after: str) -> str | None:
    ids = _reachable(select(Device.device_id), job, after).order_by(Device.device_id).limit(SLICE_DEVICES).subquery()
    return await session.scalar(select(func.max(ids.c.device_id)))


def _reachable(query: Any, job: PushJob, after: str) -> Any:
    return query.where(
        Device.environment_id == job.environment_id,
        Device.device_id > after,
        Device.push_token.is_not(None),
        Device.push_service.in_(services_of(job)),
    )


async def targets_of(database: Database, part: Slice, spare_since: datetime) -> tuple[list[Target], int]:
    """Return the devices of a slice that are to be sent to, and how many are spared.

    A device that this job has sent to already, before its slice was interrupted, is neither.

    Args:
        part: the slice.
        spare_since: devices that a push woke since then, or may have, are spared.
    """
    query = (
        _reachable(
            select(
                *(Device.device_id, Device.push_token, Device.push_service),
                *(DevicePush.job_id, DevicePush.sent_at, DevicePush.outcome),
            ),
            part.job,
            part.after,
        )
        .outerjoin(
            DevicePush,
            and_(DevicePush.environment_id == Device.environment_id, DevicePush.device_id == Device.device_id),
        )
        .where(Device.device_id <= part.last)
        .order_by(Device.device_id)
    )
    targets, spared = [], 0
    async with database.read() as session:
        for device_id, token, service, job_id, sent_at, outcome in await session.execute(query):
            if job_id == part.job.id:
                continue
            if outcome in WOKEN and sent_at > spare_since:
                spared += 1
            else:
                targets.append(Target(device_id, token, service))
    return targets, spared


async def beat(database: Database, part: Slice, worker: str, now: datetime) -> bool:
    """Say that a slice is being sent; return whether to go on: it is still this worker's, and its job not held up."""
    async with database.write() as session:
        touched = await session.execute(
            update(PushSlice).where(_is_mine(part, worker)).values(alive_at=now).returning(PushSlice.after)
        )
        due = await session.scalar(select(PushJob.id).where(PushJob.id == part.job.id, _is_due(now)))
        return touched.first() is not None and due is not None


def _is_mine(part: Slice, worker: str) -> ColumnElement[bool]:
    return and_(PushSlice.job_id == part.job.id, PushSlice.after == part.after, PushSlice.worker == worker)


@dataclass(frozen=True, slots=True)
class Answered:
    """A device that was sent to, what became of it, and when it was sent to."""

    target: Target
    result: Result
    sent_at: datetime


@dataclass(slots=True)
class Sent:
    """What was sent of a slice.

    Args:
        results: of the devices that have one.
        spared: devices that were not sent to because they were woken a short while ago.
        whole: whether nothing of the slice is left.
    """

    results: list[Answered] = field(default_factory=list)
    spared: int = 0
    whole: bool = True


async def record(database: Database, part: Slice, worker: str, sent: Sent, now: datetime) -> bool:
    """Record what became of a slice, and give it back if something of it is left.

    Returns:
        Whether the slice was still this worker's. If not, another one has sent it as well, and counts it.
    """
    async with database.write() as session:
        job = await session.get(PushJob, part.job.id, with_for_update=True, populate_existing=True)
        mine = select(PushSlice).where(_is_mine(part, worker)).with_for_update()
        row = (await session.scalars(mine)).first()
        if job is None or row is None:
            return False
        entries = [
            log.entry(each.target.device_id, each.result.outcome, each.result.reason[:REASON_KEPT], each.sent_at)
            for each in sent.results
        ]
        await _remember(session, job, entries)
        await log.add_to_log(session, job.id, part.after, part.last, entries)
        await _retire(session, job.environment_id, sent.results, now)
        _count(job, sent)
        if sent.whole or job.state in ENDED:
            await session.delete(row)
            await session.flush()
            await _finish_if_done(session, job.id, now)
        else:
            row.worker = None
        return True


async def _remember(session: AsyncSession, job: PushJob, entries: Sequence[log.Entry]) -> None:
    """Note for each device that this was its last push."""
    rows = [
        {
            "environment_id": job.environment_id,
            "device_id": entry.device_id,
            "job_id": job.id,
            "outcome": entry.outcome.value,
            "reason": entry.reason,
            "sent_at": entry.sent_at,
        }
        for entry in entries
    ]
    if rows:
        statement = insert_into(session, DevicePush)
        news = {name: statement.excluded[name] for name in ("job_id", "outcome", "reason", "sent_at")}
        statement = statement.on_conflict_do_update(index_elements=["environment_id", "device_id"], set_=news)
        # One statement for each row, prepared once: a statement with all rows takes longer to write than to run.
        await (await session.connection()).execute(statement, rows)


async def _retire(session: AsyncSession, environment_id: str, results: Iterable[Answered], now: datetime) -> None:
    """Take away tokens that are no longer valid, unless the device has registered since they became so."""
    for each in results:
        target, result = each.target, each.result
        if result.outcome is not Outcome.GONE:
            continue
        conditions = [
            Device.environment_id == environment_id,
            Device.device_id == target.device_id,
            Device.push_token == target.token,
        ]
        if result.gone_at is not None:
            conditions.append(Device.updated_at <= result.gone_at)
        await session.execute(update(Device).where(*conditions).values(push_token=None, push_retired_at=now))


def _count(job: PushJob, sent: Sent) -> None:
    outcomes = Counter(each.result.outcome for each in sent.results)
    job.targeted += len(sent.results) + sent.spared
    job.accepted += outcomes[Outcome.ACCEPTED]
    job.gone += outcomes[Outcome.GONE]
    job.refused += outcomes[Outcome.REFUSED]
    job.unknown += outcomes[Outcome.UNKNOWN]
    job.spared += sent.spared
    reasons = Counter(job.reasons)
    for each in sent.results:
        reason = each.result.reason
        if reason and (reason in reasons or len(reasons) < MAX_REASONS):
            reasons[reason] += 1
    job.reasons = dict(reasons)


async def _finish_if_done(session: AsyncSession, job_id: str, now: datetime) -> None:
    slices = select(literal(1)).where(PushSlice.job_id == job_id).exists()
    done = update(PushJob).where(
        PushJob.id == job_id, PushJob.state.in_((RUNNING, PAUSED)), PushJob.position.is_(None), ~slices
    )
    await session.execute(done.values(state=FINISHED, finished_at=now, reason=None, resume_at=None))


async def hold(database: Database, job_id: str, until: datetime, reason: str) -> None:
    """Let nobody send for a job until then."""
    async with database.write() as session:
        held = update(PushJob).where(PushJob.id == job_id, PushJob.state.in_(ACTIVE))
        await session.execute(held.values(resume_at=until, reason=reason[:REASON_LENGTH]))


async def fail(database: Database, job_id: str, reason: str, now: datetime) -> None:
    """End a job that cannot be sent."""
    async with database.write() as session:
        await _end(session, job_id, FAILED, reason, now)


async def change_state(session: AsyncSession, job_id: str, to: str, now: datetime) -> bool:
    """Pause, resume or cancel a job; return whether it was in a state that allows it.

    Args:
        to: `PAUSED`, `RUNNING` or `CANCELLED`.
    """
    if to == CANCELLED:
        return await _end(session, job_id, CANCELLED, None, now)
    allowed = ACTIVE if to == PAUSED else (PAUSED,)
    resumed = case((PushJob.started_at.is_(None), PENDING), else_=RUNNING) if to == RUNNING else literal(PAUSED)
    changed = await session.execute(
        update(PushJob)
        .where(PushJob.id == job_id, PushJob.state.in_(allowed))
        .values(state=resumed, reason=None, resume_at=None)
        .returning(PushJob.id)
    )
    return changed.first() is not None


async def _end(session: AsyncSession, job_id: str, state: str, reason: str | None, now: datetime) -> bool:
    ended = await session.execute(
        update(PushJob)
        .where(PushJob.id == job_id, PushJob.state.not_in(ENDED))
        .values(state=state, reason=reason and reason[:REASON_LENGTH], finished_at=now, resume_at=None)
        .returning(PushJob.id)
    )
    if ended.first() is None:
        return False
    # What is being sent is recorded when that ends.
    await session.execute(delete(PushSlice).where(PushSlice.job_id == job_id, PushSlice.worker.is_(None)))
    return True


async def begin(session: AsyncSession, job: PushJob) -> None:
    """Add a job; a worker takes it up at its next look."""
    job.state, job.position, job.created_at = PENDING, "", utc_now()
    session.add(job)
    await session.flush()


async def seconds_to_next(database: Database, now: datetime) -> float | None:
    """Return when a job that is held may go on, in seconds from now; None when none is."""
    query = select(func.min(PushJob.resume_at)).where(PushJob.state.in_(ACTIVE), PushJob.resume_at > now)
    async with database.read() as session:
        at = await session.scalar(query)
    return None if at is None else max(0.0, (at - now).total_seconds())
