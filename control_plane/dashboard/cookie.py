"""The cookie that a browser is known by, and what proves that a form came from one of our pages.

It cannot be read by scripts, is not sent along with another site's forms, and where the dashboard is reached by https
it travels by https alone, under a name that browsers accept from no other host (RFC 6265bis, section 4.1.3.2).
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncSession
from yarl import URL

from control_plane import web_sessions
from control_plane.accounts import Caller
from control_plane.api.admission import SERVICES
from control_plane.errors import Forbidden, Unauthorized
from control_plane.web_sessions import LONGEST, SignedIn

NAME: Final = "skafos"
SECURE_NAME: Final = "__Host-skafos"
FORM_TOKEN_FIELD: Final = "form_token"  # noqa: S105 - a name
FORM_TOKEN_HEADER: Final = "X-Form-Token"  # noqa: S105 - a name
# 32 bytes in base64; what is longer is not ours, and is not hashed.
MAX_LENGTH: Final = 64

_SIGNED_IN: web.RequestKey[SignedIn] = web.RequestKey("signed_in", SignedIn)
_FOREIGN = "This form was sent by another site. Open the dashboard and do it there."
_STALE = "This page is older than your sign-in. Load it again, and repeat what you did."


def is_secure(request: web.Request) -> bool:
    """Say whether the browser reaches us by https: through a proxy, only the setting can tell."""
    public = request.app[SERVICES].settings.control_public_url
    return request.secure or (public is not None and URL(public).scheme == "https")


def read_cookie(request: web.Request) -> str | None:
    """Return what the browser's cookie holds."""
    value = request.cookies.get(SECURE_NAME if is_secure(request) else NAME)
    return value if value is not None and len(value) <= MAX_LENGTH and value.isascii() else None


def set_cookie(request: web.Request, response: web.StreamResponse, value: str) -> None:
    """Give the browser a cookie."""
    secure = is_secure(request)
    response.set_cookie(
        SECURE_NAME if secure else NAME,
        value,
        path="/",
        max_age=int(LONGEST.total_seconds()),
        httponly=True,
        samesite="Lax",
        secure=secure,
    )


async def by_session(request: web.Request, session: AsyncSession, now: datetime) -> Caller:
    """Return who is signed in with the browser.

    Raises:
        Unauthorized: nobody is.
    """
    cookie = read_cookie(request)
    found = None if cookie is None else await web_sessions.find(session, cookie, now)
    if found is None:
        raise Unauthorized("Sign in first.")
    request[_SIGNED_IN] = found
    return found.caller


def signed_in(request: web.Request) -> SignedIn | None:
    """Return who was found to be signed in."""
    return request.get(_SIGNED_IN)


def require_own_form(request: web.Request, token: str | None) -> None:
    """Refuse what does not come from one of our pages.

    Args:
        request: as it came.
        token: the form token that it shows.

    Raises:
        Forbidden: it comes from elsewhere, or from a page of an earlier session.
    """
    # Fetch Metadata (W3C): the browser says it, and no page can. Old browsers say it not, and send Origin.
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden(_FOREIGN, "foreign_form")
    origin = request.headers.get("Origin")
    if origin is not None and origin.split("://")[-1] != request.host:
        raise Forbidden(_FOREIGN, "foreign_form")
    cookie = read_cookie(request)
    if cookie is None or not web_sessions.is_form_token(cookie, token or ""):
        raise Forbidden(_STALE, "stale_form")
