"""What listens on the metrics port: health, readiness, and Prometheus metrics. Not for the public."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from control_plane.health import Health
from control_plane.silent_connections import SilentConnections


def create_metrics_app(
    health: Health, silent: SilentConnections, measure: Callable[[], None] | None = None
) -> web.Application:
    """Return the application for the metrics port.

    `/healthz` says that the process runs its loop, `/readyz` whether it can answer the API and which parts answer,
    `/metrics` has the figures.

    Args:
        measure: sets those that are looked up when they are asked for; called in a thread.
    """

    async def healthz(_request: web.Request) -> web.Response:
        return web.json_response({"healthy": True})

    async def readyz(_request: web.Request) -> web.Response:
        parts = await health.check()
        return web.json_response({"ready": health.is_ready, "parts": parts}, status=200 if health.is_ready else 503)

    async def metrics(_request: web.Request) -> web.Response:
        if measure is not None:
            await asyncio.to_thread(measure)
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application(middlewares=[silent.middleware()])
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app
