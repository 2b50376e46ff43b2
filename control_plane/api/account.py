"""The caller's own account: the password, the browsers that they are signed in with, and providers that know them."""

from __future__ import annotations

import hashlib

from sqlalchemy import select

from control_plane import audit, web_sessions
from control_plane.api.call import Call
from control_plane.api.paging import Keyset, Page, Paging, fetch_page
from control_plane.api.schemas import IdentityOut, NewPassword, SessionOut
from control_plane.errors import Conflict, Forbidden, Invalid, Missing
from control_plane.names import is_id
from control_plane.passwords import check_password
from control_plane.sign_ins import begin_try, end_try, subjects_of
from control_plane.tables import ID_LENGTH, Identity, User, WebSession

_NO_OTHER_WAY = "Set a password first: without it, nothing else would let you in."
_NEEDS_BROWSER = "A first password is set in the dashboard: an API token alone must not open it."


async def change_password(call: Call, body: NewPassword) -> None:
    """Set the caller's password. Every other browser is signed out."""
    check_password(body.password, call.caller.email)
    subjects = subjects_of(call.caller.email, call.client)
    async with call.database.read() as session:
        was = (await session.get_one(User, call.caller.user_id)).password_hash
    if was is None and call.caller.session_id is None:
        raise Forbidden(_NEEDS_BROWSER, "needs_browser")
    if was is not None:
        async with call.database.write() as session:
            await begin_try(session, subjects, call.now)
    if was is not None and not await call.services.passwords.matches(was, body.current_password or ""):
        raise Invalid("current_password: This is not your password.", "wrong_password", "current_password")
    fresh = await call.services.passwords.hash(body.password)
    async with call.database.write() as session:
        user = await session.get_one(User, call.caller.user_id, with_for_update=True)
        if user.password_hash != was:
            raise Conflict("The password was changed a moment ago; try again.")
        user.password_hash = fresh
        await end_try(session, subjects)
        await web_sessions.end(session, user.id, all_but=call.caller.session_id)
        await audit.record_of_person(session, call.actor, user.id, "password.change", user.email)


async def list_sessions(call: Call, query: Paging) -> Page[SessionOut]:
    """List the browsers that the caller is signed in with."""
    mine = WebSession.user_id == call.caller.user_id
    rows = select(WebSession).where(mine, WebSession.expires_at > call.now, WebSession.awaits_code.is_(False))
    async with call.database.read() as session:
        page = await fetch_page(session, rows, Keyset((WebSession.created_at, WebSession.id), descending=True), query)
    return page.map(lambda row: _show(row[0], call.caller.session_id))


async def end_session(call: Call) -> None:
    """Sign one of the caller's browsers out."""
    session_id = call.part("session")
    async with call.database.write() as session:
        row = await session.get(WebSession, session_id) if is_id(session_id) else None
        if row is None or row.user_id != call.caller.user_id:
            raise Missing("You are not signed in with a browser of this id.")
        await web_sessions.end(session, row.user_id, only=row.id)


async def end_sessions(call: Call) -> None:
    """Sign the caller out everywhere."""
    async with call.database.write() as session:
        await web_sessions.end(session, call.caller.user_id)
        await audit.record_of_person(session, call.actor, call.caller.user_id, "sessions.end", call.caller.email)


async def list_identities(call: Call) -> list[IdentityOut]:
    """List the providers at which the caller signs in: at most one account at each that was ever set up."""
    mine = select(Identity).where(Identity.user_id == call.caller.user_id).order_by(Identity.created_at)
    async with call.database.read() as session:
        return [_show_identity(call, row) for row in await session.scalars(mine)]


async def unlink_identity(call: Call) -> None:
    """Have a provider let the caller in no more, if they can come in otherwise. Signing in there links it again."""
    mine = select(Identity).where(Identity.user_id == call.caller.user_id)
    async with call.database.write() as session:
        rows = {id_of(row): row for row in await session.scalars(mine)}
        row = rows.get(call.part("identity"))
        if row is None:
            raise Missing("No provider knows you under this id.")
        user = await session.get_one(User, row.user_id, with_for_update=True)
        if user.password_hash is None and not call.services.mailer.is_set_up:
            raise Conflict(_NO_OTHER_WAY, "no_other_way")
        await session.delete(row)
        said = {"by": _name_of(call, row) or row.issuer}
        await audit.record_of_person(session, call.actor, user.id, "identity.unlink", user.email, said)


def id_of(row: Identity) -> str:
    """Return what an identity is called in addresses: issuers hold slashes, and subjects whatever a provider likes."""
    return hashlib.sha256(f"{row.issuer}\n{row.subject}".encode()).hexdigest()[:ID_LENGTH]


def _show_identity(call: Call, row: Identity) -> IdentityOut:
    return IdentityOut(id=id_of(row), name=_name_of(call, row), issuer=row.issuer, created_at=row.created_at)


def _name_of(call: Call, row: Identity) -> str | None:
    provider = call.services.openid
    return provider.settings.name if provider is not None and provider.settings.issuer == row.issuer else None


def _show(row: WebSession, present: str | None) -> SessionOut:
    return SessionOut(
        id=row.id, browser=row.browser, created_at=row.created_at, seen_at=row.seen_at, present=row.id == present
    )
