"""Closing what is about to be deleted, so that the edges stop serving it."""

from __future__ import annotations

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.publish import Publisher
from control_plane.tables import Application, Environment


async def close_applications(session: AsyncSession, publisher: Publisher, which: ColumnElement[bool]) -> list[str]:
    """Withdraw the keys of every environment of the applications that are about to be deleted.

    Returns:
        The environments' ids, to be announced after the commit.

    Args:
        session: the transaction that deletes them.
        publisher: writes down which keys the edges must forget.
        which: a condition on `Application`.
    """
    query = select(Environment.id).join(Application, Application.id == Environment.application_id).where(which)
    environment_ids = list(await session.scalars(query))
    for environment_id in environment_ids:
        await publisher.close_environment(session, environment_id)
    return environment_ids
