"""Whose an account is that an invitation made: the link went through the hands of who made it, who may have used it.

So whoever proves that they read mail at the address (by a link that was mailed or that the operator made, or by another
provider that has verified it) gets the account without anything that lets somebody else in. A second factor stays:
nobody comes in without it, and the operator can turn it off; a stolen mailbox must not.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane import web_sessions
from control_plane.tables import ApiToken, User


async def prove_address(session: AsyncSession, user: User, now: datetime) -> None:
    """Take a user's address as proven; what was made before lets nobody in any more."""
    if not user.unproven:
        return
    user.unproven, user.password_hash = False, None
    revoked = update(ApiToken).where(ApiToken.user_id == user.id, ApiToken.revoked_at.is_(None))
    await session.execute(revoked.values(revoked_at=now))
    await web_sessions.end(session, user.id)
