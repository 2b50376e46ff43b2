"""One log line and two metrics for every request.

The line holds the route's pattern and no address: a path names customers' things, and the query of an upload address is
a secret.
"""

from __future__ import annotations

import time

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from control_plane.api.request_id import HEADER, give_request_id
from control_plane.metrics import REQUEST_SECONDS, REQUESTS

UNMATCHED = "(none)"

# Prometheus keeps a series for each method: callers may send any word, so those that we do not know count as one.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_log = structlog.get_logger("control_plane.requests")


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count, time and log a request, and give it its id."""
    request_id = give_request_id(request)
    started = time.perf_counter()
    status = 499  # the caller went away before there was an answer
    try:
        response = await handler(request)
        status = response.status
        if not response.prepared:
            response.headers[HEADER] = request_id
        return response
    finally:
        _tell(request, request_id, status, time.perf_counter() - started)


def _tell(request: web.Request, request_id: str, status: int, seconds: float) -> None:
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else UNMATCHED
    method = request.method if request.method in _METHODS else "OTHER"
    REQUESTS.labels(method, route, str(status)).inc()
    REQUEST_SECONDS.labels(route).observe(seconds)
    milliseconds = round(seconds * 1000, 1)
    _log.info("request", id=request_id, method=method, route=route, status=status, milliseconds=milliseconds)
