"""Names of models that change hands: whose a version is can be told by the name and the number, and so can figures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control_plane.api import models
from control_plane.api.schemas import DeleteModelQuery, ModelChange, NewModel
from control_plane.errors import Conflict
from control_plane.model_names import names_of
from control_plane.tables import Model, utc_now
from telemetry.adoption import AdoptionReport, ModelName, adoption
from telemetry.columns import event_columns
from telemetry.warehouse import Warehouse
from tests.control_plane.calls import call_in
from tests.control_plane.databases import fresh_database
from tests.control_plane.world import World, open_world
from tests.telemetry.samples import event, labels, record
from tests.telemetry.warehouses import embedded

__all__ = ["embedded", "fresh_database"]


@pytest.fixture
async def world(tmp_path: Path, fresh_database: str) -> AsyncIterator[World]:
    async with open_world(tmp_path, fresh_database) as world:
        yield world


async def create(world: World, name: str) -> Model:
    created = await models.create_model(call_in(world, app=world.application.id), NewModel(name=name))
    return await model(world, created.id)


async def model(world: World, model_id: str) -> Model:
    async with world.database.read() as session:
        return await session.get_one(Model, model_id)


async def rename(world: World, model: Model, name: str) -> None:
    await models.change_model(call_in(world, app=world.application.id, model=model.id), ModelChange(name=name))


async def delete(world: World, model: Model) -> None:
    call = call_in(world, app=world.application.id, model=model.id)
    await models.delete_model(call, DeleteModelQuery(withdraw=True))


async def upload(world: World, model: Model) -> int | None:
    return (await world.version({"weights": b"bytes"}, model)).version


async def names(world: World, of: Model) -> list[tuple[str, int, int | None]]:
    async with world.database.read() as session:
        found = await names_of(session, await session.get_one(Model, of.id))
    return [(each.name, each.first, each.last) for each in found]


async def test_a_model_of_a_deleted_ones_name_numbers_its_versions_on(world: World) -> None:
    assert [await upload(world, world.model) for _ in range(2)] == [1, 2]
    await delete(world, world.model)
    again = await create(world, "digits")
    assert await names(world, again) == [("digits", 3, None)]
    assert await upload(world, again) == 3


async def test_a_name_without_versions_leaves_no_trace(world: World) -> None:
    await delete(world, world.model)
    again = await create(world, "digits")
    assert await upload(world, again) == 1
    assert await names(world, again) == [("digits", 1, None)]


async def test_a_renamed_model_keeps_its_former_name_and_numbers_on(world: World) -> None:
    await upload(world, world.model)
    await rename(world, world.model, "numbers")
    assert await names(world, world.model) == [("numbers", 1, None), ("digits", 1, None)]
    assert await upload(world, world.model) == 2
    await rename(world, world.model, "digits")
    assert await names(world, world.model) == [("digits", 1, None), ("numbers", 1, None)]


async def test_who_takes_a_renamed_models_former_name_shares_it_by_number(world: World) -> None:
    await upload(world, world.model)
    await rename(world, world.model, "numbers")
    other = await create(world, "digits")
    assert await upload(world, other) == 2
    assert await names(world, other) == [("digits", 2, None)]
    assert await names(world, world.model) == [("numbers", 1, None), ("digits", 1, 1)]


async def test_a_model_is_not_renamed_to_a_name_under_which_another_had_versions(world: World) -> None:
    other = await create(world, "letters")
    await upload(world, other)
    await delete(world, other)
    with pytest.raises(Conflict, match="Another model had versions under the name letters"):
        await rename(world, world.model, "letters")
    assert await names(world, world.model) == [("digits", 1, None)]


async def test_a_name_that_another_model_bears_is_taken_and_nothing_changes(world: World) -> None:
    await create(world, "letters")
    with pytest.raises(Conflict, match="already has this name"):
        await rename(world, world.model, "letters")
    assert await names(world, world.model) == [("digits", 1, None)]


async def test_figures_survive_a_rename_and_a_recreated_model_starts_at_zero(world: World, embedded: Warehouse) -> None:
    sender = labels(world.organization.id, world.application.id)

    async def tell(device: str, name: str, version: int | None) -> None:
        sent = record(event("activate", device, version=version, model=name), at=utc_now(), sender=sender)
        await embedded.insert_events(event_columns([sent]), f"{device} {name} {version}")

    async def figures(of: Model) -> AdoptionReport:
        async with world.database.read() as session:
            asked: list[ModelName] = await names_of(session, await session.get_one(Model, of.id))
        return await adoption(embedded, world.organization.id, world.application.id, "prod", asked, 1, utc_now())

    await tell("a", "digits", await upload(world, world.model))
    before = await figures(world.model)
    assert [(share.version, share.devices) for share in before.now] == [(1, 1)]
    await rename(world, world.model, "numbers")
    renamed = await figures(world.model)
    assert (renamed.model, renamed.by_day, renamed.now) == ("numbers", before.by_day, before.now)
    assert renamed.installations == 1

    other = await create(world, "digits")
    empty = await figures(other)
    assert (empty.by_day, empty.now, empty.installations) == ((), (), 0)
    await tell("b", "digits", await upload(world, other))
    assert [(share.version, share.devices) for share in (await figures(other)).now] == [(2, 1)]
    assert (await figures(world.model)).now == before.now

    await delete(world, world.model)
    again = await create(world, "numbers")
    assert (await figures(again)).installations == 0
