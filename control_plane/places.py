"""Where a thing belongs, in names: what the audit log and the labels on a publication say."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.errors import Missing
from control_plane.tables import Application, Environment, Model, Organization
from manifests.store import Labels


@dataclass(frozen=True, slots=True)
class Place:
    """The organization and the application that a model belongs to."""

    organization_id: str
    application: str


async def place_of_model(session: AsyncSession, model_id: str) -> Place:
    """Return where a model belongs.

    Raises:
        Missing: the model is gone.
    """
    query = (
        select(Application.organization_id, Application.name)
        .join(Model, Model.application_id == Application.id)
        .where(Model.id == model_id)
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise Missing("There is no such model.")
    return Place(row[0], row[1])


async def labels_of(session: AsyncSession, environment_ids: Collection[str]) -> dict[str, Labels]:
    """Return whose environments these are, by their id; those that are gone are left out."""
    query = (
        select(Organization.id, Organization.name, Application.id, Application.name, Environment.id, Environment.name)
        .join(Application, Application.organization_id == Organization.id)
        .join(Environment, Environment.application_id == Application.id)
        .where(Environment.id.in_(environment_ids))
    )
    return {row[4]: Labels(*row) for row in await session.execute(query)}


async def labels_of_one(session: AsyncSession, environment_id: str) -> Labels:
    """Return whose environment this is.

    Raises:
        Missing: it is gone.
    """
    labels = (await labels_of(session, [environment_id])).get(environment_id)
    if labels is None:
        raise Missing("There is no such environment.")
    return labels
