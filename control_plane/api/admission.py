"""Who may call what: the one place where roles are checked, for the management API and for the dashboard.

They differ in how a caller is known, by a token or by the session of a browser, and in nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeAlias

from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane import lookup
from control_plane.accounts import Caller, Role
from control_plane.api.call import Call, Membership, Services
from control_plane.api.route import Access
from control_plane.errors import Forbidden
from control_plane.tables import utc_now

SERVICES: web.AppKey[Services] = web.AppKey("services", Services)

# Returns who a request comes from, or raises `Unauthorized`.
Identify: TypeAlias = Callable[[web.Request, AsyncSession, datetime], Awaitable[Caller]]


async def admit(access: Access, request: web.Request, identify: Identify) -> Call:
    """Return the call if it is allowed.

    Args:
        access: what the route needs.
        request: with the organization in its path, if the route needs a role in one.
        identify: how its caller is known.

    Raises:
        Unauthorized: the caller is not known, and the route needs one.
        Missing: the organization in the path is not one of the caller's.
        Forbidden: the caller's role is too low, or their token's scope leaves this out.
    """
    services = request.app[SERVICES]
    now = utc_now()
    if access is Access.PUBLIC:
        return Call(request, services, now, None, None)
    async with services.database.read() as session:
        caller = await identify(request, session, now)
        if access is Access.PERSON and caller.scope is not None:
            raise Forbidden("This is the person's own: a token with a scope or an end may not do it.", "scoped_token")
        if access.role is None:
            return Call(request, services, now, caller, None)
        organization, role = await lookup.organization(session, caller, request.match_info["org"])
    if role < access.role and caller.role_at_most(Role.OWNER) < access.role:
        raise Forbidden(f"This needs the role {access.value}; the token is for a {role.word} at most.", "scoped_token")
    if role < access.role:
        raise Forbidden(f"This needs the role {access.value}; yours is {role.word}.")
    return Call(request, services, now, caller, Membership(organization, role))
