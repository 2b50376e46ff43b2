"""Finding a thing by its name or its id, within what the caller may see.

Each function looks inside a parent that the caller was already found to have a part in, so a thing of another
organization is `Missing` in the very words that tell of a thing that does not exist.
"""

from __future__ import annotations

import re
import unicodedata

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from control_plane.accounts import Caller, Role
from control_plane.errors import Missing
from control_plane.names import has_control_characters, is_id
from control_plane.tables import (
    Application,
    Environment,
    EnvironmentKey,
    Member,
    Model,
    ModelVersion,
    Organization,
    User,
)

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")  # fits an INTEGER column
LATEST = "latest"


def memberships(caller: Caller) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of `Member` rows that are the caller's, as far as their token's scope goes."""
    if caller.organization_id is None:
        return (Member.user_id == caller.user_id,)
    return Member.user_id == caller.user_id, Member.organization_id == caller.organization_id


async def organization(session: AsyncSession, caller: Caller, text: str) -> tuple[Organization, Role]:
    """Return the organization and the caller's role in it.

    Raises:
        Missing: there is none of this name or id, the caller is not a member, or their token is for another one.
    """
    query = (
        select(Organization, Member.role)
        .join(Member, Member.organization_id == Organization.id)
        .where(*memberships(caller), _named(Organization.id, Organization.name, text, "organization"))
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise _missing("organization")
    return row[0], caller.role_at_most(Role.of(row[1]))


async def application(session: AsyncSession, organization_id: str, text: str) -> Application:
    """Return the organization's application of this name or id.

    Raises:
        Missing: there is none.
    """
    named = _named(Application.id, Application.name, text, "application")
    query = select(Application).where(Application.organization_id == organization_id, named)
    found = await session.scalar(query)
    if found is None:
        raise _missing("application")
    return found


async def environment(session: AsyncSession, application_id: str, text: str) -> Environment:
    """Return the application's environment of this name or id.

    Raises:
        Missing: there is none.
    """
    named = _named(Environment.id, Environment.name, text, "environment")
    query = select(Environment).where(Environment.application_id == application_id, named)
    found = await session.scalar(query)
    if found is None:
        raise _missing("environment")
    return found


async def model(session: AsyncSession, application_id: str, text: str) -> Model:
    """Return the application's model of this name or id.

    Raises:
        Missing: there is none.
    """
    named = _named(Model.id, Model.name, text, "model")
    query = select(Model).where(Model.application_id == application_id, named)
    found = await session.scalar(query)
    if found is None:
        raise _missing("model")
    return found


async def model_version(session: AsyncSession, model_id: str, text: str) -> ModelVersion:
    """Return the model's version of this number ("latest" for the highest) or id.

    Raises:
        Missing: there is none.
    """
    query = select(ModelVersion).where(ModelVersion.model_id == model_id)
    if text == LATEST:
        query = query.where(ModelVersion.version.is_not(None)).order_by(ModelVersion.version.desc()).limit(1)
    elif _NUMBER.fullmatch(text):
        query = query.where(ModelVersion.version == int(text))
    elif is_id(text):
        query = query.where(ModelVersion.id == text)
    else:
        raise _missing("model version")
    found = await session.scalar(query)
    if found is None:
        raise _missing("model version")
    return found


async def member(session: AsyncSession, organization_id: str, text: str) -> tuple[Member, User]:
    """Return the organization's member with this user id or e-mail address.

    Raises:
        Missing: there is none.
    """
    query = (
        select(Member, User)
        .join(User, User.id == Member.user_id)
        .where(Member.organization_id == organization_id, _named(User.id, User.email, text.lower(), "member"))
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise _missing("member")
    return row[0], row[1]


async def environment_key(session: AsyncSession, environment_id: str, text: str) -> EnvironmentKey:
    """Return the environment's key with this id.

    Raises:
        Missing: there is none.
    """
    query = select(EnvironmentKey).where(EnvironmentKey.environment_id == environment_id, EnvironmentKey.id == text)
    found = await session.scalar(query) if is_id(text) else None
    if found is None:
        raise _missing("key")
    return found


def _named(
    id_column: InstrumentedAttribute[str], name_column: InstrumentedAttribute[str], text: str, kind: str
) -> ColumnElement[bool]:
    """Return the condition that finds a row by id, if ``text`` looks like one, else by name."""
    if is_id(text):
        return id_column == text
    if has_control_characters(text):  # no name has any, and PostgreSQL refuses to look for a zero byte
        raise _missing(kind)
    return name_column == unicodedata.normalize("NFC", text)


def _missing(kind: str) -> Missing:
    return Missing(f"There is no {kind} of this name or id here.")
