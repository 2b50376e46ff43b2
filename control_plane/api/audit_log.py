"""The audit log, as its organization's members read it: chosen by who, what and when, as JSON or as CSV."""

from __future__ import annotations

from typing import Any, Final

import orjson
from aiohttp import web
from sqlalchemy import Select, select

from control_plane.api.call import Call
from control_plane.api.paging import MAX_PAGE, Keyset, Page, fetch_page
from control_plane.api.schemas import AuditExportQuery, AuditOut, AuditQuery
from control_plane.csv_fields import csv_lines
from control_plane.tables import AuditEntry

COLUMNS: Final = ("created_at", "actor", "client", "via", "action", "target", "detail")


async def list_audit_log(call: Call, query: AuditQuery) -> Page[AuditOut]:
    """List who changed what in the organization, newest first."""
    async with call.database.read() as session:
        page = await fetch_page(session, _chosen(call, query), Keyset((AuditEntry.id,), descending=True), query)
    return page.map(lambda row: AuditOut.model_validate(row[0], from_attributes=True))


async def export_audit_log(call: Call, query: AuditExportQuery) -> web.StreamResponse:
    """Answer with all of the log that is chosen, as CSV, newest first."""
    asked = AuditQuery(**query.model_dump(include=set(AuditExportQuery.model_fields)), limit=MAX_PAGE)
    page = await list_audit_log(call, asked)  # what fails does so before the answer has begun
    response = web.StreamResponse(headers=_HEADERS)
    await response.prepare(call.request)
    if call.request.method == "HEAD":
        return response
    await response.write(csv_lines([COLUMNS]).encode())
    while True:
        await response.write(csv_lines(map(_row, page.items)).encode())
        if page.next_cursor is None:
            break
        page = await list_audit_log(call, asked.model_copy(update={"cursor": page.next_cursor}))
    await response.write_eof()
    return response


_HEADERS: Final = {
    "Content-Type": "text/csv; charset=utf-8",
    "Content-Disposition": 'attachment; filename="audit.csv"',
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


def _chosen(call: Call, query: AuditExportQuery) -> Select[AuditEntry]:
    rows = select(AuditEntry).where(AuditEntry.organization_id == call.organization.id)
    if query.actor is not None:
        rows = rows.where(AuditEntry.actor == query.actor.lower())
    if query.action is not None:
        rows = rows.where(AuditEntry.action.startswith(query.action, autoescape=True))
    if query.since is not None:
        rows = rows.where(AuditEntry.created_at >= query.since)
    if query.until is not None:
        rows = rows.where(AuditEntry.created_at < query.until)
    return rows


def _row(entry: AuditOut) -> list[Any]:
    values = {**entry.model_dump(), "created_at": entry.created_at.isoformat()}
    values["detail"] = orjson.dumps(entry.detail).decode() if entry.detail else ""
    return [values[column] for column in COLUMNS]
