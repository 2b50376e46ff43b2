"""Users, what their role lets them do, and the API tokens that they show.

A token may have a scope: one organization, a role at most, an end. It is enforced where roles are, in
`control_plane.lookup` and `control_plane.api.admission`.

A token is ``sk_`` and 43 characters that stand for 256 random bits; the database holds its SHA-256 alone, so a stolen
database opens nothing. It is shown once.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Literal

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database
from control_plane.errors import Unauthorized
from control_plane.tables import ApiToken, User

TOKEN_PREFIX = "sk_"  # noqa: S105 - not a secret
TOKEN_BYTES = 32
# The beginning of a token that lists show, so that its owner can tell one from another: 24 of 256 bits.
HINT_LENGTH = 7
# A user has few machines; a script that makes tokens in a loop is stopped here.
MAX_TOKENS_PER_USER = 200
# How often the last use of tokens is written down.
LAST_USE_SECONDS = 60.0

RoleName = Literal["viewer", "developer", "owner"]

_TOKEN = re.compile(rf"{TOKEN_PREFIX}[A-Za-z0-9_-]{{43}}")


class Role(IntEnum):
    """What a member may do. Each may do what the one before it may."""

    VIEWER = 1
    DEVELOPER = 2
    OWNER = 3

    @property
    def word(self) -> RoleName:
        """The role as the database and the API call it."""
        return _WORDS[self]

    @classmethod
    def of(cls, word: str) -> Role:
        """Return the role that ``word`` names."""
        return cls[word.upper()]


_WORDS: dict[Role, RoleName] = {Role.VIEWER: "viewer", Role.DEVELOPER: "developer", Role.OWNER: "owner"}


@dataclass(frozen=True, slots=True)
class Scope:
    """What a token may do at most, less than its person may.

    Args:
        organization_id: the only organization that it opens; None for all of the person's.
        role: the highest that it has anywhere; None for the person's own.
    """

    organization_id: str | None = None
    role: Role | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: a user, by one of their API tokens or with a browser that they are signed in with.

    Args:
        user_id: the user's.
        email: the user's.
        token_id: of the token, if one is shown.
        token_name: the same token's.
        session_id: of the browser's session, if they are signed in with one.
        scope: of a token that has one, or that ends: a token without a scope could make another that does not end.
    """

    user_id: str
    email: str
    token_id: str | None = None
    token_name: str | None = None
    session_id: str | None = None
    scope: Scope | None = None

    @property
    def organization_id(self) -> str | None:
        """The only organization that the token opens; None for all of the user's."""
        return None if self.scope is None else self.scope.organization_id

    def role_at_most(self, role: Role) -> Role:
        """Return what the caller may do where their user has a role."""
        return role if self.scope is None or self.scope.role is None else min(role, self.scope.role)


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was just made: the only moment at which its text is known."""

    text: str
    row: ApiToken


def make_token(user_id: str, name: str, scope: Scope | None = None, expires_at: datetime | None = None) -> NewToken:
    """Return a fresh token of a user; the caller adds its row to a session."""
    text = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    row = ApiToken(
        user_id=user_id,
        name=name,
        token_hash=hash_token(text),
        hint=text[:HINT_LENGTH],
        organization_id=None if scope is None else scope.organization_id,
        role=None if scope is None or scope.role is None else scope.role.word,
        expires_at=expires_at,
    )
    return NewToken(text, row)


def is_valid(now: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of tokens that open something: neither revoked nor past their end."""
    return ApiToken.revoked_at.is_(None), or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > now)


def hash_token(text: str) -> str:
    """Return the SHA-256 of a token, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


async def authenticate(session: AsyncSession, text: str | None, now: datetime) -> Caller:
    """Return who shows this token.

    Raises:
        Unauthorized: there is no token, or it is malformed, unknown, revoked or past its end; all hear the same.
    """
    if text is None or not _TOKEN.fullmatch(text):
        raise Unauthorized("A valid API token is needed: send it as X-API-TOKEN or as a bearer token.")
    query = (
        select(ApiToken, User.email)
        .join(User, User.id == ApiToken.user_id)
        .where(ApiToken.token_hash == hash_token(text), *is_valid(now))
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise Unauthorized("A valid API token is needed: send it as X-API-TOKEN or as a bearer token.")
    token, email = row
    return Caller(token.user_id, email, token.id, token.name, scope=_scope_of(token))


def _scope_of(token: ApiToken) -> Scope | None:
    if token.organization_id is None and token.role is None and token.expires_at is None:
        return None
    return Scope(token.organization_id, None if token.role is None else Role.of(token.role))


class LastUses:
    """Remembers when tokens were used, and writes it down once a minute, so that a read stays a read.

    A crash forgets a minute of it, which nothing depends on.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unwritten: dict[str, datetime] = {}

    def note(self, token_id: str, now: datetime) -> None:
        """Remember that a token was used now. Held: one moment for each token used in the last minute."""
        self._unwritten[token_id] = now

    def latest(self, token: ApiToken) -> datetime | None:
        """Return when a token was last used, as far as this process knows."""
        return self._unwritten.get(token.id, token.last_used_at)

    async def write(self) -> None:
        """Write down what was noted; what could not be written is kept.

        Raises:
            Unavailable: the database does not answer.
        """
        noted = dict(self._unwritten)
        if not noted:
            return
        async with self._database.write() as session:
            for token_id, moment in noted.items():
                await session.execute(update(ApiToken).where(ApiToken.id == token_id).values(last_used_at=moment))
        for token_id, moment in noted.items():
            if self._unwritten.get(token_id) == moment:
                del self._unwritten[token_id]
