"""Closing what is about to be deleted, so that the edges stop serving it."""

from __future__ import annotations

from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.locks import lock_applications
from control_plane.publish import Publisher


async def close_applications(session: AsyncSession, publisher: Publisher, which: ColumnElement[bool]) -> list[str]:
    """Withdraw the keys of every environment of the applications that are about to be deleted.

    Returns:
        The environments' ids, to be announced after the commit.

    Args:
        session: the transaction that deletes them.
        publisher: writes down which keys the edges must forget.
        which: a condition on `Application`.
    """
    environment_ids = await lock_applications(session, which)
    for environment_id in environment_ids:
        await publisher.close_environment(session, environment_id)
    return environment_ids
