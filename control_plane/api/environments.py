"""Environments of an application: their keys, their signing roles, and the devices that registered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane import audit, lookup
from control_plane.api.applications import FIRST_ENVIRONMENTS
from control_plane.api.call import Call
from control_plane.api.paging import Keyset, Page, Paging, fetch_page
from control_plane.api.schemas import (
    DeviceOut,
    EnvironmentChange,
    EnvironmentOut,
    KeyOut,
    LastPushOut,
    NewEnvironment,
    NewKey,
)
from control_plane.api.unique import unique
from control_plane.errors import Conflict, Invalid, Missing
from control_plane.tables import Application, Device, DevicePush, Environment, EnvironmentKey, Manifest

# Each is a TUF repository of its own that is signed anew for as long as it exists.
MAX_ENVIRONMENTS = 50

_TAKEN = "Another environment of this application already has this name."


async def list_environments(call: Call, query: Paging) -> Page[EnvironmentOut]:
    """List the application's environments with their keys."""
    async with call.database.read() as session:
        application = await lookup.application(session, call.organization.id, call.part("app"))
        rows = select(Environment).where(Environment.application_id == application.id)
        page = await fetch_page(session, rows, Keyset((Environment.name,)), query)
        shown = await _show_all(session, [row[0] for row in page.items], call.now)
    return Page(shown, page.next_cursor)


async def create_environment(call: Call, body: NewEnvironment) -> EnvironmentOut:
    """Add an environment, with a key and an empty manifest."""
    async with call.database.write() as session:
        application = await lookup.application(session, call.organization.id, call.part("app"))
        await _refuse_too_many(session, application.id)
        environment = Environment(application_id=application.id, name=body.name)
        session.add(environment)
        async with unique(_TAKEN):
            await session.flush()
        await call.services.publisher.open_environment(session, environment)
        target = f"{application.name}/{environment.name}"
        audit.record(session, call.actor, call.organization.id, "environment.create", target)
        shown = await _show(session, environment, call.now)
    await call.services.publisher.announce(environment.id)
    return shown


async def show_one_environment(call: Call) -> EnvironmentOut:
    """Show an environment with its keys."""
    async with call.database.read() as session:
        _, environment = await find_environment(session, call)
        return await _show(session, environment, call.now)


async def change_environment(call: Call, body: EnvironmentChange) -> EnvironmentOut:
    """Rename an environment. `dev` and `prod` keep their names; keys keep the name that they were made with.

    What devices reported so far stays under the old name; edges label events with the new one from now on.
    """
    async with call.database.write() as session:
        application, environment = await find_environment(session, call)
        was = environment.name
        if was in FIRST_ENVIRONMENTS and body.name != was:
            raise Conflict(f"{was} belongs to every application and cannot be renamed.", "needed")
        environment.name = body.name
        async with unique(_TAKEN):
            await session.flush()
        target = f"{application.name}/{environment.name}"
        audit.record(session, call.actor, call.organization.id, "environment.rename", target, {"was": was})
        await call.services.publisher.relabel(session, Application.id == application.id)
        shown = await _show(session, environment, call.now)
    call.services.publisher.sign_renamed()
    return shown


async def delete_environment(call: Call) -> None:
    """Delete an environment; its keys stop working. `dev` and `prod` stay with their application."""
    async with call.database.write() as session:
        application, environment = await find_environment(session, call)
        if environment.name in FIRST_ENVIRONMENTS:
            raise Conflict(f"{environment.name} belongs to every application and cannot be deleted.", "needed")
        await call.services.publisher.close_environment(session, environment.id)
        await session.delete(environment)
        target = f"{application.name}/{environment.name}"
        audit.record(session, call.actor, call.organization.id, "environment.delete", target)
    await call.services.publisher.announce(environment.id)


async def list_keys(call: Call, query: Paging) -> Page[KeyOut]:
    """List the environment's valid keys, newest first."""
    async with call.database.read() as session:
        _, environment = await find_environment(session, call)
        rows = select(EnvironmentKey).where(EnvironmentKey.environment_id == environment.id, *_valid(call.now))
        keyset = Keyset((EnvironmentKey.created_at, EnvironmentKey.id), descending=True)
        page = await fetch_page(session, rows, keyset, query)
    return page.map(lambda row: _show_key(row[0]))


async def add_key(call: Call, body: NewKey) -> KeyOut:
    """Make a new key; the present ones stay valid for the overlap, so that apps can move over."""
    async with call.database.read() as session:
        _, environment = await find_environment(session, call)
    overlap = timedelta(seconds=body.overlap_seconds)
    return _show_key(await call.services.publisher.add_key(call.actor, environment.id, overlap))


async def revoke_key(call: Call) -> None:
    """Revoke a key at once; apps that still ship it get no more updates."""
    async with call.database.read() as session:
        _, environment = await find_environment(session, call)
        key = await lookup.environment_key(session, environment.id, call.part("key"))
    await call.services.publisher.revoke_key(call.actor, key.id)


async def rotate_root(call: Call) -> EnvironmentOut:
    """Replace the environment's root keys; devices follow by the chain of roots."""
    async with call.database.read() as session:
        _, environment = await find_environment(session, call)
    await call.services.publisher.rotate_root(call.actor, environment.id)
    return await show_one_environment(call)


async def rotate_online_key(call: Call) -> EnvironmentOut:
    """Replace the key that signs manifests; the root names the new one."""
    async with call.database.read() as session:
        _, environment = await find_environment(session, call)
    await call.services.publisher.rotate_online(call.actor, environment.id)
    return await show_one_environment(call)


async def list_devices(call: Call, query: Paging) -> Page[DeviceOut]:
    """List the devices that registered in the environment. Push tokens are not shown."""
    async with call.database.read() as session:
        _, environment = await find_environment(session, call)
        last = and_(DevicePush.environment_id == Device.environment_id, DevicePush.device_id == Device.device_id)
        rows = select(Device, DevicePush).outerjoin(DevicePush, last).where(Device.environment_id == environment.id)
        page = await fetch_page(session, rows, Keyset((Device.device_id,)), query)
    return page.map(lambda row: _show_device(*row))


async def valid_keys(session: AsyncSession, environment_ids: Sequence[str], now: datetime) -> dict[str, list[KeyOut]]:
    """Return the valid keys of environments, newest first, by environment id."""
    query = (
        select(EnvironmentKey)
        .where(EnvironmentKey.environment_id.in_(environment_ids), *_valid(now))
        .order_by(EnvironmentKey.created_at.desc(), EnvironmentKey.id.desc())
    )
    keys: dict[str, list[KeyOut]] = defaultdict(list)
    for key in await session.scalars(query):
        keys[key.environment_id].append(_show_key(key))
    return keys


async def find_environment(session: AsyncSession, call: Call) -> tuple[Application, Environment]:
    """Return the application and the environment in the path."""
    application = await lookup.application(session, call.organization.id, call.part("app"))
    return application, await lookup.environment(session, application.id, call.part("env"))


async def named_environment(session: AsyncSession, application: Application, name: str) -> Environment:
    """Return the environment of an application that a body names.

    Raises:
        Invalid: there is none.
    """
    try:
        return await lookup.environment(session, application.id, name)
    except Missing as missing:
        raise Invalid(missing.sentence, missing.code) from missing


def _valid(now: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions under which a key is valid."""
    lasting = or_(EnvironmentKey.expires_at.is_(None), EnvironmentKey.expires_at > now)
    return EnvironmentKey.revoked_at.is_(None), lasting


async def _show(session: AsyncSession, environment: Environment, now: datetime) -> EnvironmentOut:
    return (await _show_all(session, [environment], now))[0]


async def _show_all(session: AsyncSession, environments: Sequence[Environment], now: datetime) -> list[EnvironmentOut]:
    ids = [environment.id for environment in environments]
    keys = await valid_keys(session, ids, now)
    query = select(Manifest.environment_id, Manifest.revision, Manifest.root).where(Manifest.environment_id.in_(ids))
    numbers = {row[0]: (row[1], row[2]) for row in (await session.execute(query)).all()}
    return [_shown(environment, keys[environment.id], *numbers[environment.id]) for environment in environments]


def _shown(environment: Environment, keys: list[KeyOut], revision: int, root: int) -> EnvironmentOut:
    return EnvironmentOut(
        id=environment.id,
        name=environment.name,
        key=keys[0].key if keys else None,
        keys=keys,
        revision=revision,
        root=root,
        created_at=environment.created_at,
        updated_at=environment.updated_at,
    )


def _show_key(key: EnvironmentKey) -> KeyOut:
    return KeyOut(id=key.id, key=key.key, created_at=key.created_at, expires_at=key.expires_at)


def _show_device(device: Device, push: DevicePush | None) -> DeviceOut:
    return DeviceOut(
        device_id=device.device_id,
        facts=device.facts,
        push_service=device.push_service if device.push_token else None,
        last_push=None if push is None else _show_last_push(push),
        registered_at=device.registered_at,
        updated_at=device.updated_at,
    )


def _show_last_push(push: DevicePush) -> LastPushOut:
    return LastPushOut.model_validate(
        {"push_id": push.job_id, "outcome": push.outcome, "reason": push.reason or None, "sent_at": push.sent_at}
    )


async def _refuse_too_many(session: AsyncSession, application_id: str) -> None:
    query = select(func.count()).select_from(Environment).where(Environment.application_id == application_id)
    if (await session.scalar(query) or 0) >= MAX_ENVIRONMENTS:
        raise Conflict(f"An application has at most {MAX_ENVIRONMENTS} environments.", "too_many")
