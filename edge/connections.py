"""The door of the edge: one protocol object per connection, as many as the bound allows, and uniform errors.

A connection begins in the lane (`edge.lane`), which answers checks. From the first request on that the lane does not
answer, aiohttp's own request handler serves it. It comes back to the lane with its next check, or after a while of
silence, when every byte that aiohttp was given is known to belong to a request that is answered.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import structlog
from aiohttp import web

from edge import metrics
from edge.errors import Unavailable, error_body, render
from edge.lane import Answering, Desk, Lane
from edge.prepared import Clock
from edge.refusals import Refusals
from edge.request_head import CRLF, END, MAX_HEAD_BYTES, is_request_line

# Fields in a request's head, and bytes in one of them: real clients behind two proxies send some 20 fields, and an
# If-None-Match of many tags is the longest. A head may have half a MiB, for which aiohttp needs twice as much.
MAX_HEADERS = 64
MAX_FIELD_BYTES = 8190
# So much of a head may wait for its end as long as the connection may be idle: what nginx takes of heads at all. With
# more of it a client has until the second sweep, or thousands who never end theirs would hold gigabytes.
MAX_UNFINISHED_BYTES = 32 * 1024
# For the rest of a body that we refused: long enough for the client to see the answer.
LINGERING_SECONDS = 5.0

# A handler that is done keeps its connection for so long: the next request is likely to be of the same kind, and a
# handler takes longer to make than to use.
LINGER_AT_AIOHTTP_SECONDS = 2.0
# At shutdown, for requests that are under way to us: a round trip across the world, rounded up.
FAREWELL_SECONDS = 0.5

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """``open``: connections at once; ``idle`` and ``stall`` in seconds, see the settings of these names."""

    open: int
    idle: float
    stall: float


class Door:
    """Makes the protocol of each new connection, and ends connections that nothing happens on.

    Args:
        server: aiohttp's registry of connections, which ends them in order at shutdown.
        limits: of connections.
        answering: what the lane answers with.
        refusals: is told of connections over the bound, and of what is no HTTP.
    """

    def __init__(
        self,
        server: web.Server,
        limits: ConnectionLimits,
        answering: Answering,
        refusals: Refusals,
    ) -> None:
        self._server = server
        self._refusals = refusals
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._open = 0
        self._empty = asyncio.Event()
        self._no_lanes = asyncio.Event()
        self._desk = Desk(answering, Clock(), self._to_aiohttp, self.count)
        self._timer = self._loop.call_soon(self._tick)
        self.closing = False

    def __call__(self) -> asyncio.Protocol:
        """Return a lane, or a refusal when there are too many connections."""
        if self._open >= self._limits.open:
            metrics.CONNECTIONS_REFUSED.inc()
            return _Refusal(self._refusals)
        return Lane(self._desk)

    def count(self, change: int) -> None:
        """Take note of a connection that came (+1) or went (-1)."""
        self._open += change
        if change > 0:
            metrics.CONNECTIONS_OPENED.inc(change)
        metrics.CONNECTIONS.set(self._open)
        if self.closing:
            self._look_who_is_left()

    def _look_who_is_left(self) -> None:
        if self._open == 0:
            self._empty.set()
        if not self._desk.lanes:
            self._no_lanes.set()

    def is_check(self, data: bytes) -> bool:
        """Say whether what was read begins with a check that the lane may answer."""
        return self._desk.is_check(data[: data.find(CRLF)])

    def size_of_request(self, data: bytes) -> int | None:
        """Return the length of the request that begins ``data``, head and body, if it has but one meaning."""
        end = data.find(END, 0, MAX_HEAD_BYTES) + len(END)
        line = data.find(CRLF)
        if end < len(END) or not is_request_line(data[:line]):
            return None
        head = self._desk.reader.read(data[:end], line)
        return None if head is None else end + (head.body_bytes or 0)

    def _to_aiohttp(self, transport: asyncio.Transport, data: bytes) -> None:
        handler = _Connection(self, self._server, self._loop, self._limits, self._refusals)
        transport.set_protocol(handler)
        handler.connection_made(transport)
        handler.begin(data)
        if self.closing:
            self._look_who_is_left()

    def to_lane(self, transport: asyncio.Transport, *, paused: bool) -> Lane:
        """Give a connection back to the lane, and return it."""
        lane = Lane(self._desk)
        lane.take_back(transport, paused=paused)
        metrics.GIVEN_BACK.inc()
        return lane

    def _tick(self) -> None:
        """Tell the time, and sweep: one timer for all connections, just after each full second."""
        self._desk.clock.tick(time.time(), time.monotonic())
        self._timer = self._loop.call_later(1.001 - time.time() % 1, self._tick)
        now, idle, stall = self._desk.clock.now, self._limits.idle, self._limits.stall
        quiet_since = now - min(idle, stall)
        for lane in tuple(self._desk.lanes):
            if lane.seen < quiet_since:
                lane.sweep(now, idle, stall)
        if self.closing:
            return
        for handler in self._server.connections:
            if isinstance(handler, _Connection):
                handler.sweep(now - LINGER_AT_AIOHTTP_SECONDS)

    async def close(self, seconds: float) -> None:
        """End connections in order, for those of aiohttp as far as `web.Server.shutdown` does not do it.

        First every answer tells its client that it is the last of its connection, so nobody's request crosses our
        closing of it. Those who do not ask within a moment are idle.

        Args:
            seconds: for clients to take the answers that are written.
        """
        self.closing = True
        self._look_who_is_left()
        self._desk.leave_all_to_aiohttp()  # which can say it
        with suppress(TimeoutError):
            async with asyncio.timeout(min(seconds, FAREWELL_SECONDS)):
                await self._empty.wait()
        for lane in tuple(self._desk.lanes):
            lane.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._no_lanes.wait()
        self._timer.cancel()
        for lane in tuple(self._desk.lanes):
            lane.abort()


class _Connection(web.RequestHandler):
    """aiohttp's request handler with our limits, our error body, and a bound on how long a client may not read.

    It knows when it can give its connection back: `_begun` is a head that is not whole yet, `_due` how many bytes are
    still to come of the request that aiohttp was given. That is known, and not None, while every request so far was of
    the strict grammar and none came before its turn.

    Of every request it knows when its head has ended, since its handler begins then: `_unfinished` is how many bytes
    have come while none was at work, and `_overdue` that these were too many at the last sweep.
    """

    __slots__ = (
        "_answering",
        "_begun",
        "_door",
        "_due",
        "_handling",
        "_overdue",
        "_refusals",
        "_rested",
        "_stall",
        "_unfinished",
    )

    def __init__(
        self,
        door: Door,
        server: web.Server,
        loop: asyncio.AbstractEventLoop,
        limits: ConnectionLimits,
        refusals: Refusals,
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
        self._door = door
        self._due: int | None = 0
        self._answering = False
        self._begun = b""
        self._rested = 0.0
        self._handling = False
        self._unfinished = 0
        self._overdue = False

    def connection_lost(self, exc: BaseException | None) -> None:
        self._door.count(-1)
        if exc is not None:
            metrics.CONNECTIONS_RESET.inc()
        super().connection_lost(exc)

    def begin(self, data: bytes) -> None:
        """Take what the lane has read and does not answer."""
        self._follow(data)
        self._unfinished = len(data)
        super().data_received(data)

    def data_received(self, data: bytes) -> None:
        # aiohttp calls this itself, without bytes, when it can parse on.
        if data and self._due is not None:
            if self._is_at_rest() and self._door.is_check(data):
                self._give_back().data_received(data)
                return
            self._follow(data)
        if not self._handling:
            self._unfinished += len(data)
        super().data_received(data)

    def head_ended(self) -> None:
        """Take note that a request is handled, so that its head is whole."""
        self._handling = True
        self._unfinished, self._overdue = 0, False

    def _is_at_rest(self) -> bool:
        return self._due == 0 and not self._answering and not self._begun

    def _follow(self, data: bytes) -> None:
        """Keep account of the bytes that belong to the request which is being answered."""
        due = self._due
        if due is not None and not self._answering:
            self._begun += data
            if len(self._begun) < MAX_HEAD_BYTES and END not in self._begun:
                return
            self._answering = True
            due = self._door.size_of_request(self._begun)
            data, self._begun = self._begun, b""
        self._due = None if due is None or due < len(data) else due - len(data)

    def sweep(self, since: float) -> None:
        """Give the connection back when it has been at rest since that moment: a lane keeps a tenth of the memory.

        Or close it, when it holds much of a head, and did so at the last sweep.
        """
        if self._is_at_rest() and self._rested < since and self.transport is not None:
            self._give_back()
        elif self._overdue and self.transport is not None:
            metrics.UNFINISHED.inc()
            self._refusals.connection(self.transport, "head_unfinished")
            self.force_close()
        else:
            self._overdue = self._unfinished > MAX_UNFINISHED_BYTES

    def _give_back(self) -> Lane:
        """End this handler as if the connection were lost, without closing it."""
        transport, paused = self.transport, self.writing_paused
        assert transport is not None
        self.transport = None
        super().connection_lost(None)
        return self._door.to_lane(transport, paused=paused)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send what is left of an answer; a client that does not take it in time is cut off."""
        transport = self.transport
        answer = _in_our_words(resp) if isinstance(resp, web.HTTPException) else resp
        try:
            if self._door.closing:
                answer.force_close()
            async with asyncio.timeout(self._stall):
                sent, lost = await super().finish_response(request, answer, start_time)
            self._answering = lost or not sent.keep_alive or not request.content.is_eof()
            # What comes of a body that nobody wants, aiohttp drops, and only for a while.
            self._handling = not request.content.is_eof()
            self._rested = time.monotonic()
            return sent, lost
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
            # A `ConnectionError` is a client that went before there was an answer.
            if not isinstance(exc, ConnectionError):
                metrics.FAILURES.inc()
                log.error("request_failed", exc_info=exc)
            response = render(500, "Something went wrong here; it has been recorded.", "internal")
        response.force_close()
        return response


def note_head(request: web.Request) -> None:
    """Tell a request's connection that its head is whole; for the first of the handlers."""
    if isinstance(request.protocol, _Connection):
        request.protocol.head_ended()


# What aiohttp itself answers, before any handler of ours is asked.
_WORDS = {
    404: ("There is no such route.", "unknown_route"),
    405: ("The route does not have this method.", "method_not_allowed"),
    417: ("The only expectation that can be met is 100-continue.", "expectation_failed"),
}


def _in_our_words(error: web.HTTPException) -> web.Response:
    # The frames in it refer to the error, a cycle of forty objects. A flood of them kept the garbage collector, and so
    # everybody, busy for 20 ms at a time.
    error.__traceback__ = None
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
