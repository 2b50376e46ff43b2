"""How often somebody may try passwords: the more failed of late, the longer the next has to wait.

It is counted for the account and for the address that the tries come from, each for itself: one keeps a password from
being guessed by many machines, the other keeps a machine from trying one password on many accounts. What is kept are
hashes, for a day.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.errors import TooMany
from control_plane.tables import SignInFailure

# So many slips of the finger are free.
FREE_FOR_ACCOUNT: Final = 5
# Many people share an address (an office, a mobile network).
FREE_FOR_ADDRESS: Final = 30
FIRST_WAIT: Final = timedelta(seconds=15)
# Longer would let anybody lock somebody else out.
LONGEST_WAIT: Final = timedelta(minutes=15)
FORGOTTEN_AFTER: Final = timedelta(days=1)


def subjects_of(email: str, address: str) -> dict[str, int]:
    """Return what is counted for a try, each with how many failures are free."""
    return {_account(email): FREE_FOR_ACCOUNT, _hash(f"address {address}"): FREE_FOR_ADDRESS}


async def refuse_too_many(session: AsyncSession, subjects: dict[str, int], now: datetime) -> None:
    """Let a try pass, or say how long to wait.

    Raises:
        TooMany: too many have failed of late.
    """
    rows = await session.scalars(select(SignInFailure).where(SignInFailure.subject_hash.in_(subjects)))
    wait = max((_until(row, subjects[row.subject_hash]) - now for row in rows), default=timedelta(0))
    if wait > timedelta(0):
        seconds = int(wait.total_seconds()) + 1
        raise TooMany(f"Too many tries with a wrong password. The next is possible in {_told(seconds)}.", seconds)


async def note_failure(session: AsyncSession, subjects: dict[str, int], now: datetime) -> None:
    """Count a failed try, and forget those of long ago."""
    await session.execute(delete(SignInFailure).where(SignInFailure.last_at < now - FORGOTTEN_AFTER))
    for subject in sorted(subjects):
        row = await session.get(SignInFailure, subject, with_for_update=True)
        if row is None:
            session.add(SignInFailure(subject_hash=subject, failures=1, last_at=now))
        else:
            row.failures, row.last_at = row.failures + 1, now


async def forget_failures(session: AsyncSession, email: str) -> None:
    """Forget an account's failures, since somebody knew its password; those of the address stay."""
    await session.execute(delete(SignInFailure).where(SignInFailure.subject_hash == _account(email)))


def _until(row: SignInFailure, free: int) -> datetime:
    over = row.failures - free
    if over < 0:
        return row.last_at
    wait: timedelta = FIRST_WAIT * 2 ** min(over, 10)
    return row.last_at + min(LONGEST_WAIT, wait)


def _told(seconds: int) -> str:
    return f"{seconds} seconds" if seconds < 120 else f"{seconds // 60 + 1} minutes"


def _account(email: str) -> str:
    return _hash(f"account {email.casefold()}")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
