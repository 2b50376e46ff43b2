"""Questions to ClickHouse: how a model is adopted, and what an analyst asks in SQL."""

from __future__ import annotations

import asyncio

from sqlalchemy import select

from control_plane import lookup
from control_plane.api.call import Call
from control_plane.api.organizations import MAX_ORGANIZATIONS_PER_USER
from control_plane.api.schemas import AdoptionOut, AdoptionQuery, SqlAnswer, SqlQuestion
from control_plane.api.versions import find_model
from control_plane.errors import Forbidden, Invalid
from control_plane.model_names import names_of
from control_plane.tables import Member
from control_plane.warehouse import telling_of_clickhouse
from telemetry.warehouse import QueryLimits


async def show_adoption(call: Call, query: AdoptionQuery) -> AdoptionOut:
    """Show by day how many active devices hold each version, and how many failed and why."""
    from telemetry.adoption import adoption

    async with call.database.read() as session:
        application, model = await find_model(session, call)
        environment = await lookup.environment(session, application.id, query.environment)
        names = await names_of(session, model)
    with telling_of_clickhouse():
        report = await adoption(
            call.services.warehouse.get(),
            call.organization.id,
            application.id,
            environment.name,
            names,
            query.days,
            call.now,
        )
    return AdoptionOut.model_validate(report, from_attributes=True)


async def ask_sql(call: Call, body: SqlQuestion) -> SqlAnswer:
    """Answer one read-only SELECT from the view `events`, of the caller's organizations only."""
    from telemetry.sql_guard import ForbiddenQuery, guard

    settings = call.services.settings
    organization_ids = await _organizations_asked(call, body.organization)
    try:  # in a thread: parsing the longest query takes some 20 ms
        sql = await asyncio.to_thread(guard, body.query, organization_ids, settings.sql_max_rows)
    except ForbiddenQuery as error:
        raise Invalid(str(error), "forbidden_query") from error
    limits = QueryLimits(seconds=settings.sql_max_seconds, rows=settings.sql_max_rows + 1)
    with telling_of_clickhouse():
        rows = await call.services.warehouse.get().query_readonly(sql, limits)
    return SqlAnswer(rows=rows[: settings.sql_max_rows], truncated=len(rows) > settings.sql_max_rows)


async def _organizations_asked(call: Call, text: str | None) -> list[str]:
    """Return the ids of the organizations whose events the caller asks for; never of one they are no member of."""
    async with call.database.read() as session:
        if text is not None:
            organization, _ = await lookup.organization(session, call.caller, text)
            return [organization.id]
        query = select(Member.organization_id).where(*lookup.memberships(call.caller))
        ids = (await session.scalars(query.limit(MAX_ORGANIZATIONS_PER_USER))).all()
    if not ids:
        raise Forbidden("You are not a member of an organization, so there are no events to ask for.")
    return list(ids)
