"""From the route table to aiohttp: who calls, may they, what do they ask, what is the answer. The same for every route.

The order matters: nothing of a request is looked at before its token is known to be good, and nothing of its body
before its caller is known to have the role. A caller who is no member hears "there is none", whatever they send.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from yarl import URL

from control_plane import lookup
from control_plane.accounts import Caller, authenticate
from control_plane.api.call import Call, Membership, Services
from control_plane.api.errors import invalid
from control_plane.api.paging import Page
from control_plane.api.route import Access, Route
from control_plane.api.schemas import Nothing
from control_plane.errors import Forbidden, Invalid
from control_plane.tables import utc_now

# A body of at most a megabyte over the slowest line that is of use.
BODY_SECONDS = 30.0

SERVICES: web.AppKey[Services] = web.AppKey("services", Services)


class _NoQuery(BaseModel):
    """What may stand behind the question mark of a route that takes nothing there."""

    model_config = ConfigDict(extra="forbid")


def add_routes(app: web.Application, routes: Sequence[Route]) -> None:
    """Add the routes of a table to an aiohttp application that holds `SERVICES`. GET answers HEAD too."""
    for route in routes:
        handler = _handler_of(route)
        app.router.add_route(route.method, route.path, handler)
        if route.method == "GET":
            app.router.add_route("HEAD", route.path, handler)


def _handler_of(route: Route) -> Handler:
    to_json = _json_of(route)

    async def handle(request: web.Request) -> web.StreamResponse:
        call = await _admit(route, request)
        query = _read_query(request, route.query or _NoQuery)
        asked: dict[str, Any] = {} if route.query is None else {"query": query}
        if route.body is not None:
            body = await _read_body(request, route.body)
            asked |= {} if isinstance(body, Nothing) else {"body": body}
        answer = await route.handler(call, **asked)
        return answer if isinstance(answer, web.StreamResponse) else to_json(request, answer)

    return handle


async def _admit(route: Route, request: web.Request) -> Call:
    """Return the call if it is allowed: the one place where tokens and roles are checked.

    Raises:
        Unauthorized: there is no valid token, and the route needs one.
        Missing: the organization in the path is not one of the caller's.
        Forbidden: the caller's role is too low.
    """
    services = request.app[SERVICES]
    now = utc_now()
    if route.access is Access.PUBLIC:
        return Call(request, services, now, None, None)
    async with services.database.read() as session:
        caller = await authenticate(session, _token_in(request))
        services.last_uses.note(caller.token_id, now)
        if route.access.role is None:
            return Call(request, services, now, caller, None)
        membership = await _membership(session, caller, request.match_info["org"])
    if membership.role < route.access.role:
        raise Forbidden(f"This needs the role {route.access.value}; yours is {membership.role.word}.")
    return Call(request, services, now, caller, membership)


async def _membership(session: Any, caller: Caller, text: str) -> Membership:
    organization, role = await lookup.organization(session, caller.user_id, text)
    return Membership(organization, role)


def _token_in(request: web.Request) -> str | None:
    """Return the token that a request shows: in `X-API-TOKEN`, as the published client does, or as a bearer token."""
    token = request.headers.get("X-API-TOKEN")
    if token is not None:
        return token
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else None


def _read_query(request: web.Request, model: type[BaseModel]) -> BaseModel:
    query = request.query
    for field in set(query):
        if len(query.getall(field)) > 1:
            raise Invalid(f"{field[:60]!a}: given more than once.")
    try:
        return model.model_validate(dict(query))
    except ValidationError as error:
        raise invalid(error, "query") from None


async def _read_body(request: web.Request, model: type[BaseModel]) -> BaseModel:
    """Return the body as its model; no body at all is an empty object.

    Raises:
        Invalid: it is no JSON object of the right fields.
        HTTPRequestEntityTooLarge: it is over the application's limit.
        HTTPRequestTimeout: it does not arrive.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    try:
        return model.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise invalid(error, "body") from None


def _json_of(route: Route) -> Any:
    """Return the function that turns a handler's answer into a response."""
    if route.answer is None:
        return lambda _request, _answer: web.Response(status=204)
    adapter: TypeAdapter[Any] = TypeAdapter(route.answer)

    def respond(request: web.Request, answer: Any) -> web.Response:
        headers = {}
        if isinstance(answer, Page):
            if answer.next_cursor is not None:
                headers["Link"] = f'<{_next_address(request.rel_url, answer.next_cursor)}>; rel="next"'
            answer = list(answer.items)
        body = adapter.dump_json(answer, exclude_unset=True)
        return web.Response(status=route.status, body=body, content_type="application/json", headers=headers)

    return respond


def _next_address(address: URL, cursor: str) -> str:
    return str(address.update_query(cursor=cursor))
