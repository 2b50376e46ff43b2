"""How the works of an organization are: what waits, which edges serve it, and what ends when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Select, and_, func, select

from control_plane.api.call import Call
from control_plane.api.edges import list_edges
from control_plane.api.schemas import EdgeOut
from control_plane.errors import Unavailable
from control_plane.patch_jobs import PENDING, RUNNING
from control_plane.push.expiry import expires_soon
from control_plane.tables import (
    Application,
    Environment,
    Manifest,
    Model,
    ModelVersion,
    OutboxRow,
    PatchJob,
    PushCredential,
    PushJob,
    Root,
)
from control_plane.uploads import UPLOADING

# Environments on the page: those whose signatures end first.
MAX_ENVIRONMENTS = 200


async def show_works(call: Call) -> Mapping[str, Any]:
    """Show what waits in queues, and when signatures, roots and credentials end."""
    ours = Application.organization_id == call.organization.id
    environments = select(Environment.id).join(Application, Application.id == Environment.application_id).where(ours)
    models = select(Model.id).join(Application, Application.id == Model.application_id).where(ours)
    versions = select(ModelVersion).where(ModelVersion.model_id.in_(models))
    targets = select(ModelVersion.artifact_sha256).where(ModelVersion.model_id.in_(models))
    waiting = {
        "Uploads under way": _count(versions.where(ModelVersion.state == UPLOADING)),
        "Manifests that the edges have yet to hear of": _count(
            select(OutboxRow).where(OutboxRow.environment_id.in_(environments))
        ),
        "Patches waiting or being made": _count(
            select(PatchJob).where(PatchJob.state.in_((PENDING, RUNNING)), PatchJob.target_sha256.in_(targets))
        ),
        "Pushes under way or paused": _count(
            select(PushJob).where(
                PushJob.environment_id.in_(environments), PushJob.state.in_(("pending", "running", "paused"))
            )
        ),
    }
    signed = (
        select(Application.name, Environment.name, Manifest.resign_at, Root.version, Root.expires_at)
        .join(Environment, Environment.application_id == Application.id)
        .join(Manifest, Manifest.environment_id == Environment.id)
        .join(Root, and_(Root.environment_id == Environment.id, Root.version == Manifest.root))
        .where(ours)
        .order_by(Root.expires_at, Environment.id)
        .limit(MAX_ENVIRONMENTS)
    )
    credentials = (
        select(Application.name, Environment.name, PushCredential.service, PushCredential.expires_at)
        .join(Environment, Environment.application_id == Application.id)
        .join(PushCredential, PushCredential.environment_id == Environment.id)
        .where(ours, PushCredential.expires_at.is_not(None))
        .order_by(PushCredential.expires_at)
        .limit(MAX_ENVIRONMENTS)
    )
    async with call.database.read() as session:
        counts = {title: await session.scalar(query) for title, query in waiting.items()}
        environments_shown = (await session.execute(signed)).all()
        credentials_shown = (await session.execute(credentials)).all()
    return {
        "edges": await _edges(call),
        "counts": counts,
        "environments": environments_shown,
        "credentials": [(*row, expires_soon(row[3], call.now)) for row in credentials_shown],
    }


async def _edges(call: Call) -> list[EdgeOut] | None:
    """Return the edges, or None when they cannot be asked for: the page tells the rest all the same."""
    try:
        return await list_edges(call)
    except Unavailable:
        return None


def _count(query: Select[Any]) -> Select[Any]:
    return select(func.count()).select_from(query.subquery())
