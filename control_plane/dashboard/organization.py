"""An organization: its members and who is invited, its audit log, its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control_plane.accounts import Role
from control_plane.api.analytics import list_audit_log
from control_plane.api.call import Call
from control_plane.api.invitations import list_invitations
from control_plane.api.organizations import list_members
from control_plane.api.paging import Paging
from control_plane.dashboard.paging import cursor_of

PER_PAGE = 100


async def show_members(call: Call) -> Mapping[str, Any]:
    """Show the members, and to owners who is invited."""
    page = await list_members(call, Paging(limit=PER_PAGE, cursor=cursor_of(call)))
    invited = (await list_invitations(call, Paging())).items if call.role >= Role.OWNER else []
    return {"items": page.items, "next_cursor": page.next_cursor, "invited": invited}


async def show_audit_log(call: Call) -> Mapping[str, Any]:
    """Show who changed what, newest first."""
    page = await list_audit_log(call, Paging(limit=PER_PAGE, cursor=cursor_of(call)))
    return {"items": page.items, "next_cursor": page.next_cursor}


async def show_settings(call: Call) -> Mapping[str, Any]:  # noqa: ARG001 - the frame has the name
    """Show what can be changed of the organization."""
    return {}
