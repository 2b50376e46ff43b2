"""An organization: its members and who is invited, its audit log, its settings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aiohttp import web
from pydantic import ValidationError

from control_plane.accounts import Role
from control_plane.api.audit_log import export_audit_log, list_audit_log
from control_plane.api.call import Call
from control_plane.api.errors import invalid
from control_plane.api.invitations import list_invitations
from control_plane.api.organizations import list_members
from control_plane.api.paging import Paging
from control_plane.api.schemas import AuditQuery
from control_plane.dashboard.paging import cursor_of
from control_plane.errors import Invalid

PER_PAGE = 100
FILTERS: Final = ("actor", "action", "since", "until")


async def show_members(call: Call) -> Mapping[str, Any]:
    """Show the members, and to owners who is invited."""
    page = await list_members(call, Paging(limit=PER_PAGE, cursor=cursor_of(call)))
    invited = (await list_invitations(call, Paging())).items if call.role >= Role.OWNER else []
    return {"items": page.items, "next_cursor": page.next_cursor, "invited": invited}


async def show_audit_log(call: Call) -> Mapping[str, Any]:
    """Show who changed what, newest first, as far as the form on the page asks for it."""
    asked = _asked(call)
    try:
        query, refused = _query(asked), None
    except Invalid as error:
        query, refused = _query({}), error
    page = await list_audit_log(call, query.model_copy(update={"limit": PER_PAGE, "cursor": cursor_of(call)}))
    return {"items": page.items, "next_cursor": page.next_cursor, "asked": asked, "wrong": refused}


async def save_audit_log(call: Call) -> web.StreamResponse:
    """Save what the page shows, all pages of it, as CSV."""
    return await export_audit_log(call, _query(_asked(call)))


def _asked(call: Call) -> dict[str, str]:
    """Return what the form of the page was filled in with."""
    return {name: value for name in FILTERS if (value := call.request.query.get(name, "").strip())}


def _query(asked: Mapping[str, str]) -> AuditQuery:
    """Return what a form asks for, in days of UTC, the last one included.

    Raises:
        Invalid: it cannot be asked for.
    """
    values: dict[str, Any] = dict(asked)
    for name, days in (("since", 0), ("until", 1)):
        if name in values:
            try:
                day = datetime.strptime(values[name], "%Y-%m-%d").replace(tzinfo=UTC)
                values[name] = day + timedelta(days=days)
            except (ValueError, OverflowError):
                raise Invalid(f"{name}: This is not a day, as 2026-01-31.", field=name) from None
    try:
        return AuditQuery.model_validate(values)
    except ValidationError as error:
        raise invalid(error, "form") from None


async def show_settings(call: Call) -> Mapping[str, Any]:  # noqa: ARG001 - the frame has the name
    """Show what can be changed of the organization."""
    return {}
