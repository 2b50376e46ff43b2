"""Erasing from the control plane's side: the registry, registrations that come later, the record of it, ClickHouse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from control_plane.accounts import Caller
from control_plane.api.erasures import begin_erasure, show_erasure
from control_plane.api.schemas import NewErasure
from control_plane.eraser import CHECK_AGAIN_AFTER, Eraser
from control_plane.errors import Invalid, Missing, Unavailable
from control_plane.registrations import store_registrations
from control_plane.tables import AuditEntry, Device, Erasure, Member, Organization, new_id
from control_plane.warehouse import WarehouseGate
from telemetry.columns import event_columns
from telemetry.erasure import device_subject
from telemetry.registrations import Registration
from telemetry.warehouse import Warehouse
from tests.control_plane.calls import call_in
from tests.control_plane.databases import fresh_database
from tests.control_plane.gates import open_gate
from tests.control_plane.world import Clock, World, open_world
from tests.telemetry.samples import event, labels, record

__all__ = ["fresh_database"]

KEEP = timedelta(days=90)


@pytest.fixture
async def world(tmp_path: Path, fresh_database: str) -> AsyncIterator[World]:
    async with open_world(tmp_path, fresh_database) as world:
        yield world


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[WarehouseGate]:
    """An open way to an embedded ClickHouse."""
    async with open_gate(tmp_path / "clickhouse") as gate:
        yield gate


async def register(world: World, *device_ids: str) -> int:
    registrations = [
        Registration(device_id, world.prod.id, "key", 1_700_000_000 + place, push_token=f"token of {device_id}")
        for place, device_id in enumerate(device_ids)
    ]
    async with world.database.write() as session:
        return await store_registrations(session, registrations)


async def registered(world: World) -> list[str]:
    async with world.database.read() as session:
        return sorted(await session.scalars(select(Device.device_id)))


async def erasures(world: World) -> list[Erasure]:
    async with world.database.read() as session:
        return list(await session.scalars(select(Erasure)))


async def devices_in(warehouse: Warehouse, organization_id: str) -> list[str]:
    sql = "SELECT DISTINCT device_id FROM events WHERE organization_id = {organization} ORDER BY device_id"
    return [str(row["device_id"]) for row in await warehouse.query(sql, {"organization": organization_id})]


async def erase_to_the_end(world: World, gate: WarehouseGate, clock: Clock) -> None:
    eraser = Eraser(world.database, gate, KEEP, clock)
    for _ in range(600):
        await eraser.look()
        if all(each.finished_at is not None for each in await erasures(world)):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it was never finished")


async def test_an_erased_device_leaves_the_registry_and_clickhouse_and_does_not_come_back(
    world: World, gate: WarehouseGate
) -> None:
    await register(world, "gone", "stays")
    sender = labels(world.organization.id)
    sent = event_columns([record(event(device="gone"), event(device="stays"), sender=sender)])
    await gate.get().insert_events(sent, "one")

    call = call_in(world)
    begun = await begin_erasure(call, NewErasure(device_id="gone"))
    assert begun.finished_at is None
    assert await registered(world) == ["stays"]
    await erase_to_the_end(world, gate, Clock())

    assert (await show_erasure(call_in(world, erasure=begun.id))).finished_at is not None
    assert await devices_in(gate.get(), world.organization.id) == ["stays"]
    assert await register(world, "gone", "stays") == 1
    assert await registered(world) == ["stays"]


async def test_a_registration_that_slipped_in_is_found_an_hour_later_and_then_the_id_is_forgotten(
    world: World, gate: WarehouseGate
) -> None:
    clock = Clock()
    await begin_erasure(call_in(world), NewErasure(device_id="gone"))
    await erase_to_the_end(world, gate, clock)
    async with world.database.write() as session:
        session.add(Device(environment_id=world.prod.id, device_id="gone", push_token="late"))
    eraser = Eraser(world.database, gate, KEEP, clock)
    await eraser.look()
    assert await registered(world) == ["gone"]
    assert [each.device_id for each in await erasures(world)] == ["gone"]

    clock.now += CHECK_AGAIN_AFTER + timedelta(seconds=1)
    await eraser.look()

    assert await registered(world) == []
    (left,) = await erasures(world)
    assert (left.device_id, left.subject) == (None, device_subject(world.organization.id, "gone"))

    clock.now += KEEP
    await begin_erasure(call_in(world), NewErasure(device_id="another"))
    await erase_to_the_end(world, gate, clock)
    assert [each.device_id for each in await erasures(world)] == ["another"]


async def test_an_erased_organization_is_gone_with_its_events(world: World, gate: WarehouseGate) -> None:
    async with world.database.write() as session:
        session.add(Member(organization_id=world.organization.id, user_id=world.actor.user_id, role="owner"))
    await register(world, "a")
    sender = labels(world.organization.id)
    await gate.get().insert_events(event_columns([record(event(device="a"), sender=sender)]), "one")
    await gate.get().insert_events(event_columns([record(event(device="b"), sender=labels("other"))]), "two")

    with pytest.raises(Invalid):
        await begin_erasure(call_in(world), NewErasure(organization="another name"))
    assert await registered(world) == ["a"]
    begun = await begin_erasure(call_in(world), NewErasure(organization=world.organization.name))
    await erase_to_the_end(world, gate, Clock())

    assert await registered(world) == []
    async with world.database.read() as session:
        assert await session.get(Organization, world.organization.id) is None
    assert await devices_in(gate.get(), world.organization.id) == []
    assert await devices_in(gate.get(), "other") == ["b"]
    assert (await show_erasure(call_in(world, erasure=begun.id))).kind == "organization"


async def test_the_audit_log_tells_of_it_without_the_device(world: World) -> None:
    begun = await begin_erasure(call_in(world), NewErasure(device_id="a-device"))

    async with world.database.read() as session:
        (entry,) = await session.scalars(select(AuditEntry).where(AuditEntry.action == "device.erase"))
    assert (entry.actor, entry.organization_id) == (world.actor.email, world.organization.id)
    assert entry.detail == {"erasure": begun.id}
    assert "a-device" not in entry.target


async def test_an_erasure_is_shown_to_whoever_asked_alone(world: World) -> None:
    begun = await begin_erasure(call_in(world), NewErasure(device_id="a"))
    another = replace(call_in(world, erasure=begun.id), who=Caller(new_id(), "another@example.org", "token"))

    for call in (another, call_in(world, erasure=new_id()), call_in(world, erasure="x")):
        with pytest.raises(Missing):
            await show_erasure(call)


async def test_while_clickhouse_is_away_it_waits(world: World, tmp_path: Path) -> None:
    await begin_erasure(call_in(world), NewErasure(device_id="a"))

    with pytest.raises(Unavailable):
        await Eraser(world.database, WarehouseGate(None, tmp_path / "closed"), KEEP).look()
    assert [each.finished_at for each in await erasures(world)] == [None]


@pytest.mark.parametrize("body", [{}, {"device_id": "a", "organization": "b"}, {"device_id": ""}, {"device_id": "a b"}])
def test_one_thing_is_erased_at_a_time(body: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        NewErasure.model_validate(body)
