"""The log of a push: what became of each device, whole, in order, within bounds, and gone when it is to be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from control_plane.eraser import delete_device
from control_plane.errors import Missing
from control_plane.push import jobs, log
from control_plane.push.channel import Outcome
from control_plane.push.log import Entry, Place, add_to_log, fetch_log, forget_old_logs, pack, require_log, unpack
from control_plane.tables import DevicePush, PushJob, PushLog
from tests.control_plane.databases import fresh_database
from tests.control_plane.world import World, open_world

__all__ = ["fresh_database"]

NOW = datetime(2026, 6, 1, 12, 0, 0, 123_000, UTC)
KEEP = timedelta(days=90)
IDS = st.text("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._:-", min_size=1, max_size=64)


@pytest.fixture
async def world(tmp_path: Path, fresh_database: str) -> AsyncIterator[World]:
    async with open_world(tmp_path, fresh_database) as world:
        yield world


async def begin(world: World, created_at: datetime = NOW, state: str = jobs.FINISHED) -> str:
    job = PushJob(environment_id=world.prod.id, model_id=world.model.id, version=3, sandbox=False)
    async with world.database.write() as session:
        await jobs.begin(session, job)
        job.state, job.created_at = state, created_at
        job.finished_at = created_at if state in jobs.ENDED else None
    return job.id


def entry(number: int, outcome: Outcome = Outcome.ACCEPTED, reason: str = "") -> Entry:
    return Entry(f"device-{number:05d}", outcome, reason, NOW + timedelta(milliseconds=7 * number))


async def add(world: World, job_id: str, after: str, last: str, *entries: Entry) -> None:
    async with world.database.write() as session:
        await add_to_log(session, job_id, after, last, entries)


async def pages(world: World, job_id: str, outcome: Outcome | None = None, limit: int = 1000) -> list[list[Entry]]:
    """Return all pages of a log."""
    found, place = [], None
    while True:
        async with world.database.read() as session:
            entries, place = await fetch_log(session, job_id, outcome, place, limit)
        found.append(entries)
        if place is None:
            return found


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.builds(
            Entry,
            IDS,
            st.sampled_from(Outcome),
            st.text(max_size=64),
            st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(
                lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
            ),
        ),
        max_size=30,
    )
)
def test_a_block_gives_back_what_was_put_in(entries: list[Entry]) -> None:
    assert unpack(pack(entries)) == entries


async def test_pages_go_through_the_devices_in_order_whatever_their_size(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "BLOCKS_AT_ONCE", 2)
    job_id = await begin(world)
    numbers = list(range(1, 51))
    outcomes = {7: Outcome.REFUSED, 31: Outcome.GONE, 32: Outcome.REFUSED, 50: Outcome.REFUSED}
    entries = {n: entry(n, outcomes.get(n, Outcome.ACCEPTED), "No" if n in outcomes else "") for n in numbers}
    for first in range(1, 51, 10):
        # As they were answered, not as they are called.
        block = [entries[n] for n in reversed(range(first, first + 10))]
        after = "" if first == 1 else f"device-{first - 1:05d}"
        await add(world, job_id, after, f"device-{first + 9:05d}", *block)
    for limit in (1, 3, 10, 49, 50, 51):
        got = await pages(world, job_id, limit=limit)
        assert [each for page in got for each in page] == [entries[n] for n in numbers]
        assert all(len(page) == limit for page in got[:-1])
        assert got[-1], "no empty page at the end"
    for limit in (1, 2, 10):
        refused = [each for page in await pages(world, job_id, Outcome.REFUSED, limit) for each in page]
        assert refused == [entries[7], entries[32], entries[50]]
    assert await pages(world, job_id, Outcome.UNKNOWN) == [[]]
    assert await pages(world, await begin(world)) == [[]]
    async with world.database.read() as session:
        beyond = await fetch_log(session, job_id, None, Place("device-99999", ""), 10)
    assert beyond == ([], None)


async def test_a_slice_that_goes_on_adds_to_its_block(world: World) -> None:
    job_id = await begin(world, state=jobs.RUNNING)
    await add(world, job_id, "", "device-00009", entry(3), entry(1, Outcome.UNKNOWN, "Timeout"))
    await add(world, job_id, "", "device-00009", entry(2), entry(1))
    assert await pages(world, job_id) == [[entry(1), entry(2), entry(3)]]
    async with world.database.read() as session:
        block = (await session.scalars(select(PushLog))).one()
    assert (block.accepted, block.unknown, block.last_sent_at) == (3, 0, entry(3).sent_at)


async def test_an_erased_device_is_in_no_log(world: World) -> None:
    first, second = await begin(world), await begin(world)
    await add(world, first, "", "device-00002", entry(1), entry(2, Outcome.REFUSED))
    await add(world, second, "", "device-00001", entry(1))
    await add(world, second, "device-00001", "device-00002", entry(2))
    async with world.database.write() as session:
        for number in (1, 2):
            session.add(
                DevicePush(
                    environment_id=world.prod.id, device_id=entry(number).device_id, job_id=second, outcome="accepted"
                )
            )
    async with world.database.write() as session:
        await delete_device(session, world.organization.id, "device-00002")
        await delete_device(session, world.organization.id, "device-00003")
    assert await pages(world, first) == [[entry(1)]]
    assert await pages(world, second) == [[entry(1)]]
    assert await pages(world, first, Outcome.REFUSED) == [[]]
    async with world.database.read() as session:
        assert list(await session.scalars(select(DevicePush.device_id))) == ["device-00001"]


async def test_logs_of_old_pushes_are_forgotten_and_that_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "KEPT_LOGS", 2)
    ids = [await begin(world, NOW - timedelta(hours=age)) for age in (4, 3, 2, 1)]
    running = await begin(world, NOW - timedelta(hours=5), jobs.RUNNING)
    for job_id in (*ids, running):
        await add(world, job_id, "", "device-00001", entry(1))

    async def forget(now: datetime) -> int:
        async with world.database.write() as session:
            return await forget_old_logs(session, now, KEEP)

    async def kept() -> set[str]:
        async with world.database.read() as session:
            found = list(await session.scalars(select(PushJob)))
            with_blocks = set(await session.scalars(select(PushLog.job_id)))
        assert with_blocks == {job.id for job in found if job.log_forgotten_at is None}
        for job in found:
            if job.log_forgotten_at is not None:
                with pytest.raises(Missing, match="last 2 pushes"):
                    require_log(job)
        return with_blocks

    assert await forget(NOW) == 2
    assert await kept() == {*ids[2:], running}
    assert await forget(NOW) == 0
    assert await forget(NOW + KEEP) == 2
    assert await kept() == {running}
