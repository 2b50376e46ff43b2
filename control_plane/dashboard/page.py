"""What one page of the dashboard is, and how it is served: a line of the table in `control_plane.dashboard.table`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import quote

from aiohttp import web
from aiohttp.typedefs import Handler

from control_plane import web_sessions
from control_plane.api.admission import admit
from control_plane.api.call import Call
from control_plane.api.errors import status_of
from control_plane.api.route import Access, for_router
from control_plane.dashboard.cookie import by_session, signed_in
from control_plane.dashboard.render import POLICY, render
from control_plane.errors import ControlPlaneError, Unauthorized

SIGN_IN = "/sign-in"

PageHandler: TypeAlias = Callable[[Call], Awaitable[Mapping[str, Any]]]
FileHandler: TypeAlias = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class DashboardPage:
    """A line of the table of pages.

    Args:
        path: with parameters in braces, which are called as in the management API.
        handler: returns what the page shows.
        access: who may look at it.
        template: that shows it.
        policy: what the page may load and run; render.POLICY but where it says why not.
    """

    path: str
    handler: PageHandler
    access: Access
    template: str
    policy: str = POLICY


@dataclass(frozen=True, slots=True)
class DashboardFile:
    """A line of the table of what pages offer to be saved.

    Args:
        path: as a page's.
        handler: returns the file.
        access: who may have it.
    """

    path: str
    handler: FileHandler
    access: Access


def add_pages(app: web.Application, pages: Sequence[DashboardPage], files: Sequence[DashboardFile]) -> None:
    """Add pages to the application, and the files that they offer."""
    for page in pages:
        app.router.add_get(for_router(page.path), _handler_of(page.access, _shown(page)))
    for file in files:
        app.router.add_get(for_router(file.path), _handler_of(file.access, file.handler))


def _shown(page: DashboardPage) -> FileHandler:
    async def show(call: Call) -> web.StreamResponse:
        return await render(call.request, page.template, await page.handler(call), call, policy=page.policy)

    return show


def _handler_of(access: Access, answer: FileHandler) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        call = None
        try:
            call = await admit(access, request, by_session)
            await _note_use(call)
            return await answer(call)
        except Unauthorized:
            raise web.HTTPSeeOther(f"{SIGN_IN}?next={quote(request.path_qs, safe='')}") from None
        except ControlPlaneError as error:
            return await show_error(request, error, call)

    return handle


async def show_error(request: web.Request, error: ControlPlaneError, call: Call | None = None) -> web.Response:
    """Return the page that tells of an error."""
    status = status_of(error)
    return await render(request, "error.html", {"sentence": error.sentence, "status": status}, call, status)


async def _note_use(call: Call) -> None:
    found = signed_in(call.request)
    if found is not None and call.now - found.seen_at > web_sessions.SEEN_EVERY and call.caller.session_id is not None:
        async with call.database.write() as session:
            await web_sessions.note_use(session, call.caller.session_id, call.now)
