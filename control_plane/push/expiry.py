"""Push certificates last a year, and the push on the day of a release must not be what tells that one has ended."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import structlog
from sqlalchemy import select

from control_plane.database import Database
from control_plane.errors import Unavailable
from control_plane.metrics import PUSH_CREDENTIAL_EXPIRES
from control_plane.tables import PushCredential, utc_now

# Long enough to get a new one from whoever has the account.
WARN_BEFORE = timedelta(days=30)
LOOK_SECONDS = 3600.0
# Complaints are repeated so often.
WARN_AGAIN = timedelta(days=1)

_log = structlog.get_logger(__name__)


async def watch_expiry(database: Database) -> None:
    """Tell in the log and in a metric when credentials expire, for ever."""
    warned = None
    while True:
        try:
            now = utc_now()
            again = warned is None or now - warned >= WARN_AGAIN
            if await look(database, warn=again) and again:
                warned = now
        except Unavailable:
            pass  # there is time
        await asyncio.sleep(LOOK_SECONDS)


async def look(database: Database, *, warn: bool) -> int:
    """Look at all credentials once; return how many expire soon, or have.

    Args:
        warn: whether to say so in the log.
    """
    async with database.read() as session:
        rows = list(await session.scalars(select(PushCredential).where(PushCredential.expires_at.is_not(None))))
    PUSH_CREDENTIAL_EXPIRES.clear()
    soon = 0
    for row in rows:
        assert row.expires_at is not None
        PUSH_CREDENTIAL_EXPIRES.labels(row.environment_id, row.service).set(row.expires_at.timestamp())
        if expires_soon(row.expires_at, utc_now()):
            soon += 1
            if warn:
                ends = row.expires_at.isoformat()
                _log.warning("push_credential_expires", environment=row.environment_id, service=row.service, at=ends)
    return soon


def expires_soon(expires_at: datetime | None, now: datetime, within: timedelta = WARN_BEFORE) -> bool:
    """Say whether a credential has ended, or ends within a while; one without an end never does."""
    return expires_at is not None and expires_at - now < within
