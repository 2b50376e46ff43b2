"""Push jobs: every device once, whatever is paused, cancelled, away or cut off in between."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import pytest_asyncio
from sqlalchemy import insert, select, update

from control_plane.push import apns, jobs, worker
from control_plane.push.channel import Channel
from control_plane.push.jobs import APPLE, APPLE_SANDBOX, CANCELLED, FAILED, FINISHED, PAUSED, PENDING, RUNNING
from control_plane.push.quiet_hours import QuietHours
from control_plane.push.worker import PushPolicy, PushWorker
from control_plane.tables import Device, DevicePush, PushJob, PushSlice
from tests.control_plane.databases import fresh_database
from tests.control_plane.push.conftest import Apple
from tests.control_plane.world import Clock, World, open_world

__all__ = ["fresh_database"]

FAST = PushPolicy(per_second=1e6)
NOW = datetime.now(UTC).replace(microsecond=0)


def token_of(number: int) -> str:
    return f"{number:064x}"


@dataclass
class Pushing:
    """A database with devices, a push server, and workers on both."""

    world: World
    apple: Apple
    clock: Clock = field(default_factory=Clock)
    channels: dict[str, Channel] = field(default_factory=dict)

    async def channel(self, _: str, service: str) -> Channel | None:
        if service != APPLE:
            return None
        if service not in self.channels:
            self.channels[service] = self.apple.channel()
        return self.channels[service]

    def worker(self, policy: PushPolicy = FAST, name: str = "worker-0") -> PushWorker:
        return PushWorker(self.world.database, self.channel, policy, name, now=self.clock, rng=random.Random(1))

    async def register(self, count: int, first: int = 0, service: str = APPLE) -> None:
        rows = [
            {
                "environment_id": self.world.prod.id,
                "device_id": f"device-{number:05d}",
                "facts": {},
                "push_token": token_of(number),
                "push_service": service,
                "registered_at": self.clock() - timedelta(days=1),
                "updated_at": self.clock() - timedelta(days=1),
            }
            for number in range(first, first + count)
        ]
        async with self.world.database.write() as session:
            await session.execute(insert(Device), rows)

    async def begin(self, version: int = 3, sandbox: bool = False) -> str:
        job = PushJob(environment_id=self.world.prod.id, model_id=self.world.model.id, version=version, sandbox=sandbox)
        async with self.world.database.write() as session:
            await jobs.begin(session, job)
        return job.id

    async def job(self, job_id: str) -> PushJob:
        async with self.world.database.read() as session:
            return await session.get_one(PushJob, job_id)

    async def change(self, job_id: str, to: str) -> bool:
        async with self.world.database.write() as session:
            return await jobs.change_state(session, job_id, to, self.clock())

    async def send_all(self, *workers: PushWorker) -> None:
        for each in workers or (self.worker(),):
            while await each.send_one():
                pass

    async def slices(self) -> int:
        async with self.world.database.read() as session:
            return len(list(await session.scalars(select(PushSlice))))

    async def device(self, number: int) -> Device:
        async with self.world.database.read() as session:
            return await session.get_one(Device, (self.world.prod.id, f"device-{number:05d}"))

    def sent(self) -> Counter[int]:
        """How often each device was sent to."""
        return Counter(int(push.device_token, 16) for push in self.apple.server.accepted)


@pytest_asyncio.fixture
async def pushing(
    tmp_path: Path, fresh_database: str, apple: Apple, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Pushing]:
    monkeypatch.setattr(jobs, "SLICE_DEVICES", 50)
    monkeypatch.setattr(apns, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(apns, "LONGEST_PAUSE_SECONDS", 0.02)
    async with open_world(tmp_path, fresh_database) as world:
        pushing = Pushing(world, apple)
        yield pushing
        for channel in pushing.channels.values():
            await channel.close()


async def test_every_device_is_sent_to_once_and_counted(pushing: Pushing) -> None:
    await pushing.register(170)
    job_id = await pushing.begin()
    assert (await pushing.job(job_id)).state == PENDING
    await pushing.send_all()
    job = await pushing.job(job_id)
    assert (job.state, job.position, job.targeted, job.accepted) == (FINISHED, None, 170, 170)
    assert job.started_at is not None
    assert job.finished_at is not None
    assert pushing.sent() == Counter(range(170))
    assert {push.payload["skafos"]["version"] for push in pushing.apple.server.accepted} == {3}
    assert await pushing.slices() == 0


async def test_workers_share_a_job_without_sending_twice(pushing: Pushing) -> None:
    await pushing.register(400)
    pushing.apple.server.behaviour.delay = 0.01
    job_id = await pushing.begin()
    several = [pushing.worker(name=f"worker-{number}") for number in range(3)]
    await asyncio.gather(*(pushing.send_all(each) for each in several))
    assert (await pushing.job(job_id)).state == FINISHED
    assert pushing.sent() == Counter(range(400))


async def test_an_environment_without_devices_is_finished_at_once(pushing: Pushing) -> None:
    job_id = await pushing.begin()
    await pushing.send_all()
    job = await pushing.job(job_id)
    assert (job.state, job.targeted) == (FINISHED, 0)


async def test_tokens_of_apples_other_server_and_of_nobody_are_left_alone(pushing: Pushing) -> None:
    await pushing.register(5)
    await pushing.register(5, first=5, service=APPLE_SANDBOX)
    await pushing.register(5, first=10, service="unknown")
    job_id = await pushing.begin()
    await pushing.send_all()
    assert pushing.sent() == Counter(range(5))
    assert (await pushing.job(job_id)).targeted == 5


async def test_outcomes_are_counted_by_reason_and_kept_for_each_device(pushing: Pushing) -> None:
    await pushing.register(20)
    refuse = pushing.apple.server.behaviour.refuse
    refuse |= {token_of(1): "BadDeviceToken", token_of(2): "BadDeviceToken", token_of(3): "DeviceTokenNotForTopic"}
    job_id = await pushing.begin()
    await pushing.send_all()
    job = await pushing.job(job_id)
    assert (job.targeted, job.accepted, job.refused, job.gone) == (20, 17, 3, 0)
    assert job.reasons == {"BadDeviceToken": 2, "DeviceTokenNotForTopic": 1}
    async with pushing.world.database.read() as session:
        last = await session.get_one(DevicePush, (pushing.world.prod.id, "device-00003"))
    assert (last.job_id, last.outcome, last.reason) == (job_id, "refused", "DeviceTokenNotForTopic")


@pytest.mark.parametrize("since_then", [True, False])
async def test_a_token_that_is_gone_is_taken_away_unless_the_device_has_registered_since(
    pushing: Pushing, since_then: bool
) -> None:
    await pushing.register(2)
    registered = (await pushing.device(1)).updated_at
    gone_at = registered + timedelta(hours=-1 if since_then else 1)
    pushing.apple.server.behaviour.refuse = {token_of(1): "Unregistered"}
    pushing.apple.server.behaviour.unregistered_at = int(gone_at.timestamp() * 1000)
    job_id = await pushing.begin()
    await pushing.send_all()
    device = await pushing.device(1)
    assert (device.push_token is None) is not since_then
    assert (device.push_retired_at is None) is since_then
    assert (await pushing.job(job_id)).gone == 1


async def test_a_token_that_was_replaced_meanwhile_stays(pushing: Pushing) -> None:
    await pushing.register(1)
    pushing.apple.server.behaviour.refuse = {token_of(0): "Unregistered"}
    pushing.apple.server.behaviour.unregistered_at = int(pushing.clock().timestamp() * 1000)
    pushing.apple.server.behaviour.delay = 0.2
    await pushing.begin()
    sending = asyncio.create_task(pushing.worker().send_one())
    await asyncio.sleep(0.1)
    async with pushing.world.database.write() as session:
        await session.execute(update(Device).values(push_token=token_of(77)))
    await sending
    assert (await pushing.device(0)).push_token == token_of(77)


async def test_a_device_is_not_woken_twice_within_the_interval(pushing: Pushing) -> None:
    await pushing.register(60)
    await pushing.begin(version=1)
    await pushing.send_all()
    pushing.clock.now += timedelta(minutes=5)
    await pushing.register(10, first=60)
    again = await pushing.begin(version=2)
    await pushing.send_all()
    job = await pushing.job(again)
    assert (job.state, job.targeted, job.accepted, job.spared) == (FINISHED, 70, 10, 60)
    pushing.clock.now += timedelta(minutes=20)
    later = await pushing.begin(version=3)
    await pushing.send_all()
    assert (await pushing.job(later)).accepted == 70


async def test_a_job_is_paused_and_goes_on_where_it_was(pushing: Pushing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(jobs, "SLICE_DEVICES", 200)
    await pushing.register(200)
    pushing.apple.server.behaviour.delay = 0.02
    job_id = await pushing.begin()
    slow = PushPolicy(per_second=200)
    sending = asyncio.create_task(pushing.worker(slow).send_one())
    await asyncio.sleep(0.06)
    assert await pushing.change(job_id, PAUSED)
    await sending
    before = len(pushing.apple.server.accepted)
    assert 0 < before < 200
    assert not await pushing.worker().send_one()
    assert (await pushing.job(job_id)).state == PAUSED
    assert await pushing.change(job_id, RUNNING)
    await pushing.send_all()
    assert (await pushing.job(job_id)).state == FINISHED
    assert pushing.sent() == Counter(range(200))


async def test_a_cancelled_job_sends_no_more_and_tells_what_it_sent(
    pushing: Pushing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(jobs, "SLICE_DEVICES", 200)
    await pushing.register(200)
    pushing.apple.server.behaviour.delay = 0.02
    job_id = await pushing.begin()
    sending = asyncio.create_task(pushing.worker(PushPolicy(per_second=200)).send_one())
    await asyncio.sleep(0.06)
    assert await pushing.change(job_id, CANCELLED)
    await sending
    assert not await pushing.worker().send_one()
    job = await pushing.job(job_id)
    assert job.state == CANCELLED
    assert job.accepted == len(pushing.apple.server.accepted)
    assert 0 < job.accepted < 200
    assert await pushing.slices() == 0
    for to in (PAUSED, RUNNING, CANCELLED):
        assert not await pushing.change(job_id, to)


async def test_a_job_is_held_while_the_service_is_away(pushing: Pushing) -> None:
    await pushing.register(30)
    pushing.apple.server.behaviour.failures = ["ServiceUnavailable"] * 2
    pushing.apple.server.behaviour.retry_after = 600
    job_id = await pushing.begin()
    await pushing.send_all()
    job = await pushing.job(job_id)
    assert job.state == RUNNING
    assert job.reason == "Apple's push service asks to come back in 600 seconds."
    assert job.resume_at == pushing.clock() + timedelta(seconds=600)
    pushing.clock.now += timedelta(seconds=601)
    await pushing.send_all()
    job = await pushing.job(job_id)
    assert (job.state, job.reason, job.accepted) == (FINISHED, None, 30)
    assert pushing.sent() == Counter(range(30))


async def test_a_job_whose_credential_is_refused_fails_with_a_sentence(pushing: Pushing) -> None:
    await pushing.register(30)
    pushing.apple.server.behaviour.failures = ["InvalidProviderToken"] * 30
    job_id = await pushing.begin()
    await pushing.send_all()
    job = await pushing.job(job_id)
    assert (job.state, job.accepted) == (FAILED, 0)
    assert job.reason is not None
    assert "key id and team id" in job.reason
    assert not await pushing.worker().send_one()


async def test_without_a_credential_for_their_service_devices_are_refused(pushing: Pushing) -> None:
    await pushing.register(3)
    await pushing.register(2, first=3, service="fcm")
    job_id = await pushing.begin()
    await pushing.send_all()
    job = await pushing.job(job_id)
    assert (job.accepted, job.refused, job.reasons) == (3, 2, {"NoCredential": 2})


async def test_nobody_is_woken_in_quiet_hours(pushing: Pushing) -> None:
    await pushing.register(3)
    pushing.clock.now = datetime(2026, 6, 1, 22, 30, tzinfo=UTC)
    quiet = PushPolicy(per_second=1e6, quiet_hours=QuietHours.parse("22:00-07:00", "UTC"))
    job_id = await pushing.begin()
    await pushing.send_all(pushing.worker(quiet))
    job = await pushing.job(job_id)
    assert (job.state, job.accepted, job.reason) == (RUNNING, 0, "quiet hours until 07:00 UTC")
    assert job.resume_at == datetime(2026, 6, 2, 7, 0, tzinfo=UTC)
    pushing.clock.now = datetime(2026, 6, 2, 7, 0, tzinfo=UTC)
    await pushing.send_all(pushing.worker(quiet))
    assert (await pushing.job(job_id)).accepted == 3


async def test_a_slice_that_was_left_behind_is_taken_up_when_nobody_is_alive(pushing: Pushing) -> None:
    await pushing.register(120)
    job_id = await pushing.begin()
    part = await jobs.claim(pushing.world.database, "dead", pushing.clock())
    assert part is not None
    await pushing.send_all()
    assert (await pushing.job(job_id)).state == RUNNING
    assert pushing.sent() == Counter(range(50, 120))
    pushing.clock.now += jobs.ABANDONED_AFTER + timedelta(seconds=1)
    await pushing.send_all()
    assert (await pushing.job(job_id)).state == FINISHED
    assert pushing.sent() == Counter(range(120))
    # The one that was thought dead comes back: its results count for nothing.
    assert not await jobs.record(pushing.world.database, part, "dead", jobs.Sent(), pushing.clock())
    assert not await jobs.beat(pushing.world.database, part, "dead", pushing.clock())


async def test_a_worker_that_is_told_to_end_records_what_it_sent(pushing: Pushing) -> None:
    await pushing.register(100)
    pushing.apple.server.behaviour.delay = 0.05
    job_id = await pushing.begin()
    running = asyncio.create_task(pushing.worker(PushPolicy(per_second=100)).run())
    async with asyncio.timeout(60):
        while len(pushing.apple.server.accepted) < 5:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    sent = len(pushing.apple.server.accepted)
    assert 0 < sent < 100
    assert (await pushing.job(job_id)).accepted == sent
    await pushing.send_all()
    assert pushing.sent() == Counter(range(100))


async def test_jobs_take_turns(pushing: Pushing) -> None:
    await pushing.register(200)
    first = await pushing.begin(version=1)
    async with pushing.world.database.write() as session:
        other = PushJob(environment_id=pushing.world.dev.id, model_id=pushing.world.model.id, version=9, sandbox=False)
        await jobs.begin(session, other)
    one = pushing.worker()
    for _ in range(2):
        pushing.clock.now += timedelta(seconds=1)
        await one.send_one()
    assert (await pushing.job(first)).state == RUNNING
    assert (await pushing.job(other.id)).state == FINISHED


async def test_what_is_added_wakes_the_worker(pushing: Pushing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "POLL_SECONDS", 3600.0)
    await pushing.register(3)
    woken = asyncio.Event()
    sending = PushWorker(pushing.world.database, pushing.channel, FAST, "worker-0", woken=woken)
    running = asyncio.create_task(sending.run())
    await asyncio.sleep(0.05)
    job_id = await pushing.begin()
    woken.set()
    async with asyncio.timeout(20):
        while (await pushing.job(job_id)).state != FINISHED:  # noqa: ASYNC110 - it is in the database
            await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


HOURS: Callable[[str], QuietHours] = lambda text: QuietHours.parse(text, "Europe/Vienna")  # noqa: E731


@pytest.mark.parametrize(
    ("hours", "local", "ends"),
    [
        ("22:00-07:00", "2026-06-01T21:59", None),
        ("22:00-07:00", "2026-06-01T22:00", "2026-06-02T07:00"),
        ("22:00-07:00", "2026-06-02T06:59", "2026-06-02T07:00"),
        ("22:00-07:00", "2026-06-02T07:00", None),
        ("12:00-13:30", "2026-06-01T13:29", "2026-06-01T13:30"),
        ("12:00-13:30", "2026-06-01T11:59", None),
    ],
)
def test_quiet_hours_are_those_of_their_zone(hours: str, local: str, ends: str | None) -> None:
    zone = ZoneInfo("Europe/Vienna")
    now = datetime.fromisoformat(local).replace(tzinfo=zone)
    expected = None if ends is None else datetime.fromisoformat(ends).replace(tzinfo=zone)
    assert HOURS(hours).end_of(now.astimezone(UTC)) == expected


@pytest.mark.parametrize("text", ["", "22-7", "22:00-22:00", "25:00-07:00", "22:00_07:00"])
def test_what_are_no_hours_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        HOURS(text)
    with pytest.raises(ValueError, match="no time zone"):
        QuietHours.parse("22:00-07:00", "Mars/Olympus")
