"""An application: its models, its environments with their keys, what it pushes with, and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control_plane.api.applications import show_one_application
from control_plane.api.call import Call
from control_plane.api.environments import list_environments
from control_plane.api.models import list_models
from control_plane.api.paging import Paging
from control_plane.api.pushes import credentials_of
from control_plane.api.schemas import ApplicationQuery
from control_plane.dashboard.paging import cursor_of

PER_PAGE = 100


async def show_models(call: Call) -> Mapping[str, Any]:
    """Show the application's models."""
    page = await list_models(call, Paging(limit=PER_PAGE, cursor=cursor_of(call)))
    return {**await _frame(call), "items": page.items, "next_cursor": page.next_cursor}


async def show_environments(call: Call) -> Mapping[str, Any]:
    """Show the application's environments with their keys, and what each pushes with."""
    page = await list_environments(call, Paging(limit=PER_PAGE, cursor=cursor_of(call)))
    credentials = await credentials_of(call, [environment.id for environment in page.items])
    return {
        **await _frame(call),
        "items": page.items,
        "next_cursor": page.next_cursor,
        "credentials": credentials,
    }


async def show_settings(call: Call) -> Mapping[str, Any]:
    """Show what can be changed of the application."""
    return await _frame(call)


async def _frame(call: Call) -> dict[str, Any]:
    return {"app": await show_one_application(call, ApplicationQuery(with_models=False))}
