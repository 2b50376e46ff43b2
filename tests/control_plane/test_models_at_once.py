"""A model that is deployed, renamed and deleted at once: what is offered is there, under its name, whoever is first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from control_plane import publish
from control_plane.api import models
from control_plane.api.organizations import delete_organization
from control_plane.api.schemas import DeleteModelQuery, ModelChange
from control_plane.errors import Conflict, Invalid, Missing
from control_plane.locks import lock_applications
from control_plane.tables import Deployment, Member, Model
from tests.control_plane.calls import call_in
from tests.control_plane.databases import fresh_database
from tests.control_plane.world import World, open_world

__all__ = ["fresh_database"]

# Who is let in finishes long before this, and who has to wait goes on after it.
TURN_SECONDS = 1.0


@pytest.fixture
async def world(tmp_path: Path, fresh_database: str) -> AsyncIterator[World]:
    async with open_world(tmp_path, fresh_database) as world:
        await world.version({"weights": b"one"})
        yield world


async def deploy(world: World) -> Deployment:
    return await world.publisher.deploy(world.actor, world.prod.id, world.model.id, 1)


async def delete(world: World, withdraw: bool) -> None:
    call = call_in(world, app=world.application.id, model=world.model.id)
    await models.delete_model(call, DeleteModelQuery(withdraw=withdraw))


async def rename(world: World, name: str) -> None:
    call = call_in(world, app=world.application.id, model=world.model.id)
    await models.change_model(call, ModelChange(name=name))


async def model_names(world: World) -> list[str]:
    async with world.database.read() as session:
        return list(await session.scalars(select(Model.name)))


async def offered(world: World) -> list[str]:
    return [release.model for release in await world.offered()]


class Meanwhile:
    """Has somebody else try something right after a function has answered, for the time of one turn."""

    def __init__(self, function: Callable[..., Awaitable[Any]], other: Callable[[], Awaitable[Any]]) -> None:
        self._function = function
        self._other = other
        self.attempt: asyncio.Task[Any] | None = None

    async def __call__(self, *arguments: Any) -> Any:
        result = await self._function(*arguments)
        if self.attempt is None:
            self.attempt = asyncio.ensure_future(self._other())
            await asyncio.wait({self.attempt}, timeout=TURN_SECONDS)
        return result

    async def ended(self) -> Any:
        """Return what the other one got: a result, or an error."""
        assert self.attempt is not None
        return (await asyncio.gather(self.attempt, return_exceptions=True))[0]


@pytest.mark.parametrize("withdraw", [False, True])
async def test_a_deploy_while_the_model_is_being_deleted_leaves_nothing_offered(
    world: World, monkeypatch: pytest.MonkeyPatch, withdraw: bool
) -> None:
    meanwhile = Meanwhile(models._environments_offering, lambda: deploy(world))
    monkeypatch.setattr(models, "_environments_offering", meanwhile)
    await delete(world, withdraw)
    assert isinstance(await meanwhile.ended(), Invalid)
    assert await model_names(world) == []
    assert await offered(world) == []


async def test_a_deploy_while_the_model_is_being_renamed_offers_the_new_name(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile = Meanwhile(models._environments_offering, lambda: deploy(world))
    monkeypatch.setattr(models, "_environments_offering", meanwhile)
    await rename(world, "numbers")
    assert isinstance(await meanwhile.ended(), Deployment)
    assert await model_names(world) == await offered(world) == ["numbers"]


async def test_a_renaming_while_the_model_is_being_deleted_waits_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile = Meanwhile(lock_applications, lambda: rename(world, "numbers"))
    monkeypatch.setattr(models, "lock_applications", meanwhile)
    await delete(world, withdraw=True)
    assert isinstance(await meanwhile.ended(), Missing)
    assert await model_names(world) == []


@pytest.mark.parametrize("withdraw", [False, True])
async def test_a_deletion_while_the_model_is_being_deployed_waits_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch, withdraw: bool
) -> None:
    meanwhile = Meanwhile(publish._ready_version, lambda: delete(world, withdraw))
    monkeypatch.setattr(publish, "_ready_version", meanwhile)
    await deploy(world)
    result = await meanwhile.ended()
    if withdraw:
        assert result is None
        assert await model_names(world) == await offered(world) == []
    else:
        assert isinstance(result, Conflict)
        assert await model_names(world) == await offered(world) == ["digits"]


async def test_a_deletion_of_the_organization_while_a_model_is_being_deployed_waits_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile = Meanwhile(publish._ready_version, lambda: delete_organization(call_in(world)))
    monkeypatch.setattr(publish, "_ready_version", meanwhile)
    async with world.database.write() as session:
        session.add(Member(organization_id=world.organization.id, user_id=world.actor.user_id, role="owner"))
    (key,) = await world.keys()
    await deploy(world)
    assert await meanwhile.ended() is None
    assert await model_names(world) == []
    assert (await world.store.revisions())[key.key] < 0


async def test_deploying_deleting_and_renaming_at_once_contradict_nothing(world: World) -> None:
    for _ in range(3):
        tries = (deploy(world), rename(world, "numbers"), delete(world, withdraw=True), deploy(world), deploy(world))
        for result in await asyncio.gather(*tries, return_exceptions=True):
            assert result is None or isinstance(result, Deployment | Conflict | Invalid | Missing)
        assert set(await offered(world)) <= set(await model_names(world))


async def test_a_deletion_that_cannot_be_signed_changes_nothing_and_can_be_tried_again(world: World) -> None:
    await deploy(world)
    keys = world.folder / "keys"
    keys.rename(world.folder / "keys away")
    with pytest.raises(Exception, match="No online key"):
        await delete(world, withdraw=True)
    assert await model_names(world) == await offered(world) == ["digits"]
    (world.folder / "keys away").rename(keys)
    await delete(world, withdraw=True)
    assert await model_names(world) == await offered(world) == []
    await world.assert_published()


async def test_what_a_deletion_withdraws_is_delivered_later_when_the_edges_cannot_be_told_now(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deploy(world)

    async def not_now(environment_id: str) -> bool:
        return False

    with monkeypatch.context() as silent:
        silent.setattr(world.publisher, "announce", not_now)
        await delete(world, withdraw=True)
    assert [row.environment_id for row in await world.outbox()] == [world.prod.id]
    assert await world.relay.deliver(world.prod.id)
    await world.assert_published()
