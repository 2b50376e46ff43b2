"""The audit log: who changed what, when.

An entry is written in the transaction of the change that it tells of, so neither is ever there without the other.
Entries are only ever added; they stay when the thing itself is deleted.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.actor import Actor
from control_plane.tables import AuditEntry

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
        organization_id: the organization that it concerns, or None for a user's own things (tokens).
        action: what was done, as "model.create" or "version.deploy".
        target: what it was done to, in names: "app/model/3". Cut at 512 characters.
        detail: further facts as JSON; never a secret.
    """
    entry = AuditEntry(
        organization_id=organization_id,
        actor_id=actor.user_id,
        actor=actor.email,
        action=action[:ACTION_LENGTH],
        target=target[:TARGET_LENGTH],
        detail=detail or {},
    )
    session.add(entry)
