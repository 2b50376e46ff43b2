"""The device API as a table of routes, and what wraps each of them: errors become answers, answers are counted."""

from __future__ import annotations

import time

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from edge import metrics
from edge.check import Checks
from edge.connections import note_head
from edge.download import Downloads
from edge.errors import EdgeError, render_error
from edge.intake import Intake
from edge.refusals import Refusals
from edge.turnstile import Turnstile


def device_app(checks: Checks, downloads: Downloads, intake: Intake, refusals: Refusals) -> web.Application:
    """Return the application that devices talk to. ``docs/protocol.md`` says what each route promises."""
    environment = "/v2/environments/{key}"
    app = web.Application(middlewares=[_counting(Turnstile()), telling_errors(refusals)])
    app.add_routes(
        [
            web.get(f"{environment}/manifest", checks.manifest, name="manifest"),
            web.get(f"{environment}/root/{{number}}.json", checks.root, name="root"),
            web.get(f"{environment}/tuf/metadata/{{file}}", checks.tuf_metadata, name="tuf_metadata"),
            web.get(f"{environment}/tuf/targets/{{model:[^/]+}}/{{file}}", downloads.target, name="tuf_target"),
            web.get(
                f"{environment}/models/{{model:[^/]+}}/versions/{{version}}/artifact", downloads.version, name="version"
            ),
            web.get("/v2/artifacts/{sha256}", downloads.artifact, name="artifact"),
            web.put(f"{environment}/devices/{{device_id}}", intake.register, name="device"),
            web.post(f"{environment}/events", intake.events, name="events"),
        ]
    )
    return app


def telling_errors(refusals: Refusals) -> Middleware:
    """Return what turns our errors into answers."""

    @web.middleware
    async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except EdgeError as error:
            refusals.request(request, error.code)
            return render_error(error)

    return errors


def _counting(turnstile: Turnstile) -> Middleware:
    """Return what counts every answer by route and status, and lets requests through in turns."""

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        note_head(request)
        route = request.match_info.route.name or "unknown"
        started = time.perf_counter()
        status = "500"  # unless something better is known at the end
        try:
            await turnstile.enter()
            response = await handler(request)
            status = str(response.status)
            return response
        except web.HTTPException as error:
            status = str(error.status)
            raise
        except ConnectionError:
            status = "disconnected"
            raise
        finally:
            metrics.REQUESTS.labels(route, status).inc()
            metrics.REQUEST_SECONDS.labels(route).observe(time.perf_counter() - started)

    return count
