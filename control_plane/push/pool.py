"""Several HTTP/2 connections to one push service, opened as they are needed and replaced when they end.

More than one, because what `h2` does for a request takes the longer the more requests are open on its connection, and
because a server may end any of them at any time.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable, Sequence
from operator import attrgetter

from control_plane.push.http2 import Answer, CannotConnect, Header, Http2Connection, NotProcessed, connect

# With a hundred open requests on each, 800 are under way; at 100 ms an answer that is 8,000 a second.
MAX_CONNECTIONS = 8
STREAMS_PER_CONNECTION = 100
# A server that ends each connection at once is asked again ever more slowly.
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 15.0
# A request that no server has looked at, so often, is told to the caller.
ATTEMPTS = 4

_OPEN = attrgetter("open_requests")

Connect = Callable[[Callable[[], None]], Awaitable[Http2Connection]]


class Http2Pool:
    """Sends requests over a few connections.

    Args:
        host, port: of the service.
        context: of TLS, with a client's certificate when there is one.
        most: connections at the most.
        streams: requests at once on each, when the server allows so many.
        rng: for the pauses.
    """

    def __init__(
        self,
        host: str,
        port: int,
        context: ssl.SSLContext,
        *,
        most: int = MAX_CONNECTIONS,
        streams: int = STREAMS_PER_CONNECTION,
        rng: random.Random | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._context = context
        self._most = most
        self._streams = streams
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._connections: list[Http2Connection] = []
        self._changed = asyncio.Event()
        self._opening: asyncio.Task[None] | None = None
        self._failures = 0
        self._failure: CannotConnect | None = None

    @property
    def capacity(self) -> int:
        """Requests that may be under way at once when all connections are open."""
        return self._most * self._streams

    async def request(self, headers: Sequence[Header], body: bytes, seconds: float) -> Answer:
        """Send a request over the connection with the fewest open ones, and return the answer.

        Args:
            headers: pseudo-header fields first.
            body: small.
            seconds: for the answer, once the request was sent.

        Raises:
            CannotConnect: there is no connection, and none could be opened.
            NotProcessed: servers ended connections again and again before they looked at it.
            Lost, TooLate: nobody knows whether it was processed.
        """
        for attempt in range(ATTEMPTS):
            connection = await self._connection()
            try:
                return await connection.request(headers, body, seconds)
            except NotProcessed:
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Let what is under way be answered, and close all connections."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        await asyncio.gather(*(connection.close() for connection in self._connections))

    async def _connection(self) -> Http2Connection:
        """Return a connection with room; wait for one, and open more meanwhile."""
        while True:
            self._forget_ended()
            best = min(self._connections, key=_OPEN, default=None)
            if best is not None and not self._room(best):  # its server may take fewer than those of the others
                best = max(self._connections, key=self._room)
            if best is not None and self._room(best) > 0:
                return best
            if len(self._connections) < self._most and self._opening is None:
                self._opening = asyncio.create_task(self._open())
            self._changed.clear()
            await self._changed.wait()
            if self._failure is not None and not self._connections:
                raise self._failure

    def _forget_ended(self) -> None:
        for one in self._connections:
            if one.silent:
                one.abort()
        self._connections = [one for one in self._connections if one.usable]

    def _room(self, connection: Http2Connection) -> int:
        return max(0, min(connection.room, self._streams - connection.open_requests))

    async def _open(self) -> None:
        try:
            if self._failures:
                longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** (self._failures - 1))
                await asyncio.sleep(longest / 2 + self._rng.random() * longest / 2)
            connection = await connect(self._host, self._port, self._context, self._changed.set)
        except CannotConnect as error:
            self._failures += 1
            self._failure = error
        else:
            self._failures, self._failure = 0, None
            self._connections.append(connection)
        finally:
            self._opening = None
            self._changed.set()
