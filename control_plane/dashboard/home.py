"""The first pages: an organization's applications, and making the first of everything."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from aiohttp import web
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.api.applications import list_applications
from control_plane.api.call import Call
from control_plane.api.organizations import list_organizations
from control_plane.api.paging import Paging
from control_plane.api.schemas import ApplicationsQuery
from control_plane.dashboard.addresses import address
from control_plane.dashboard.examples import EXAMPLES
from control_plane.dashboard.paging import cursor_of
from control_plane.tables import Application, Deployment, Environment

# Cards on a page: what somebody looks through, and what its figures cost.
PER_PAGE = 60


async def show_home(call: Call) -> Mapping[str, Any]:
    """Go to the only organization, or show which there are."""
    page = await list_organizations(call, Paging(limit=2))
    if len(page.items) == 1:
        raise web.HTTPSeeOther(address("organizations", page.items[0].name))
    page = await list_organizations(call, Paging(limit=PER_PAGE, cursor=cursor_of(call)))
    return {"items": page.items, "next_cursor": page.next_cursor}


async def show_applications(call: Call) -> Mapping[str, Any]:
    """Show the organization's applications, each with its devices and its last deployment."""
    query = ApplicationsQuery(limit=PER_PAGE, cursor=cursor_of(call), with_models=True)
    page = await list_applications(call, query)
    ids = [application.id for application in page.items]
    async with call.database.read() as session:
        devices, deployed = await _devices(call, session, ids), await _last_deployments(session, ids)
    return {"items": page.items, "next_cursor": page.next_cursor, "devices": devices, "deployed": deployed}


async def show_new_application(call: Call) -> Mapping[str, Any]:  # noqa: ARG001 - nothing to ask for
    """Show the form for a new application, and the examples that one can begin with."""
    return {"examples": EXAMPLES}


async def _devices(call: Call, session: AsyncSession, application_ids: list[str]) -> dict[str, int]:
    """Return how many devices are registered with each application."""
    query = select(Environment.id, Environment.application_id).where(Environment.application_id.in_(application_ids))
    application_of = {row[0]: row[1] for row in (await session.execute(query)).all()}
    counts: dict[str, int] = dict.fromkeys(application_ids, 0)
    for environment_id, count in (await call.services.device_counts.of(session, list(application_of))).items():
        counts[application_of[environment_id]] += count
    return counts


async def _last_deployments(session: AsyncSession, application_ids: list[str]) -> dict[str, datetime]:
    query = (
        select(Application.id, func.max(Deployment.created_at))
        .join(Environment, Environment.application_id == Application.id)
        .join(Deployment, Deployment.environment_id == Environment.id)
        .where(Application.id.in_(application_ids))
        .group_by(Application.id)
    )
    return {row[0]: row[1] for row in (await session.execute(query)).all()}
