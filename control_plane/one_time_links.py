"""Links that sign somebody in once: a new installation's first owner, who was invited, signs up, or forgot a password.

What a link ends with are 256 random bits, of which the database holds the SHA-256. Looking at a link does nothing:
programs that read mail open links too. Using it takes a button.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.accounts import Role, hash_token
from control_plane.errors import Missing
from control_plane.proof import prove_address
from control_plane.tables import Member, OneTimeLink, Organization, User

TOKEN_BYTES: Final = 32
PATH: Final = "/links"
_GONE: Final = "The link has been used, or it has expired. Ask for a new one."


class Purpose(StrEnum):
    """What a link is for."""

    SIGN_IN = "sign-in"
    RESET = "reset"
    INVITATION = "invitation"
    SIGN_UP = "sign-up"


LASTS: Final = {
    Purpose.SIGN_IN: timedelta(hours=1),
    Purpose.RESET: timedelta(hours=1),
    Purpose.INVITATION: timedelta(days=7),
    Purpose.SIGN_UP: timedelta(days=1),
}


@dataclass(frozen=True, slots=True)
class NewLink:
    """A link that was just made: the only moment at which it is known.

    Args:
        path: below the dashboard's address.
        row: what is kept of it.
    """

    path: str
    row: OneTimeLink


async def make_link(
    session: AsyncSession,
    purpose: Purpose,
    email: str,
    now: datetime,
    *,
    organization_id: str | None = None,
    role: Role | None = None,
    actor_id: str | None = None,
) -> NewLink:
    """Make a link. One that was made before for the same purpose, person and organization works no more."""
    await session.execute(delete(OneTimeLink).where(OneTimeLink.expires_at < now))
    same = (OneTimeLink.purpose == purpose, OneTimeLink.email == email, OneTimeLink.organization_id == organization_id)
    await session.execute(delete(OneTimeLink).where(*same))
    token = secrets.token_urlsafe(TOKEN_BYTES)
    row = OneTimeLink(
        token_hash=hash_token(token),
        purpose=purpose,
        email=email,
        organization_id=organization_id,
        role=None if role is None else role.word,
        actor_id=actor_id,
        created_at=now,
        expires_at=now + LASTS[purpose],
    )
    session.add(row)
    await session.flush()
    return NewLink(f"{PATH}/{token}", row)


async def look_at_link(session: AsyncSession, token: str, now: datetime) -> tuple[OneTimeLink, Organization | None]:
    """Return what a link is for, without using it.

    Raises:
        Missing: it was used, has expired, or never was.
    """
    query = select(OneTimeLink).where(OneTimeLink.token_hash == hash_token(token), OneTimeLink.expires_at > now)
    row = await session.scalar(query)
    if row is None:
        raise Missing(_GONE, "link_gone")
    return row, None if row.organization_id is None else await session.get(Organization, row.organization_id)


async def use_link(session: AsyncSession, token: str, now: datetime) -> tuple[OneTimeLink, User, bool]:
    """Use a link up: its user is there afterwards, and a member if it was an invitation.

    Returns:
        What the link was for, its user, and whether they are new.

    Raises:
        Missing: as above; of two who use it at once, one hears it.
    """
    row, _ = await look_at_link(session, token, now)
    used = await session.execute(delete(OneTimeLink).where(OneTimeLink.id == row.id).returning(OneTimeLink.id))
    if used.one_or_none() is None:
        raise Missing(_GONE, "link_gone")
    user = await session.scalar(select(User).where(User.email == row.email))
    is_new = user is None
    if user is None:
        user = User(email=row.email, unproven=row.purpose == Purpose.INVITATION)
        session.add(user)
        await session.flush()
    elif row.purpose != Purpose.INVITATION:
        await prove_address(session, user, now)
    if row.organization_id is not None and await session.get(Member, (row.organization_id, user.id)) is None:
        session.add(Member(organization_id=row.organization_id, user_id=user.id, role=row.role or Role.VIEWER.word))
    return row, user, is_new
