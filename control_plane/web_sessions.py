"""Browsers that somebody is signed in with.

The cookie holds 256 random bits and the database their SHA-256 alone, as with API tokens. A session ends when it is not
used for two weeks, after three months in any case, and when its user signs out, here or everywhere, or changes the
password. Its form token, which every form sends back, is derived from the cookie: another site knows neither
(OWASP, Cross-Site Request Forgery Prevention, "signed double submit").
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.accounts import Caller, hash_token
from control_plane.names import without_control_characters
from control_plane.tables import User, WebSession

TOKEN_BYTES: Final = 32
IDLE: Final = timedelta(days=14)
LONGEST: Final = timedelta(days=90)
# To look at the phone, or to find a recovery code.
CODE_WITHIN: Final = timedelta(minutes=10)
# A page is read more often than the moment of it is worth a write.
SEEN_EVERY: Final = timedelta(minutes=5)
# One person has few browsers; the oldest of more is signed out.
MAX_PER_USER: Final = 50
BROWSER_LENGTH: Final = 200


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who is signed in, with which browser.

    Args:
        caller: the user.
        has_password: whether one was set.
        notice: what their next page has to say.
        seen_at: when the browser was used last.
    """

    caller: Caller
    has_password: bool
    notice: Mapping[str, Any] | None
    seen_at: datetime


def new_token() -> str:
    """Return what a cookie holds."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def form_token(cookie: str) -> str:
    """Return what the forms of a page with this cookie send back."""
    return hmac.digest(cookie.encode(), b"form", hashlib.sha256).hex()


def is_form_token(cookie: str, token: str) -> bool:
    """Say whether a form came from a page with this cookie."""
    return hmac.compare_digest(form_token(cookie).encode(), token.encode(errors="replace"))


async def begin(session: AsyncSession, user: User, browser: str, now: datetime, *, awaits_code: bool = False) -> str:
    """Sign a user in, or all but so if their second factor is awaited; return what their cookie holds."""
    await session.execute(delete(WebSession).where(WebSession.expires_at < now))
    oldest = (
        select(WebSession.id)
        .where(WebSession.user_id == user.id, WebSession.awaits_code.is_(awaits_code))
        .order_by(WebSession.seen_at.desc())
        .offset(MAX_PER_USER - 1)
    )
    await session.execute(delete(WebSession).where(WebSession.id.in_((await session.scalars(oldest)).all())))
    token = new_token()
    session.add(
        WebSession(
            user_id=user.id,
            token_hash=hash_token(token),
            browser=without_control_characters(browser[:BROWSER_LENGTH]),  # bytes that are no UTF-8 are surrogates
            created_at=now,
            seen_at=now,
            expires_at=now + (CODE_WITHIN if awaits_code else IDLE),
            awaits_code=awaits_code,
        )
    )
    return token


async def find(session: AsyncSession, token: str, now: datetime) -> SignedIn | None:
    """Return who is signed in with a cookie."""
    query = (
        select(WebSession.id, WebSession.notice, WebSession.seen_at, User.id, User.email, User.password_hash)
        .join(User, User.id == WebSession.user_id)
        .where(*_is(token, now, awaits_code=False))
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        return None
    session_id, notice, seen_at, user_id, email, password_hash = row
    return SignedIn(Caller(user_id, email, session_id=session_id), password_hash is not None, notice, seen_at)


async def who_waits(session: AsyncSession, token: str, now: datetime) -> User | None:
    """Return who has to give a code with a cookie."""
    query = select(User).join(WebSession, WebSession.user_id == User.id)
    return await session.scalar(query.where(*_is(token, now, awaits_code=True)))


async def end_waiting(session: AsyncSession, token: str, now: datetime) -> bool:
    """End a session that waits for a code; of two who give one at once, one hears that it was there."""
    ended = delete(WebSession).where(*_is(token, now, awaits_code=True)).returning(WebSession.id)
    return (await session.execute(ended)).one_or_none() is not None


def _is(token: str, now: datetime, *, awaits_code: bool) -> tuple[ColumnElement[bool], ...]:
    waits = WebSession.awaits_code.is_(awaits_code)
    return WebSession.token_hash == hash_token(token), WebSession.expires_at > now, waits


async def note_use(session: AsyncSession, session_id: str, now: datetime) -> None:
    """Put the end of a session off, since it is used."""
    row = await session.get(WebSession, session_id)
    if row is not None:
        row.seen_at, row.expires_at = now, min(now + IDLE, row.created_at + LONGEST)


async def leave_notice(session: AsyncSession, session_id: str, notice: Mapping[str, Any] | None) -> None:
    """Have the session's next page say something, or nothing any more."""
    await session.execute(update(WebSession).where(WebSession.id == session_id).values(notice=notice))


async def leave_undo(session: AsyncSession, session_id: str, undo: Mapping[str, Any] | None) -> None:
    """Have the session hold what takes its last form back, in the place of the one before; or nothing any more."""
    await session.execute(update(WebSession).where(WebSession.id == session_id).values(undo=undo))


async def take_undo(session: AsyncSession, session_id: str, undo_id: str) -> Mapping[str, Any] | None:
    """Return what was left with this id and take it away: of two who ask at once, one gets it."""
    row = await session.get(WebSession, session_id, with_for_update=True)
    if row is None or row.undo is None or row.undo["id"] != undo_id:
        return None
    undo, row.undo = row.undo, None
    return undo


async def end(session: AsyncSession, user_id: str, *, only: str | None = None, all_but: str | None = None) -> None:
    """Sign a user out.

    Args:
        session: where it is written.
        user_id: who.
        only: this session alone.
        all_but: all but this one.
    """
    ended = delete(WebSession).where(WebSession.user_id == user_id)
    if only is not None:
        ended = ended.where(WebSession.id == only)
    if all_but is not None:
        ended = ended.where(WebSession.id != all_but)
    await session.execute(ended)
