"""The door of the edge: one protocol object per connection, as many as the bound allows, and uniform errors.

A connection is served by aiohttp's own request handler; what is ours is who gets one. This is the place where another
protocol may stand in front and hand connections over: it needs nothing but `Door.__call__` for those it does not serve
itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import structlog
from aiohttp import web

from edge import metrics
from edge.errors import Unavailable, error_body, render
from edge.refusals import Refusals

# Fields in a request's head, and bytes in one of them: real clients behind two proxies send some 20 fields, and an
# If-None-Match of many tags is the longest. Half a MiB a connection at the most, while it is being parsed.
MAX_HEADERS = 64
MAX_FIELD_BYTES = 8190
# For the rest of a body that we refused: long enough for the client to see the answer.
LINGERING_SECONDS = 5.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """``open``: connections at once; ``idle`` and ``stall`` in seconds, see the settings of these names."""

    open: int
    idle: float
    stall: float


class Door:
    """Makes the protocol of each new connection.

    Args:
        server: aiohttp's registry of connections, which ends them in order at shutdown.
        limits: of connections.
        refusals: is told of connections over the bound, and of what is no HTTP.
    """

    def __init__(self, server: web.Server, limits: ConnectionLimits, refusals: Refusals) -> None:
        self._server = server
        self._refusals = refusals
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._open = 0

    def __call__(self) -> asyncio.Protocol:
        """Return a request handler, or a refusal when there are too many connections."""
        if self._open >= self._limits.open:
            metrics.CONNECTIONS_REFUSED.inc()
            return _Refusal(self._refusals)
        return _Connection(self._server, self._loop, self._limits, self._refusals, self._count)

    def _count(self, change: int) -> None:
        self._open += change
        metrics.CONNECTIONS.set(self._open)


class _Connection(web.RequestHandler):
    """aiohttp's request handler with our limits, our error body, and a bound on how long a client may not read."""

    __slots__ = ("_count", "_refusals", "_stall")

    def __init__(
        self,
        server: web.Server,
        loop: asyncio.AbstractEventLoop,
        limits: ConnectionLimits,
        refusals: Refusals,
        count: Callable[[int], None],
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=limits.idle,
            access_log=None,  # type: ignore[arg-type] # None is how aiohttp is told to log no requests
            max_headers=MAX_HEADERS,
            max_line_size=MAX_FIELD_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            lingering_time=LINGERING_SECONDS,
            auto_decompress=False,  # unpacking is bounded in `edge.body`
        )
        self._stall = limits.stall
        self._refusals = refusals
        self._count = count

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._count(+1)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._count(-1)
        super().connection_lost(exc)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send what is left of an answer; a client that does not take it in time is cut off."""
        transport = self.transport
        answer = _in_our_words(resp) if isinstance(resp, web.HTTPException) else resp
        try:
            async with asyncio.timeout(self._stall):
                return await super().finish_response(request, answer, start_time)
        except TimeoutError:
            metrics.STALLED.inc()
            if transport is not None:
                transport.abort()
            return answer, True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes the request, which may hold a key; ours does not
    ) -> web.StreamResponse:
        """Answer what is no HTTP, and what a handler did not expect, with our error body, and close."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun, so no other can be sent")
        if status < 500:
            metrics.MALFORMED.inc()
            self._refusals.connection(self.transport, "malformed")
            response = render(status, "The request is malformed.", "malformed")
        else:
            metrics.FAILURES.inc()
            log.error("request_failed", exc_info=exc)
            response = render(500, "Something went wrong here; it has been recorded.", "internal")
        response.force_close()
        return response


# What aiohttp itself answers, before any handler of ours is asked.
_WORDS = {
    404: ("There is no such route.", "unknown_route"),
    405: ("The route does not have this method.", "method_not_allowed"),
    417: ("The only expectation that can be met is 100-continue.", "expectation_failed"),
}


def _in_our_words(error: web.HTTPException) -> web.Response:
    sentence, code = _WORDS.get(error.status, ("The request cannot be answered.", "refused"))
    allowed = error.headers.get("Allow")
    return render(error.status, sentence, code, {"Allow": allowed} if allowed else None)


class _Refusal(asyncio.Protocol):
    """Says 503 and closes: the connection is one too many."""

    def __init__(self, refusals: Refusals) -> None:
        self._refusals = refusals

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._refusals.connection(transport, "too_many_connections")
        writing = cast("asyncio.WriteTransport", transport)  # uvloop's are none by inheritance
        writing.write(REFUSAL)
        writing.close()


def _refusal() -> bytes:
    error = Unavailable("Too many connections; come back shortly.", "busy")
    body = error_body(error.sentence, error.code)
    head = (
        "HTTP/1.1 503 Service Unavailable\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"Retry-After: {error.retry_after}\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body


REFUSAL = _refusal()
