"""How every way in ends: with a fresh cookie, and with the second factor still to be given by whoever has one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote

from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane import web_sessions
from control_plane.api.admission import SERVICES
from control_plane.dashboard.cookie import set_cookie
from control_plane.tables import User

CODE: Final = "/sign-in/code"


@dataclass(frozen=True, slots=True)
class Begun:
    """A session that has begun.

    Args:
        cookie: what the browser gets.
        awaits_code: whether nobody is signed in yet.
    """

    cookie: str
    awaits_code: bool = False


async def begin(request: web.Request, session: AsyncSession, user: User, now: datetime) -> Begun:
    """Begin a session of somebody who has shown that they are this user, but for their second factor."""
    awaits_code = await request.app[SERVICES].second_factors.is_on(session, user.id)
    browser = request.headers.get("User-Agent", "")
    cookie = await web_sessions.begin(session, user, browser, now, awaits_code=awaits_code)
    return Begun(cookie, awaits_code)


def go_on(request: web.Request, begun: Begun, following: str) -> web.StreamResponse:
    """Go on with a fresh cookie: one that somebody else may have put there is of no use to them (session fixation)."""
    if begun.awaits_code:
        following = f"{CODE}?next={quote(following, safe='')}"
    response = web.Response(status=303, headers={"Location": following, "Cache-Control": "no-store"})
    set_cookie(request, response, begun.cookie)
    return response
