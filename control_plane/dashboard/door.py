"""The door through which forms and scripts of the dashboard call the management API.

`POST /do/delete/v2/organizations/…` calls the route `DELETE /v2/organizations/…`, and so for every route that changes
something: a form can do what the API can, by the same handler, after the same check of the caller's role. What is the
door's own: who calls is known by the session, the form must be one of ours, what deletes a thing that has a name wants
the name typed, and the answer is the next page with a sentence on it, and with a button that takes back what was done,
where that can be (`control_plane.dashboard.undoing`). A script that sends JSON gets the API's answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from aiohttp import web
from pydantic import BaseModel

from control_plane import web_sessions
from control_plane.api.admission import admit
from control_plane.api.call import Call
from control_plane.api.route import Access, Route, for_router
from control_plane.api.serve import NoQuery, json_of, read_body, read_query, run
from control_plane.dashboard import undoing
from control_plane.dashboard.addresses import local
from control_plane.dashboard.cookie import FORM_TOKEN_FIELD, FORM_TOKEN_HEADER, by_session, require_own_form
from control_plane.dashboard.form_body import body_of, read_form, text_of
from control_plane.dashboard.outcomes import CONFIRMED, SHOWN_ONCE, sentence_of
from control_plane.dashboard.page import SIGN_IN, show_error
from control_plane.dashboard.render import render
from control_plane.errors import ControlPlaneError, Invalid, Unauthorized

PREFIX: Final = "/do"
# Of what somebody typed, as much as is put back into a form that was refused.
MAX_KEPT: Final = 1000
_NEVER_KEPT: Final = frozenset({"password", "current_password", "content", FORM_TOKEN_FIELD})
# Holds the id of what takes the last form back (`control_plane.dashboard.undoing`).
UNDO_FIELD: Final = "undo"


def add_door(app: web.Application, routes: Sequence[Route]) -> None:
    """Add the door to every route of a table that changes something and needs a caller."""
    for route in routes:
        if route.method not in ("GET", "HEAD") and route.access is not Access.PUBLIC:
            app.router.add_post(for_router(f"{PREFIX}/{route.method.lower()}{route.path}"), _door_to(route))


def _door_to(route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    to_json = json_of(route)

    async def for_script(request: web.Request) -> web.StreamResponse:
        require_own_form(request, request.headers.get(FORM_TOKEN_HEADER))
        call = await admit(route.access, request, by_session)
        query = read_query(request, route.query or NoQuery)
        body = None if route.body is None else await read_body(request, route.body)
        answer = await run(route, call, query, body)
        return answer if isinstance(answer, web.StreamResponse) else to_json(request, answer)

    async def for_form(request: web.Request) -> web.StreamResponse:
        form = await read_form(request)
        require_own_form(request, text_of(form, FORM_TOKEN_FIELD))
        try:
            call = await admit(route.access, request, by_session)
        except Unauthorized:
            raise web.HTTPSeeOther(SIGN_IN) from None
        back = local(text_of(form, "back"))
        try:
            if (route.method, route.path) in CONFIRMED:
                _require_name(CONFIRMED[route.method, route.path], request, form)
            undo_id = text_of(form, UNDO_FIELD)
            if undo_id is not None:
                taken = await undoing.take(route, call, undo_id)
                await run(route, call, NoQuery(), taken.body)
                await _leave(call, {"done": taken.says})
                raise web.HTTPSeeOther(_next(form, back, None))
            query = body_of(form, route.query or NoQuery)
            body = None if route.body is None else body_of(form, route.body)
            known = await undoing.look(route, call)
            answer = await run(route, call, query, body)
        except ControlPlaneError as error:
            await _leave(call, _refusal(form, error))
            raise web.HTTPSeeOther(back) from None
        if (route.method, route.path) in SHOWN_ONCE:
            shown = SHOWN_ONCE[route.method, route.path]
            once = {"secret": getattr(answer, shown), "answer": answer, "kind": shown, "back": back}
            return await render(request, "once.html", once, call)
        names = {**request.match_info, **({} if body is None else body.model_dump())}
        undo = await undoing.offer(route, call, known, body, answer, _before(form, back))
        notice = {"done": sentence_of(route, answer, names), "undo": None if undo is None else undoing.button(undo)}
        await _leave(call, notice, undo)
        raise web.HTTPSeeOther(_next(form, back, body))

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.content_type == "application/json":
            return await for_script(request)
        try:
            return await for_form(request)
        except ControlPlaneError as error:  # there is no page to go back to: it is of another site, or too old
            return await show_error(request, error)

    return handle


def _require_name(part: str, request: web.Request, form: Mapping[str, Any]) -> None:
    """Refuse to delete a thing if a name was not typed, which is a part of the path."""
    name = request.match_info[part]
    if text_of(form, "confirm") != name:
        raise Invalid(f"confirm: Type the name, {name}, to confirm it.", "not_confirmed", "confirm")


def _refusal(form: Mapping[str, Any], error: ControlPlaneError) -> dict[str, Any]:
    """Return what the page says about a form that was refused, with what was typed, so that it can be mended."""
    values = {name: value for name, value in form.items() if name not in _NEVER_KEPT and isinstance(value, str)}
    return {
        "refused": error.beside_field,
        "form": text_of(form, "form"),
        "field": error.field,
        "values": {name[:100]: value[:MAX_KEPT] for name, value in list(values.items())[:20]},
    }


async def _leave(call: Call, notice: Mapping[str, Any], undo: Mapping[str, Any] | None = None) -> None:
    """Leave what the next page says; a form that has done something also puts away what took back the one before."""
    if call.caller.session_id is not None:
        async with call.database.write() as session:
            await web_sessions.leave_notice(session, call.caller.session_id, notice)
            if "done" in notice:
                await web_sessions.leave_undo(session, call.caller.session_id, undo)


def _before(form: Mapping[str, Any], back: str) -> str:
    """Return the page to show once a form is taken back: names in it are those from before."""
    following = text_of(form, "next")
    return local(following if following and "{name}" not in following else back, back)


def _next(form: Mapping[str, Any], back: str, body: BaseModel | None) -> str:
    """Return where to go on; `{name}` in it is the name that the form gave."""
    name = quote(str(getattr(body, "name", "") or ""), safe="")
    return local((text_of(form, "next") or back).replace("{name}", name), back)
