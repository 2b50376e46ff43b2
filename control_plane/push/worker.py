"""The worker: takes slices of push jobs and sends them, at a pace, with many notifications under way at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeGuard

import structlog

from control_plane.database import Database
from control_plane.errors import Unavailable
from control_plane.metrics import PUSH_JOBS_FAILED, PUSH_SLICES_LOST, PUSHES_SENT
from control_plane.push import jobs
from control_plane.push.channel import Channel, ChannelAway, ChannelUnusable, Notification, Outcome, Result
from control_plane.push.jobs import Answered, Sent, Slice, Target
from control_plane.push.pace import Pace
from control_plane.push.quiet_hours import QuietHours
from control_plane.tables import Model, utc_now
from control_plane.waiting import is_set_within
from telemetry.cancellation import heed_cancellation

# A deploy wakes the worker; this is for jobs that another control plane left behind.
POLL_SECONDS = 5.0
# While a service is away: how long until it is tried again, unless it says so itself.
AWAY_SECONDS = 60.0
# While the database is away.
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0

_log = structlog.get_logger(__name__)

# Gives the channel to a service for an environment, or None when it has no credential for it.
Channels = Callable[[str, str], Awaitable[Channel | None]]
# What became of it for a service.
Opened = Channel | ChannelUnusable | None


@dataclass(frozen=True, slots=True)
class PushPolicy:
    """How pushes are sent.

    Args:
        per_second: by this worker, of all jobs together.
        interval: no device is woken twice within it. Apple lets an app have two or three silent notifications an hour.
        expires: a notification that could not be delivered for so long is dropped; the app looks by itself then.
        quiet_hours: nobody is woken in them.
    """

    per_second: float = 1_000.0
    interval: timedelta = timedelta(minutes=20)
    expires: timedelta = timedelta(hours=24)
    quiet_hours: QuietHours | None = None


class PushWorker:
    """Sends what jobs there are.

    Args:
        database: with the jobs.
        channels: the services.
        policy: how to send.
        name: of this worker, unlike that of any other that may be at work.
        now: the present moment.
        rng: for pauses and pace.
        woken: set when a job was added, or may go on.
    """

    def __init__(
        self,
        database: Database,
        channels: Channels,
        policy: PushPolicy,
        name: str,
        *,
        now: Callable[[], datetime] = utc_now,
        rng: random.Random | None = None,
        woken: asyncio.Event | None = None,
    ) -> None:
        self._database = database
        self._channels = channels
        self._policy = policy
        self._name = name
        self._now = now
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._pace = Pace(policy.per_second, self._rng)
        self._woken = woken or asyncio.Event()

    async def run(self) -> None:
        """Send until cancelled; while the database is away, try again and again."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            self._woken.clear()
            try:
                await self._send_all()
                pause = FIRST_PAUSE_SECONDS
                heed_cancellation()
                await is_set_within(self._woken, await self._rest())
            except Unavailable as error:
                _log.warning("pushes_postponed", reason=str(error), next_try_seconds=pause)
                await asyncio.sleep(pause * (0.5 + self._rng.random() / 2))
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def send_one(self) -> bool:
        """Send one slice, or find out that it cannot be sent; return whether there was any."""
        part = await self._take()
        if part is None:
            return False
        sending = await self._prepare(part)
        if sending is not None:
            await self._send(part, sending)
        return True

    async def _send_all(self) -> None:
        """Send slice after slice while there are any; the next is prepared while one is sent."""
        part = await self._take()
        sending = await self._prepare(part) if part is not None else None
        while part is not None:
            upcoming = asyncio.create_task(self._take_and_prepare())
            try:
                if sending is not None and await jobs.beat(self._database, part, self._name, self._now()):
                    await self._send(part, sending)
                elif sending is not None:
                    await self._give_back(part)
            except BaseException:
                # What was taken for later is for the next who looks.
                after, _ = await asyncio.shield(upcoming)
                if after is not None:
                    await asyncio.shield(self._give_back(after))
                raise
            part, sending = await upcoming

    async def _take_and_prepare(self) -> tuple[Slice | None, _Sending | None]:
        part = await self._take()
        return part, await self._prepare(part) if part is not None else None

    async def _take(self) -> Slice | None:
        """Take a slice, but in quiet hours: then its job is held."""
        now = self._now()
        part = await jobs.claim(self._database, self._name, now)
        quiet_until = self._policy.quiet_hours and self._policy.quiet_hours.end_of(now)
        if part is None or not quiet_until:
            return part
        await self._give_back(part)
        await jobs.hold(self._database, part.job.id, quiet_until, f"quiet hours until {quiet_until:%H:%M %Z}")
        return await self._take()

    async def _give_back(self, part: Slice) -> None:
        await jobs.record(self._database, part, self._name, Sent(whole=False), self._now())

    async def _rest(self) -> float:
        held = await jobs.seconds_to_next(self._database, self._now())
        return POLL_SECONDS if held is None else min(POLL_SECONDS, held)

    async def _prepare(self, part: Slice) -> _Sending | None:
        """Return the sending of a slice; None when it cannot be sent at all."""
        try:
            return await self._sending(part)
        except ChannelUnusable as error:
            await self._give_back(part)
            await self._fail(part, error)
            return None

    async def _send(self, part: Slice, sending: _Sending) -> None:
        """Send a slice to its end, or until its job is paused, its channel is away, or this worker is cancelled."""
        beating = asyncio.create_task(self._keep_alive(part, sending))
        try:
            await sending.run()
        finally:
            # Not cancelled: a transaction that is cancelled half-way takes its connection with it.
            sending.ended.set()
            await asyncio.shield(beating)
            # Also when this worker ends: what was sent is known, and is not sent again.
            await asyncio.shield(self._record(part, sending))
        if sending.unusable is not None:
            await self._fail(part, sending.unusable)
        elif sending.away is not None:
            seconds = sending.away.retry_after or AWAY_SECONDS
            _log.warning("push_held", job=part.job.id, reason=str(sending.away), seconds=seconds)
            until = self._now() + timedelta(seconds=seconds)
            await jobs.hold(self._database, part.job.id, until, str(sending.away))

    async def _fail(self, part: Slice, error: ChannelUnusable) -> None:
        PUSH_JOBS_FAILED.labels(error.reason).inc()
        _log.error("push_failed", job=part.job.id, reason=error.reason)
        await jobs.fail(self._database, part.job.id, str(error), self._now())

    async def _sending(self, part: Slice) -> _Sending:
        targets, spared = await jobs.targets_of(self._database, part, self._now() - self._policy.interval)
        async with self._database.read() as session:
            model = await session.get(Model, part.job.model_id)
        name = model.name if model is not None else ""
        notification = Notification(name, part.job.version, self._now() + self._policy.expires)
        channels = {
            service: await self._open(part.job.environment_id, service) for service in jobs.services_of(part.job)
        }
        unusable = [each for each in channels.values() if isinstance(each, ChannelUnusable)]
        if unusable and not _any_usable(channels):
            raise unusable[0]
        return _Sending(targets, spared, notification, channels, self._pace, self._now)

    async def _open(self, environment_id: str, service: str) -> Opened:
        try:
            return await self._channels(environment_id, service)
        except ChannelUnusable as error:
            return error

    async def _keep_alive(self, part: Slice, sending: _Sending) -> None:
        while not await is_set_within(sending.ended, jobs.HEARTBEAT_SECONDS):
            try:
                if not await jobs.beat(self._database, part, self._name, self._now()):
                    sending.stop()
            except Unavailable:
                continue  # the next beat may come through; if none does, the slice becomes another's

    async def _record(self, part: Slice, sending: _Sending) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                mine = await jobs.record(self._database, part, self._name, sending.sent(), self._now())
            except Unavailable:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                continue
            if not mine:
                PUSH_SLICES_LOST.inc()
                _log.warning("push_slice_lost", job=part.job.id)
            return


class _Sending:
    """The sending of one slice."""

    def __init__(
        self,
        targets: Sequence[Target],
        spared: int,
        notification: Notification,
        channels: dict[str, Opened],
        pace: Pace,
        now: Callable[[], datetime],
    ) -> None:
        self._targets = targets
        self._spared = spared
        self._notification = notification
        self._channels = channels
        self._pace = pace
        self._now = now
        self._results: dict[str, Answered] = {}
        self._stopped = False
        capacity = min((each.capacity for each in channels.values() if _is_usable(each)), default=1)
        self._places = asyncio.Semaphore(capacity)
        self.ended = asyncio.Event()
        self.away: ChannelAway | None = None
        self.unusable: ChannelUnusable | None = None

    def stop(self) -> None:
        """Begin with no more devices."""
        self._stopped = True

    def sent(self) -> Sent:
        """Return what has been sent so far."""
        whole = len(self._results) == len(self._targets)
        return Sent(list(self._results.values()), self._spared if whole else 0, whole)

    async def run(self) -> None:
        """Send to all; return when none is under way any more."""
        under_way: set[asyncio.Task[None]] = set()
        try:
            for target in self._targets:
                await self._pace.permit()
                await self._places.acquire()
                if self._stopped:
                    self._places.release()
                    break
                task = asyncio.create_task(self._send(target))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
        finally:
            await _all_done(under_way)

    async def _send(self, target: Target) -> None:
        try:
            sent_at = self._now()
            result = await self._result_of(target)
            self._results[target.device_id] = Answered(target, result, sent_at)
            PUSHES_SENT.labels(result.outcome.value).inc()
        except ChannelAway as error:
            self.away = error
            self._stopped = True
        except ChannelUnusable as error:
            self.unusable = error
            self._stopped = True
        finally:
            self._places.release()

    async def _result_of(self, target: Target) -> Result:
        """Send to a device.

        A service whose credential is refused is the end of the job only when there is no other one to send through.
        """
        channel = self._channels[target.service]
        if channel is None:
            return Result(Outcome.REFUSED, "NoCredential")
        if isinstance(channel, ChannelUnusable):
            return Result(Outcome.REFUSED, channel.reason)
        try:
            return await channel.send(target.token, self._notification)
        except ChannelUnusable as error:
            if self._channels[target.service] is channel:
                _log.error("push_service_unusable", service=target.service, reason=error.reason, told=str(error))
                self._channels[target.service] = error
            if not _any_usable(self._channels):
                raise
            return Result(Outcome.REFUSED, error.reason)


def _is_usable(opened: Opened) -> TypeGuard[Channel]:
    return opened is not None and not isinstance(opened, ChannelUnusable)


def _any_usable(channels: Mapping[str, Opened]) -> bool:
    return any(map(_is_usable, channels.values()))


async def _all_done(tasks: set[asyncio.Task[None]]) -> None:
    """Wait for tasks also when this one is cancelled meanwhile: what they have sent must not be forgotten."""
    cancelled = False
    while tasks:
        try:
            await asyncio.wait(set(tasks))
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
