"""The reader's own account: password, API tokens, providers that know them, browsers that they are signed in with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control_plane.api.account import list_identities, list_sessions
from control_plane.api.call import Call
from control_plane.api.organizations import list_organizations
from control_plane.api.paging import Paging
from control_plane.api.tokens import list_tokens
from control_plane.passwords import MIN_LENGTH

# Organizations that a token can be made for here; the API takes any.
MAX_CHOICES = 200


async def show_account(call: Call) -> Mapping[str, Any]:
    """Show the account."""
    tokens = await list_tokens(call, Paging())
    sessions = await list_sessions(call, Paging())
    mine = await list_organizations(call, Paging(limit=MAX_CHOICES))
    async with call.database.read() as session:
        second_factor = await call.services.second_factors.is_on(session, call.caller.user_id)
    return {
        "second_factor": second_factor,
        "choices": [(item.id, item.name) for item in mine.items],
        "tokens": tokens.items,
        "sessions": sessions.items,
        "identities": await list_identities(call),
        "mails": call.services.mailer.is_set_up,
        "openid": None if call.services.openid is None else call.services.openid.settings.name,
        "min_length": MIN_LENGTH,
    }


async def show_new_organization(call: Call) -> Mapping[str, Any]:  # noqa: ARG001 - nothing to ask for
    """Show the form for a new organization."""
    return {}
