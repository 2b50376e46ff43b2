"""The audit log: who changed what, when, and from where.

An entry is written in the transaction of the change that it tells of, so neither is ever there without the other.
Entries are only ever added; they stay when the thing itself is deleted.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.actor import Actor
from control_plane.tables import AuditEntry, Member

ACTION_LENGTH = 64
TARGET_LENGTH = 512


def record(
    session: AsyncSession,
    actor: Actor,
    organization_id: str | None,
    action: str,
    target: str,
    detail: dict[str, Any] | None = None,
) -> None:
    """Add an entry to the audit log; it is stored when the session's transaction commits.

    Args:
        session: the session in which the change itself is made.
        actor: who made the change.
        organization_id: the organization that it concerns, or None if none does.
        action: what was done, as "model.create" or "version.deploy".
        target: what it was done to, in names: "app/model/3". Cut at 512 characters.
        detail: further facts as JSON; never a secret.
    """
    entry = AuditEntry(
        organization_id=organization_id,
        actor_id=actor.user_id,
        actor=actor.email,
        client=actor.client,
        via=actor.via,
        action=action[:ACTION_LENGTH],
        target=target[:TARGET_LENGTH],
        detail=detail or {},
    )
    session.add(entry)


async def record_of_person(
    session: AsyncSession, actor: Actor, user_id: str, action: str, target: str, detail: dict[str, Any] | None = None
) -> None:
    """Add an entry about a person's own things (tokens) to the log of every organization that they are a member of.

    A token opens all of them, so the owners of each must see that there is one more or one less.

    Args:
        session: the session in which the change itself is made.
        actor: who made the change.
        user_id: whose things it is about.
        action: what was done, as "token.create".
        target: what it was done to. Cut at 512 characters.
        detail: further facts as JSON; never a secret.
    """
    members = select(Member.organization_id).where(Member.user_id == user_id)
    organization_ids: list[str | None] = [*await session.scalars(members)]
    for organization_id in organization_ids or [None]:
        record(session, actor, organization_id, action, target, detail)
