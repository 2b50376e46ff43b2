"""Who does something, as the audit log and the history of deployments record it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts.

    Args:
        user_id: the user's id, or None when no person acts.
        email: the user's e-mail address, or a word such as "system".
        client: the address that the request came from, as `client_address` gives it; None when no request did.
        via: "browser", or "token" and the token's name; None when no request came.
    """

    user_id: str | None
    email: str
    client: str | None = None
    via: str | None = None


BROWSER = "browser"
NOT_SIGNED_IN = "not signed in"
SYSTEM = Actor(None, "system")
