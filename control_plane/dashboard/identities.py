"""Whose account it is when another provider vouches for somebody."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.api.unique import unique
from control_plane.errors import Conflict, Forbidden
from control_plane.openid import Person
from control_plane.proof import prove_address
from control_plane.tables import Identity, User


async def user_of(session: AsyncSession, person: Person, now: datetime, *, may_sign_up: bool) -> tuple[User, bool]:
    """Return whose account it is: of who came before, of the same address, or a new one; and whether they came before.

    Args:
        session: a writing one.
        person: who came.
        now: the moment of it.
        may_sign_up: whether an account is made for who has none.

    Raises:
        Conflict: the account of this address is somebody else's there, to whom the address belonged before, perhaps.
        Forbidden: there is none, and none is made.
    """
    known = await session.get(Identity, (person.issuer, person.subject))
    if known is not None:
        return await session.get_one(User, known.user_id), True
    user = await session.scalar(select(User).where(User.email == person.email))
    if user is None:
        if not may_sign_up:
            raise Forbidden(f"{person.email} has no account here. Ask an owner of an organization for an invitation.")
        user = User(email=person.email)
        session.add(user)
    elif await _is_known_there(session, user, person.issuer):
        raise Conflict(f"The account of {person.email} is somebody else's there. Ask whoever operates this Skafos.")
    else:
        await prove_address(session, user, now)
    async with unique("You came in a moment ago; try again."):
        await session.flush()
        session.add(Identity(issuer=person.issuer, subject=person.subject, user_id=user.id, created_at=now))
        await session.flush()
    return user, False


async def _is_known_there(session: AsyncSession, user: User, issuer: str) -> bool:
    known = select(Identity.subject).where(Identity.user_id == user.id, Identity.issuer == issuer)
    return await session.scalar(known.limit(1)) is not None
