"""Telling an open page that what it shows has changed (server-sent events; HTML Living Standard, section 9.2).

While a push runs or patches are built, the page of a model follows, and Monitor while devices report. What is sent is
only that something has changed: the page then asks for itself anew, and so nothing is rendered in two ways.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from aiohttp import web
from aiohttp.typedefs import Handler
from sqlalchemy import func, select

from control_plane.api.admission import admit
from control_plane.api.call import Call
from control_plane.api.errors import error_response, status_of
from control_plane.api.route import Access
from control_plane.api.versions import find_model
from control_plane.dashboard.cookie import by_session
from control_plane.errors import ControlPlaneError, Unavailable
from control_plane.tables import Deployment, ModelVersion, PatchJob, PushJob

# Returns what is different whenever what a page shows is, or None while that cannot be told.
Look: TypeAlias = Callable[[Call], Awaitable[str | None]]

# Longer than a look takes, shorter than somebody waits.
LOOK_SECONDS: Final = 2.0
# Proxies end a connection on which nothing comes for a minute.
QUIET_SECONDS: Final = 20.0
# The session and the role are looked at anew when the browser comes back.
LONGEST_SECONDS: Final = 600.0
# Each takes a connection, and looks at the database or at ClickHouse now and then.
MAX_STREAMS: Final = 200


class Live:
    """The streams that are open."""

    def __init__(self) -> None:
        self._open: set[asyncio.Task[None]] = set()

    def telling(self, look: Look) -> Handler:
        """Return the handler of a stream that says whenever what is looked at has changed."""

        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._stream(request, look)

        return handle

    async def _stream(self, request: web.Request, look: Look) -> web.StreamResponse:
        try:
            call = await admit(Access.VIEWER, request, by_session)
            seen = await look(call)
            if len(self._open) >= MAX_STREAMS:
                raise Unavailable("Too many pages are followed at this moment.", "too_many_streams")
        except ControlPlaneError as error:
            return error_response(status_of(error), error.sentence, error.code)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        response.headers["X-Accel-Buffering"] = "no"  # nginx would keep events back
        await response.prepare(request)
        following = asyncio.ensure_future(_follow(call, response, look, seen))
        self._open.add(following)
        try:
            await following
        except (asyncio.CancelledError, ConnectionResetError):
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
        finally:
            self._open.discard(following)
        return response

    async def close(self, _app: web.Application) -> None:
        """End all streams: whoever shuts down does not wait for them."""
        for following in self._open:
            following.cancel()


async def _follow(call: Call, response: web.StreamResponse, look: Look, seen: str | None) -> None:
    loop = asyncio.get_running_loop()
    ends, quiet = loop.time() + LONGEST_SECONDS, loop.time()
    await response.write(b"retry: 5000\n\n")
    while loop.time() < ends:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            now = await look(call)
        except ControlPlaneError:
            return  # the model is gone, or the database: the browser comes back, and hears what
        if now is not None and now != seen:
            seen, quiet = now, loop.time()
            await response.write(b"event: change\ndata: \n\n")
        elif loop.time() - quiet >= QUIET_SECONDS:
            quiet = loop.time()
            await response.write(b":\n\n")


async def look_at_model(call: Call) -> str:
    """Return what is different whenever a model's versions, deployments, pushes or patches are."""
    async with call.database.read() as session:
        _, model = await find_model(session, call)
        parts = [
            select(func.count(), func.max(ModelVersion.updated_at)).where(ModelVersion.model_id == model.id),
            select(func.count(), func.max(Deployment.created_at)).where(Deployment.model_id == model.id),
            select(PushJob.id, PushJob.state, PushJob.targeted, PushJob.accepted, PushJob.reason)
            .where(PushJob.model_id == model.id)
            .order_by(PushJob.created_at.desc())
            .limit(20),
            select(PatchJob.state, func.count())
            .join(ModelVersion, ModelVersion.artifact_sha256 == PatchJob.target_sha256)
            .where(ModelVersion.model_id == model.id)
            .group_by(PatchJob.state)
            .order_by(PatchJob.state),
        ]
        rows = [(await session.execute(part)).all() for part in parts]
    return hashlib.sha256(repr(rows).encode()).hexdigest()
