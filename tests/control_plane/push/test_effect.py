"""The effect of a push: asked of ClickHouse while it may change, kept when it does not, and never made up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from control_plane.errors import Missing, Unavailable
from control_plane.push import effect as effects
from control_plane.push import jobs
from control_plane.push.channel import Outcome
from control_plane.push.effect import Effect, PushEffects, effect_of
from control_plane.push.log import Entry, add_to_log
from control_plane.tables import PushEffect, PushJob
from control_plane.warehouse import WarehouseGate
from telemetry.columns import event_columns
from telemetry.wake_ups import HOUR, Steps, WakeUps
from telemetry.warehouse import Warehouse
from tests.control_plane.databases import fresh_database
from tests.control_plane.gates import open_gate
from tests.control_plane.world import World, open_world
from tests.telemetry.samples import NOON, event, labels, record
from tests.telemetry.warehouses import copy_migrated

__all__ = ["fresh_database"]

KEEP = timedelta(days=90)
MINUTE = timedelta(minutes=1)
# Where the other kind has nothing to add.
ONE_DATABASE = pytest.mark.parametrize("fresh_database", ["sqlite"], indirect=True)


@pytest.fixture
async def world(tmp_path: Path, fresh_database: str) -> AsyncIterator[World]:
    async with open_world(tmp_path, fresh_database) as world:
        yield world


@pytest.fixture
async def gate(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WarehouseGate]:
    """An open way to an embedded ClickHouse."""
    await copy_migrated(tmp_path_factory, tmp_path / "clickhouse")
    async with open_gate(tmp_path / "clickhouse") as gate:
        yield gate


async def begin(world: World, state: str, *devices: str, refused: str = "") -> str:
    """Add a push that was sent to these at noon, a block each, and refused for one."""
    job = PushJob(environment_id=world.prod.id, model_id=world.model.id, version=3, sandbox=False)
    async with world.database.write() as session:
        await jobs.begin(session, job)
        job.state, job.created_at, job.finished_at = state, NOON, NOON if state in jobs.ENDED else None
        for device in devices:
            outcome = Outcome.REFUSED if device == refused else Outcome.ACCEPTED
            await add_to_log(session, job.id, f"{device}-", device, [Entry(device, outcome, "", NOON)])
    return job.id


async def change(world: World, job_id: str, **news: object) -> None:
    async with world.database.write() as session:
        job = await session.get_one(PushJob, job_id)
        for name, value in news.items():
            setattr(job, name, value)


async def tell(world: World, warehouse: Warehouse, minutes: float, kind: str, *devices: str) -> None:
    sender = labels(world.organization.id, world.application.id)
    events = [event(kind, device, model=world.model.name, version=3) for device in devices]
    told = event_columns([record(*events, at=NOON + minutes * MINUTE, sender=sender)])
    await warehouse.insert_events(told, f"{kind} {minutes}")


async def kept(world: World, job_id: str) -> Effect | None:
    async with world.database.read() as session:
        row = await session.get(PushEffect, job_id)
    return None if row is None else effect_of(row)


async def test_figures_grow_until_the_hour_is_over_and_are_final_a_day_later(world: World, gate: WarehouseGate) -> None:
    asking = PushEffects(world.database, gate, KEEP)
    job_id = await begin(world, jobs.RUNNING, "a", "b", "c", "d", refused="d")
    await tell(world, gate.get(), -10, "check", "a", "d")
    early = await asking.get(job_id, NOON + MINUTE)
    assert (early.devices, early.counted, early.margin) == (3, 3, 0.0)
    assert (early.complete, early.until) == (False, None)
    assert early.woken == WakeUps(before=Steps(checked=1))

    await change(world, job_id, state=jobs.FINISHED, finished_at=NOON)
    await tell(world, gate.get(), 1, "activate", "a", "d")
    assert await asking.get(job_id, NOON + 1.5 * MINUTE) == early, "not asked again within a minute"
    later = await asking.get(job_id, NOON + 3 * MINUTE)
    assert (later.complete, later.until) == (False, NOON + HOUR)
    assert later.woken.after == Steps(1, 1, 1)

    await tell(world, gate.get(), 50, "check", "b")
    settled = NOON + HOUR + effects.SHIPPED_AFTER
    await asking.look(settled - MINUTE)
    assert await kept(world, job_id) == later, "it was not due"
    await asking.look(settled)
    over = await asking.get(job_id, settled + 5 * MINUTE)
    assert (over.complete, over.asked_at, over.woken.after) == (True, settled, Steps(2, 1, 1))

    # An edge was cut off, and brings what it had.
    await tell(world, gate.get(), 55, "check", "c")
    final_at = NOON + HOUR + effects.FINAL_AFTER
    await asking.look(final_at)
    final = await kept(world, job_id)
    assert final is not None
    assert (final.ask_again_at, final.woken.after) == (None, Steps(3, 1, 1))
    await change(world, job_id, log_forgotten_at=final_at)
    assert await asking.get(job_id, final_at + KEEP) == final, "it outlives its log"


@ONE_DATABASE
async def test_without_clickhouse_there_are_no_figures_but_those_that_are_kept(
    world: World, gate: WarehouseGate, tmp_path: Path
) -> None:
    away = PushEffects(world.database, WarehouseGate(None, tmp_path / "never"), KEEP)
    job_id = await begin(world, jobs.FINISHED, "a")
    over = NOON + HOUR + 10 * MINUTE
    with pytest.raises(Unavailable, match="ClickHouse"):
        await away.get(job_id, over)
    with pytest.raises(Unavailable, match="ClickHouse"):
        await away.look(over)
    asked = await PushEffects(world.database, gate, KEEP).get(job_id, over)
    assert asked.complete
    assert asked.woken == WakeUps()
    assert await away.get(job_id, over + HOUR) == asked
    # What needs no answer is no question.
    nobody = await away.get(await begin(world, jobs.FINISHED, "a", refused="a"), over)
    assert (nobody.devices, nobody.counted, nobody.complete, nobody.until) == (0, 0, True, None)


@ONE_DATABASE
async def test_of_a_large_push_an_even_sample_is_looked_at(
    world: World, gate: WarehouseGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects, "MAX_COUNTED", 5)
    devices = [f"device-{number:02d}" for number in range(20)]
    job_id = await begin(world, jobs.FINISHED, *devices)
    await tell(world, gate.get(), 1, "check", *devices[::2])
    await tell(world, gate.get(), 2, "activate", *devices[::4])
    found = await PushEffects(world.database, gate, KEEP).get(job_id, NOON + 2 * HOUR)
    assert (found.devices, found.counted) == (20, 5)
    assert found.woken.after == Steps(5, 5, 5), "every fourth device, from the first on"
    assert found.margin == pytest.approx(1.96 * 0.5 / 5**0.5 * (15 / 19) ** 0.5)


@ONE_DATABASE
async def test_a_push_whose_devices_are_forgotten_and_one_that_is_gone_are_told(
    world: World, gate: WarehouseGate
) -> None:
    asking = PushEffects(world.database, gate, KEEP)
    job_id = await begin(world, jobs.FINISHED, "a")
    await change(world, job_id, log_forgotten_at=NOON)
    with pytest.raises(Missing) as forgotten:
        await asking.get(job_id, NOON + 2 * HOUR)
    assert forgotten.value.code == "log_forgotten"
    with pytest.raises(Missing):
        await asking.get("0" * 32, NOON)
    await asking.look(NOON + 2 * HOUR)
    async with world.database.read() as session:
        assert await session.scalar(select(func.count()).select_from(PushEffect)) == 0


def test_a_sample_of_the_largest_pushes_is_right_within_a_third_of_a_point() -> None:
    now = datetime.now().astimezone()
    assert Effect(10_000_000, effects.MAX_COUNTED, WakeUps(), None, now, None).margin < 0.0031
