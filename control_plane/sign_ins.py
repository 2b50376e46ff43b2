"""How often somebody may try passwords: the more failed of late, the longer the next has to wait.

It is counted for the account and for the address that the tries come from, each for itself: one keeps a password from
being guessed by many machines, the other keeps a machine from trying one password on many accounts. A try is counted
before it is looked at and taken back when it was right, so a hundred at once are no more than one after the other. Kept
are hashes; those of more than a day ago are forgotten with the next wrong try. Mails that anybody may ask for are
counted in the same way.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.errors import TooMany
from control_plane.tables import SignInFailure
from control_plane.upserts import insert_into

# So many slips of the finger are free.
FREE_FOR_ACCOUNT: Final = 5
# Many people share an address (an office, a mobile network).
FREE_FOR_ADDRESS: Final = 30
# Of mails that one person has sent to themselves, or to others.
FREE_MAILS_TO: Final = 3
FREE_MAILS_FROM_ADDRESS: Final = 10
# Of invitations, which a whole team gets at once.
FREE_MAILS_BY_MEMBER: Final = 50
FIRST_WAIT: Final = timedelta(seconds=15)
# Longer would let anybody lock somebody else out.
LONGEST_WAIT: Final = timedelta(minutes=15)
FORGOTTEN_AFTER: Final = timedelta(days=1)
_WRONG_PASSWORDS: Final = "Too many tries with a wrong password."
WRONG_CODES: Final = "Too many tries with a wrong code."
MANY_MAILS: Final = "Too many mails were asked for."


def subjects_of(email: str, address: str) -> dict[str, int]:
    """Return what is counted for a try of a password, the account first, each with how many failures are free."""
    return {_account(email): FREE_FOR_ACCOUNT, _hash(f"address {address}"): FREE_FOR_ADDRESS}


def code_subjects(email: str, address: str) -> dict[str, int]:
    """Return what is counted for a try of a second factor; a right password does not take the wrong ones back."""
    return {_hash(f"code of {email.casefold()}"): FREE_FOR_ACCOUNT, _hash(f"address {address}"): FREE_FOR_ADDRESS}


def mail_subjects(email: str, address: str) -> dict[str, int]:
    """Return what is counted for a mail to somebody that is asked for from an address, each with how many are free."""
    return {
        _hash(f"mail to {email.casefold()}"): FREE_MAILS_TO,
        _hash(f"mail from {address}"): FREE_MAILS_FROM_ADDRESS,
    }


def invitation_subjects(email: str, user_id: str) -> dict[str, int]:
    """Return what is counted for a mail that a member has sent to somebody."""
    return {
        _hash(f"mail to {email.casefold()}"): FREE_MAILS_TO,
        _hash(f"mail by {user_id}"): FREE_MAILS_BY_MEMBER,
    }


async def begin_try(
    session: AsyncSession, subjects: dict[str, int], now: datetime, complaint: str = _WRONG_PASSWORDS
) -> None:
    """Count a try as a wrong one until it is known to be right, or say how long to wait.

    Args:
        session: a writing one, of this alone.
        subjects: from `subjects_of`.
        now: the moment of the try.
        complaint: what was done too often.

    Raises:
        TooMany: too many were wrong of late.
    """
    await session.execute(delete(SignInFailure).where(SignInFailure.last_at < now - FORGOTTEN_AFTER))
    zero = [{"subject_hash": subject, "failures": 0, "last_at": now} for subject in sorted(subjects)]
    await session.execute(insert_into(session, SignInFailure).values(zero).on_conflict_do_nothing())
    locked = select(SignInFailure).where(SignInFailure.subject_hash.in_(subjects)).order_by(SignInFailure.subject_hash)
    rows = (await session.scalars(locked.with_for_update())).all()
    wait = max(_until(row, subjects[row.subject_hash]) - now for row in rows)
    if wait > timedelta(0):
        seconds = int(wait.total_seconds()) + 1
        raise TooMany(f"{complaint} The next is possible in {_told(seconds)}.", seconds)
    for row in rows:
        row.failures, row.last_at = row.failures + 1, now


async def end_try(session: AsyncSession, subjects: dict[str, int]) -> None:
    """Take a try back that was right: the account's wrong ones are forgotten, those of the address stay."""
    await session.execute(delete(SignInFailure).where(SignInFailure.subject_hash == next(iter(subjects))))
    again = update(SignInFailure).where(SignInFailure.subject_hash.in_(subjects), SignInFailure.failures > 0)
    await session.execute(again.values(failures=SignInFailure.failures - 1))


async def forget_account(session: AsyncSession, email: str) -> None:
    """Forget an account's wrong tries: it has another password now."""
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
