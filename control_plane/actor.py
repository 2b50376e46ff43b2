"""Who does something, as the audit log and the history of deployments record it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts.

    Args:
        user_id: the user's id, or None when no person acts.
        email: the user's e-mail address, or a word such as "system".
    """

    user_id: str | None
    email: str


SYSTEM = Actor(None, "system")
