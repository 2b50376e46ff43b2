"""From the route table to aiohttp: who calls, may they, what do they ask, what is the answer. The same for every route.

The order matters: nothing of a request is looked at before its token is known to be good, and nothing of its body
before its caller is known to have the role. A caller who is no member hears "there is none", whatever they send.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession
from yarl import URL

from control_plane.accounts import Caller, authenticate
from control_plane.api.admission import SERVICES, admit
from control_plane.api.call import Call
from control_plane.api.errors import invalid
from control_plane.api.paging import Page
from control_plane.api.route import Route, for_router
from control_plane.api.schemas import Nothing
from control_plane.errors import Invalid

# A body of at most a megabyte over the slowest line that is of use.
BODY_SECONDS = 30.0


class NoQuery(BaseModel):
    """What may stand behind the question mark of a route that takes nothing there."""

    model_config = ConfigDict(extra="forbid")


def add_routes(app: web.Application, routes: Sequence[Route]) -> None:
    """Add the routes of a table to an aiohttp application that holds `SERVICES`. GET answers HEAD too."""
    for route in routes:
        handler = _handler_of(route)
        app.router.add_route(route.method, for_router(route.path), handler)
        if route.method == "GET":
            app.router.add_route("HEAD", for_router(route.path), handler)


def _handler_of(route: Route) -> Handler:
    to_json = json_of(route)

    async def handle(request: web.Request) -> web.StreamResponse:
        call = await admit(route.access, request, _by_token)
        query = read_query(request, route.query or NoQuery)
        body = None if route.body is None else await read_body(request, route.body)
        answer = await run(route, call, query, body)
        return answer if isinstance(answer, web.StreamResponse) else to_json(request, answer)

    return handle


async def _by_token(request: web.Request, session: AsyncSession, now: datetime) -> Caller:
    """Return who shows a token.

    Raises:
        Unauthorized: there is none, or it is not valid.
    """
    caller = await authenticate(session, _token_in(request), now)
    if caller.token_id is not None:
        request.app[SERVICES].last_uses.note(caller.token_id, now)
    return caller


def _token_in(request: web.Request) -> str | None:
    """Return the token that a request shows: in `X-API-TOKEN`, as the published client does, or as a bearer token."""
    token = request.headers.get("X-API-TOKEN")
    if token is not None:
        return token
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else None


async def run(route: Route, call: Call, query: BaseModel, body: BaseModel | None) -> Any:
    """Have a route's handler do its work, with what its line says that it takes."""
    asked: dict[str, Any] = {} if route.query is None else {"query": query}
    if body is not None and not isinstance(body, Nothing):
        asked["body"] = body
    return await route.handler(call, **asked)


def read_query(request: web.Request, model: type[BaseModel]) -> BaseModel:
    """Return what stands behind the question mark as its model.

    Raises:
        Invalid: a field is unknown, wrong, or given twice.
    """
    query = request.query
    for field in set(query):
        if len(query.getall(field)) > 1:
            raise Invalid(f"{field[:60]!a}: given more than once.")
    try:
        return model.model_validate(dict(query))
    except ValidationError as error:
        raise invalid(error, "query") from None


async def read_body(request: web.Request, model: type[BaseModel]) -> BaseModel:
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


def json_of(route: Route) -> Any:
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
