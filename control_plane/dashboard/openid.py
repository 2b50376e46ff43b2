"""Signing in at another provider: there, and back."""

from __future__ import annotations

from aiohttp import web

from control_plane import audit
from control_plane.api.admission import SERVICES
from control_plane.dashboard.addresses import local
from control_plane.dashboard.coming_in import begin, go_on
from control_plane.dashboard.cookie import read_cookie, set_cookie
from control_plane.dashboard.entrance import shown_on_sign_in
from control_plane.dashboard.identities import user_of
from control_plane.dashboard.own_form import acting, refused
from control_plane.errors import ControlPlaneError, Missing
from control_plane.openid import OPENID_CALLBACK, OpenIdProvider, begin_attempt, read_attempt
from control_plane.tables import utc_now
from control_plane.web_sessions import new_token

OPENID = "/sign-in/openid"


def add_openid(app: web.Application) -> None:
    """Add the way to the provider, and the way back."""
    app.router.add_get(OPENID, leave)
    app.router.add_get(OPENID_CALLBACK, come_back)


async def leave(request: web.Request) -> web.StreamResponse:
    """Go to the provider."""
    now, following = utc_now(), local(request.query.get("next"))
    cookie = read_cookie(request) or new_token()
    try:
        address = await _provider(request).address(begin_attempt(cookie, following, now), now)
    except ControlPlaneError as error:
        return await _refuse(request, error)
    response = web.Response(status=303, headers={"Location": address, "Cache-Control": "no-store"})
    set_cookie(request, response, cookie)
    return response


async def come_back(request: web.Request) -> web.StreamResponse:
    """Sign in who comes back from the provider."""
    services, now = request.app[SERVICES], utc_now()
    try:
        provider = _provider(request)
        attempt = read_attempt(read_cookie(request) or "", request.query.get("state", ""), now)
        person = await provider.person(request.query, attempt, now)
        async with services.database.write() as session:
            user, came_before = await user_of(session, person, now, may_sign_up=services.settings.oidc_sign_up)
            actor, said = acting(request, user), {"by": provider.settings.name}
            if not came_before:
                await audit.record_of_person(session, actor, user.id, "identity.link", user.email, said)
            begun = await begin(request, session, user, now)
            if not begun.awaits_code:
                await audit.record_of_person(session, actor, user.id, "sign-in", user.email, said)
    except ControlPlaneError as error:
        return await _refuse(request, error)
    return go_on(request, begun, local(attempt.following))


def _provider(request: web.Request) -> OpenIdProvider:
    provider = request.app[SERVICES].openid
    if provider is None:
        raise Missing("No other provider is set up here.")
    return provider


async def _refuse(request: web.Request, error: ControlPlaneError) -> web.StreamResponse:
    return await refused(request, "sign-in.html", error, shown_on_sign_in(request, "/"))
