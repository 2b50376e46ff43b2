"""An environment with devices of both services: each is sent through its own, and neither holds the other up."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest_asyncio
import structlog
from sqlalchemy import insert

from control_plane.push import jobs
from control_plane.push.channel import Channel, ChannelUnusable
from control_plane.push.jobs import APPLE, FAILED, FINISHED, GOOGLE
from control_plane.push.worker import PushPolicy, PushWorker
from control_plane.tables import Device, PushJob
from tests.control_plane.push.conftest import Apple, Google
from tests.control_plane.world import Clock, World, open_world

APPLES, GOOGLES = range(10), range(10, 30)


@dataclass
class Both:
    """Devices of both services, which take turns by their ids, and a worker."""

    world: World
    apple: Apple
    google: Google
    clock: Clock = field(default_factory=Clock)
    channels: dict[str, Channel | ChannelUnusable] = field(default_factory=dict)

    async def channel(self, _: str, service: str) -> Channel | None:
        found = self.channels.get(service)
        if isinstance(found, ChannelUnusable):
            raise found
        return found

    async def register(self) -> None:
        rows = [
            {
                "environment_id": self.world.prod.id,
                "device_id": f"device-{number % 3}-{number:05d}",
                "facts": {},
                "push_token": f"{number:064x}",
                "push_service": service,
                "registered_at": self.clock() - timedelta(days=1),
                "updated_at": self.clock() - timedelta(days=1),
            }
            for service, numbers in ((APPLE, APPLES), (GOOGLE, GOOGLES))
            for number in numbers
        ]
        async with self.world.database.write() as session:
            await session.execute(insert(Device), rows)

    async def push(self) -> PushJob:
        """Begin a push and send all of it."""
        job = PushJob(environment_id=self.world.prod.id, model_id=self.world.model.id, version=3, sandbox=False)
        async with self.world.database.write() as session:
            await jobs.begin(session, job)
        policy, rng = PushPolicy(per_second=1e6), random.Random(1)
        worker = PushWorker(self.world.database, self.channel, policy, "worker", now=self.clock, rng=rng)
        while await worker.send_one():
            pass
        async with self.world.database.read() as session:
            return await session.get_one(PushJob, job.id)

    def sent(self) -> tuple[list[int], list[int]]:
        """Return which devices each service has accepted a notification for."""
        apples = sorted(int(push.device_token, 16) for push in self.apple.server.accepted)
        return apples, sorted(int(push.device_token, 16) for push in self.google.server.accepted)


@pytest_asyncio.fixture
async def both(tmp_path: Path, apple: Apple, google: Google) -> AsyncIterator[Both]:
    apple_channel, google_channel = apple.channel(), google.channel()
    async with open_world(tmp_path, f"sqlite:///{tmp_path / 'test.sqlite3'}") as world:
        both = Both(world, apple, google, channels={APPLE: apple_channel, GOOGLE: google_channel})
        await both.register()
        yield both
    await apple_channel.close()
    await google_channel.close()


async def test_each_device_is_sent_to_through_its_own_service(both: Both) -> None:
    job = await both.push()
    assert (job.state, job.targeted, job.accepted) == (FINISHED, 30, 30)
    assert both.sent() == (list(APPLES), list(GOOGLES))


async def test_an_account_that_google_refuses_leaves_apples_devices_to_be_sent_to(both: Both) -> None:
    both.google.server.behaviour.token_failures = ["invalid_grant"] * 100
    with structlog.testing.capture_logs() as logs:
        job = await both.push()
    assert (job.state, job.targeted, job.accepted, job.refused) == (FINISHED, 30, 10, 20)
    assert job.reasons == {"invalid_grant": 20}
    assert both.sent() == (list(APPLES), [])
    told = [each for each in logs if each["event"] == "push_service_unusable"]
    assert [each["service"] for each in told] == [GOOGLE]
    assert "Create a new one" in told[0]["told"]


async def test_a_credential_that_cannot_be_opened_leaves_the_other_service_to_be_sent_through(both: Both) -> None:
    both.channels[APPLE] = ChannelUnusable("The push certificate expired on 2026-01-01.", "CertificateExpired")
    job = await both.push()
    assert (job.state, job.accepted, job.refused) == (FINISHED, 20, 10)
    assert job.reasons == {"CertificateExpired": 10}


async def test_without_any_credential_that_is_accepted_the_push_fails_with_a_sentence(both: Both) -> None:
    both.google.server.behaviour.token_failures = ["invalid_grant"] * 100
    both.apple.server.behaviour.failures = ["InvalidProviderToken"] * 100
    job = await both.push()
    assert (job.state, job.accepted) == (FAILED, 0)
    assert job.reason is not None
    both.channels = {GOOGLE: ChannelUnusable("The push credential cannot be opened.", "Sealed")}
    job = await both.push()
    assert (job.state, job.reason) == (FAILED, "The push credential cannot be opened.")


async def test_devices_that_were_refused_for_want_of_a_credential_are_not_spared_when_there_is_one(both: Both) -> None:
    google = both.channels.pop(GOOGLE)
    job = await both.push()
    assert (job.accepted, job.refused, job.reasons) == (10, 20, {"NoCredential": 20})
    both.channels[GOOGLE] = google
    job = await both.push()
    assert (job.accepted, job.refused, job.spared) == (20, 0, 10)


async def test_a_push_waits_visibly_while_google_is_over_its_quota_and_goes_on(both: Both) -> None:
    both.google.server.behaviour.failures = ["QUOTA_EXCEEDED"]
    job = await both.push()
    assert job.state == jobs.RUNNING
    assert job.reason is not None
    assert job.reason.startswith("Google's push service asks to come back in ")
    assert job.resume_at is not None
    assert timedelta(seconds=60) <= job.resume_at - both.clock() <= timedelta(seconds=90)
    both.clock.now = job.resume_at
    again = await both.push()
    assert (again.state, again.spared + again.accepted) == (FINISHED, 30)
    assert both.sent() == (list(APPLES), list(GOOGLES))
