"""The one order in which writing transactions lock what they decide on, so that no two wait for each other.

    organization → applications → environments, each by their ids → model → model versions

A transaction may leave steps out, and takes none after a later one. On SQLite a writing transaction holds the whole
database, and these are plain reads. On PostgreSQL whoever holds

- an environment decides alone what it offers and signs its next manifest;
- a model decides alone whether it is offered anywhere, what it is called, and which number a version gets;
- an application, or an organization, decides alone what is in it: adding something takes a share of its row.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.errors import Missing
from control_plane.tables import Application, Environment, Model, Organization


async def lock_organization(session: AsyncSession, organization_id: str) -> Organization:
    """Return the organization, held until the transaction ends.

    Raises:
        Missing: it is gone.
    """
    organization = await session.get(Organization, organization_id, with_for_update=True, populate_existing=True)
    if organization is None:
        raise Missing("There is no such organization.")
    return organization


async def lock_applications(session: AsyncSession, which: ColumnElement[bool]) -> list[str]:
    """Hold applications with all their environments until the transaction ends; return the environments' ids.

    Args:
        which: a condition on `Application`.
    """
    query = select(Application.id).where(which).order_by(Application.id).with_for_update()
    applications = list(await session.scalars(query))
    environments = select(Environment.id).where(Environment.application_id.in_(applications))
    return list(await session.scalars(environments.order_by(Environment.id).with_for_update()))


async def share_application(session: AsyncSession, application_id: str) -> None:
    """Keep an application from being deleted until the transaction ends; others may add to it as well.

    A row that refers to it takes the same share by itself, which is too late for whoever holds a model by then.

    Raises:
        Missing: it is gone.
    """
    query = select(Application.id).where(Application.id == application_id)
    if await session.scalar(query.with_for_update(read=True, key_share=True)) is None:
        raise Missing("There is no such application.")


async def lock_environment(session: AsyncSession, environment_id: str) -> Environment:
    """Return the environment, held until the transaction ends.

    Raises:
        Missing: it is gone.
    """
    environment = await session.get(Environment, environment_id, with_for_update=True, populate_existing=True)
    if environment is None:
        raise Missing("There is no such environment.")
    return environment


async def lock_model(session: AsyncSession, model_id: str) -> Model:
    """Return the model, held until the transaction ends.

    Raises:
        Missing: it is gone.
    """
    model = await session.get(Model, model_id, with_for_update=True, populate_existing=True)
    if model is None:
        raise Missing("There is no such model.")
    return model
