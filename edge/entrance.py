"""How a connection comes in: accepted, introduced by a proxy, encrypted; then it is a protocol's.

Plain connections that nobody introduces are accepted by the event loop, which does it fastest. With TLS or the PROXY
protocol they are accepted here, because both have to happen before a protocol gets its first byte, each within a time
and under a bound, and because a new certificate must serve the next connection.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import structlog

from edge import metrics
from edge.certificates import Certificates
from edge.clients import TOLD, Clients, parse_peer, plain
from edge.proxy_protocol import BadHeader, HeaderReader
from edge.refusals import Refusals

# Connections that wait to be accepted while the loop is busy with something for a moment.
BACKLOG = 1024
# Connections accepted before other work gets its turn.
ACCEPTS_A_TURN = 64
# When the process has no descriptors left, accepting again at once would only fail again.
PAUSE_SECONDS = 0.5
# For the peer's part of the end of an encrypted connection; nothing is lost when it does not come.
GOODBYE_SECONDS = 5.0

_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Introduction:
    """What happens before a connection's first request.

    Args:
        clients: knows the trusted proxies.
        proxy_protocol: connections from trusted proxies begin with a PROXY header.
        certificates: for TLS; None for plain connections.
        seconds: time for the header, and again for the handshake.
        at_once: connections that may be busy with that; more are closed.
        refusals: is told of connections that were closed for it.
    """

    clients: Clients
    proxy_protocol: bool
    certificates: Certificates | None
    seconds: float
    at_once: int
    refusals: Refusals

    @property
    def needed(self) -> bool:
        """Whether anything happens at all."""
        return self.proxy_protocol or self.certificates is not None


@asynccontextmanager
async def accepting(
    protocol: Callable[[], asyncio.Protocol], listening: socket.socket, introduction: Introduction
) -> AsyncIterator[None]:
    """Give a protocol to every connection that comes within the block; close the listening socket at its end."""
    if introduction.needed:
        entrance = _Entrance(protocol, listening, introduction)
        entrance.open()
        try:
            yield
        finally:
            await entrance.close()
    else:
        # It listens anew, and without being told with room for 100.
        server = await asyncio.get_running_loop().create_server(protocol, sock=listening, backlog=BACKLOG)
        try:
            yield
        finally:
            server.close()


class _Entrance:
    def __init__(
        self, protocol: Callable[[], asyncio.Protocol], listening: socket.socket, introduction: Introduction
    ) -> None:
        self._protocol = protocol
        self._listening = listening
        self._introduction = introduction
        self._loop = asyncio.get_running_loop()
        self._busy: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None

    def open(self) -> None:
        self._listening.setblocking(False)
        self._resume()

    async def close(self) -> None:
        """Accept no more, and drop who has not come to a first request: there is nothing to finish for them."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listening)
        self._listening.close()
        for task in self._busy:
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                connection, peer = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._not_accepted(error)
                return
            self._admit(connection, peer)

    def _not_accepted(self, error: OSError) -> None:
        if error.errno in _OUT_OF_RESOURCES and self._pause is None:
            log.error("cannot_accept", reason=error.strerror)
            self._loop.remove_reader(self._listening)
            self._pause = self._loop.call_later(PAUSE_SECONDS, self._resume)
        # Else the client has gone before it was accepted (accept(2), "Error handling").

    def _admit(self, connection: socket.socket, peer: object) -> None:
        if len(self._busy) >= self._introduction.at_once:
            metrics.CONNECTIONS_REFUSED.inc()
            connection.close()
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._introduce(connection, peer))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    async def _introduce(self, connection: socket.socket, peer: object) -> None:
        """Hand the connection over, or close it. The context of this task is the connection's from then on."""
        try:
            if self._introduction.proxy_protocol and self._introduction.clients.trusts(parse_peer(peer)):
                await self._read_header(connection)
        except (BadHeader, OSError) as error:  # of the latter a time-out is one
            metrics.CONNECTIONS_FAILED.labels("proxy_header").inc()
            connection.close()
            self._introduction.refusals.proxy(parse_peer(peer), str(error) or "its PROXY header did not come in time")
            return
        except BaseException:
            connection.close()
            raise
        await self._hand_over(connection)

    async def _read_header(self, connection: socket.socket) -> None:
        reader = HeaderReader()
        async with asyncio.timeout(self._introduction.seconds):
            while not reader.done:
                seen = await self._peek(connection, reader.wanted())
                if not seen:
                    raise BadHeader("it was closed")
                connection.recv(reader.offer(seen))
        TOLD.set(plain(reader.client) if reader.client is not None else None)

    async def _peek(self, connection: socket.socket, count: int) -> bytes:
        """Return up to ``count`` bytes that have arrived, and leave them there."""
        while True:
            with suppress(BlockingIOError, InterruptedError):
                return connection.recv(count, socket.MSG_PEEK)
            readable = self._loop.create_future()
            self._loop.add_reader(connection, _wake, readable)
            try:
                await readable
            finally:
                self._loop.remove_reader(connection)

    async def _hand_over(self, connection: socket.socket) -> None:
        certificates = self._introduction.certificates
        try:
            if certificates is None:
                await self._loop.connect_accepted_socket(self._protocol, connection)
            else:
                await self._loop.connect_accepted_socket(
                    self._protocol,
                    connection,
                    ssl=certificates.context,
                    ssl_handshake_timeout=self._introduction.seconds,
                    ssl_shutdown_timeout=GOODBYE_SECONDS,
                )
        except (ssl.SSLError, OSError):  # of which a time-out is one
            metrics.CONNECTIONS_FAILED.labels("tls").inc()
            connection.close()


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
