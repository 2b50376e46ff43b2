"""The first user, organization and token; and what helps a user in who has no token or password, or no phone, any more.

All are for whoever operates the control plane and can reach its database: there is nobody yet whom the API could know.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane import audit, names
from control_plane.accounts import Role, make_token
from control_plane.actor import SYSTEM
from control_plane.database import Database
from control_plane.errors import Invalid, Missing
from control_plane.one_time_links import Purpose, make_link
from control_plane.second_factor import turn_off
from control_plane.tables import Member, Organization, User, utc_now


async def bootstrap(database: Database, organization: str, email: str, token_name: str) -> str:
    """Make sure that a user owns an organization, and return a new token of theirs.

    What is there already is kept as it is, so it may be called again: each time it makes one more token.

    Raises:
        Invalid: a name or the e-mail address cannot be one.
        Unavailable: the database does not answer.
    """
    organization = _checked(names.check_name, organization)
    email, token_name = _checked(names.check_email, email), _checked(names.check_name, token_name)
    async with database.write() as session:
        user = await _user(session, email)
        owned = await _organization(session, organization)
        if await session.get(Member, (owned.id, user.id)) is None:
            session.add(Member(organization_id=owned.id, user_id=user.id, role=Role.OWNER.word))
        token = make_token(user.id, token_name)
        session.add(token.row)
        audit.record(session, SYSTEM, owned.id, "bootstrap", owned.name, {"email": email, "token": token_name})
    return token.text


async def sign_in_link(database: Database, email: str) -> str:
    """Return the path of a link that signs a user in to the dashboard once; who has a password sets another one.

    Raises:
        Invalid: the e-mail address cannot be one.
        Missing: there is no such user.
        Unavailable: the database does not answer.
    """
    email = _checked(names.check_email, email)
    async with database.write() as session:
        user = await _known(session, email, "; an owner invites members to an organization")
        purpose = Purpose.SIGN_IN if user.password_hash is None else Purpose.RESET
        made = await make_link(session, purpose, email, utc_now())
        await audit.record_of_person(session, SYSTEM, user.id, "link.issue", email)
    return made.path


async def second_factor_off(database: Database, email: str) -> bool:
    """Let a user sign in without a code; return whether one was asked for. The operator has made sure who asks.

    Raises:
        Invalid: the e-mail address cannot be one.
        Missing: there is no such user.
        Unavailable: the database does not answer.
    """
    email = _checked(names.check_email, email)
    async with database.write() as session:
        user = await _known(session, email)
        was_on = await turn_off(session, user.id)
        if was_on:
            await audit.record_of_person(session, SYSTEM, user.id, "second-factor.off", email)
    return was_on


async def issue_token(database: Database, email: str, token_name: str) -> str:
    """Return a new token of a user who was added to an organization by e-mail address.

    Raises:
        Invalid: the name or the e-mail address cannot be one.
        Missing: there is no such user.
        Unavailable: the database does not answer.
    """
    email, token_name = _checked(names.check_email, email), _checked(names.check_name, token_name)
    async with database.write() as session:
        user = await _known(session, email, "; an owner adds members to an organization")
        token = make_token(user.id, token_name)
        session.add(token.row)
        await audit.record_of_person(session, SYSTEM, user.id, "token.issue", email, {"token": token_name})
    return token.text


def _checked(check: Callable[[str], str], text: str) -> str:
    """Return what a check makes of a text; what it refuses is `Invalid`."""
    try:
        return check(text)
    except ValueError as error:
        raise Invalid(str(error)) from error


async def _known(session: AsyncSession, email: str, advice: str = "") -> User:
    """Return the user of an e-mail address.

    Raises:
        Missing: there is none; ``advice`` says what helps.
    """
    user = await session.scalar(select(User).where(User.email == email))
    if user is None:
        raise Missing(f"There is no user {email}{advice}.")
    return user


async def _user(session: AsyncSession, email: str) -> User:
    user = await session.scalar(select(User).where(User.email == email))
    if user is None:
        user = User(email=email)
        session.add(user)
        await session.flush()
    return user


async def _organization(session: AsyncSession, name: str) -> Organization:
    organization = await session.scalar(select(Organization).where(Organization.name == name))
    if organization is None:
        organization = Organization(name=name)
        session.add(organization)
        await session.flush()
    return organization
