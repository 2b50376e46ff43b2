"""Health, readiness and metrics, on a port of their own: for operators, never for devices."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from edge.manifest_cache import ManifestCache


class Readiness:
    """Whether requests should be sent here.

    Redis, the object store and ClickHouse have no say in it: without them the edge serves what it has, and taking it
    out of rotation would turn their outage into ours.

    Args:
        manifests: an edge that knows no environments yet is not ready.
    """

    def __init__(self, manifests: ManifestCache) -> None:
        self._manifests = manifests
        self._draining = False

    def drain(self) -> None:
        """Tell that this worker is about to end."""
        self._draining = True

    def state(self) -> str:
        """Return ``ready``, ``starting`` or ``draining``."""
        if self._draining:
            return "draining"
        return "ready" if self._manifests.can_serve else "starting"


def operations_app(readiness: Readiness, manifests: ManifestCache) -> web.Application:
    """Return the application of the operators' port."""

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(_: web.Request) -> web.Response:
        state = readiness.state()
        told = {"status": state, "environments": len(manifests)}
        return web.json_response(told, status=200 if state == "ready" else 503)

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", health), web.get("/readyz", ready), web.get("/metrics", show_metrics)])
    return app
