"""The caller's own API tokens."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane import audit, lookup
from control_plane.accounts import MAX_TOKENS_PER_USER, Role, Scope, is_valid, make_token
from control_plane.api.call import Call
from control_plane.api.paging import Keyset, Page, Paging, fetch_page
from control_plane.api.schemas import NewToken, NewTokenOut, TokenOut
from control_plane.errors import Conflict, Missing
from control_plane.names import is_id
from control_plane.tables import ApiToken, Organization


async def list_tokens(call: Call, query: Paging) -> Page[TokenOut]:
    """List the caller's tokens that are valid."""
    rows = (
        select(ApiToken, Organization.name)
        .outerjoin(Organization, Organization.id == ApiToken.organization_id)
        .where(ApiToken.user_id == call.caller.user_id, *is_valid(call.now))
    )
    async with call.database.read() as session:
        page = await fetch_page(session, rows, Keyset((ApiToken.created_at, ApiToken.id)), query)
    return page.map(lambda row: _show(call, row[0], row[1]))


async def create_token(call: Call, body: NewToken) -> NewTokenOut:
    """Make a token for the caller. Its text is shown in this answer and never again."""
    async with call.database.write() as session:
        valid = select(func.count()).where(ApiToken.user_id == call.caller.user_id, *is_valid(call.now))
        if (await session.scalar(valid) or 0) >= MAX_TOKENS_PER_USER:
            raise Conflict(f"One person has at most {MAX_TOKENS_PER_USER} tokens; revoke some.", "too_many")
        organization = None
        if body.organization is not None:
            organization, _ = await lookup.organization(session, call.caller, body.organization)
        role = None if body.role is None else Role.of(body.role)
        scope = Scope(None if organization is None else organization.id, role)
        expires_at = None if body.expires_days is None else call.now + timedelta(days=body.expires_days)
        token = make_token(call.caller.user_id, body.name, scope, expires_at)
        session.add(token.row)
        await session.flush()
        await _record(session, call, "token.create", token.row)
    name = None if organization is None else organization.name
    return NewTokenOut(**_show(call, token.row, name).model_dump(), token=token.text)


async def revoke_token(call: Call) -> None:
    """Revoke one of the caller's tokens, at once."""
    token_id = call.part("token")
    async with call.database.write() as session:
        token = await session.get(ApiToken, token_id) if is_id(token_id) else None
        if token is None or token.user_id != call.caller.user_id or token.revoked_at is not None:
            raise Missing("There is no token of this id here.")
        token.revoked_at = call.now
        await _record(session, call, "token.revoke", token)


async def _record(session: AsyncSession, call: Call, action: str, token: ApiToken) -> None:
    """Tell of a token in the log of the organization that it opens, or of all that its person is a member of."""
    detail = {"id": token.id} | ({"role": token.role} if token.role else {})
    if token.organization_id is not None:
        audit.record(session, call.actor, token.organization_id, action, token.name, detail)
    else:
        await audit.record_of_person(session, call.actor, token.user_id, action, token.name, detail)


def _show(call: Call, token: ApiToken, organization: str | None) -> TokenOut:
    return TokenOut(
        id=token.id,
        name=token.name,
        hint=token.hint,
        organization=organization,
        role=None if token.role is None else Role.of(token.role).word,
        expires_at=token.expires_at,
        created_at=token.created_at,
        last_used_at=call.services.last_uses.latest(token),
    )
