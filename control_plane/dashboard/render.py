"""Putting a page together: the frame that all of them share, and the headers that bound what a page may do."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import aiohttp_jinja2
from aiohttp import web
from markupsafe import Markup
from sqlalchemy import select

from control_plane import web_sessions
from control_plane.accounts import Role
from control_plane.api.call import Call
from control_plane.dashboard.cookie import read_cookie, set_cookie, signed_in
from control_plane.names import without_control_characters
from control_plane.tables import Member, Organization
from control_plane.web_sessions import form_token, new_token

# Nothing but our own files: no other host, nothing inline, no frame, and forms that come back to us.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
# Of the organizations to switch to; the others are on a page.
SHOWN_ORGANIZATIONS: Final = 20
_NO_NOTICE: Final[Mapping[str, Any]] = {
    "done": None,
    "undo": None,
    "refused": None,
    "form": None,
    "field": None,
    "values": {},
}


async def render(
    request: web.Request,
    template: str,
    context: Mapping[str, Any],
    call: Call | None = None,
    status: int = 200,
    policy: str = POLICY,
) -> web.Response:
    """Return a page.

    Args:
        request: as it came.
        template: the page's own.
        context: what it shows.
        call: who looks at it, once they are signed in.
        status: of the answer.
        policy: what the page may load and run.
    """
    known = read_cookie(request)
    cookie = known or new_token()
    frame: dict[str, Any] = {"form_token": form_token(cookie), "here": request.path_qs, "me": None, "notice": None}
    if call is not None and call.who is not None:
        frame |= await _frame_of(call)
    page = aiohttp_jinja2.render_template(template, request, {**frame, **context}, status=status)
    if known is None:
        set_cookie(request, page, cookie)
    put_headers(page, policy)
    return page


def put_headers(page: web.StreamResponse, policy: str = POLICY) -> None:
    """Give a page, or a file that one offers, the headers that every page has."""
    page.headers["Content-Security-Policy"] = policy
    page.headers["Cache-Control"] = "no-store"
    page.headers["X-Content-Type-Options"] = "nosniff"
    page.headers["Referrer-Policy"] = "same-origin"
    page.headers["Cross-Origin-Opener-Policy"] = "same-origin"


async def _frame_of(call: Call) -> dict[str, Any]:
    """Return what the frame shows of who is signed in; what was to be said once is said."""
    found = signed_in(call.request)
    notice = None if found is None else found.notice
    if notice is not None and call.caller.session_id is not None:
        async with call.database.write() as session:
            await web_sessions.leave_notice(session, call.caller.session_id, None)
    async with call.database.read() as session:
        query = (
            select(Organization.name)
            .join(Member, Member.organization_id == Organization.id)
            .where(Member.user_id == call.caller.user_id)
            .order_by(Organization.name)
            .limit(SHOWN_ORGANIZATIONS)
        )
        organizations = (await session.scalars(query)).all()
    role = None if call.member_of is None else call.role
    return {
        "me": call.caller.email,
        "has_password": found is not None and found.has_password,
        "notice": notice and {**_NO_NOTICE, **notice},
        "organizations": organizations,
        "organization": None if call.member_of is None else call.organization.name,
        "role": None if role is None else role.word,
        "may_develop": role is not None and role >= Role.DEVELOPER,
        "may_own": role is not None and role >= Role.OWNER,
    }


def show_text(value: object) -> object:
    """Return a text as pages show it, whoever wrote it: one that browsers read as it is stored.

    Names hold no control characters, and nothing that reverses the order in which a text reads; what devices, edges and
    files in archives say may hold both.
    """
    return without_control_characters(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def swift_literal(text: str) -> str:
    """Return a text without control characters as a literal of Swift, whose escapes are not those of JSON."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def show_moment(moment: datetime | None) -> str:
    """Return a moment as its reader can compare it; a script shows it in the reader's own zone."""
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M} UTC"


def show_size(length: int | None) -> str:
    """Return bytes as people read them (SI)."""
    if length is None:
        return ""
    size = float(length)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{int(size)} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def show_count(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
