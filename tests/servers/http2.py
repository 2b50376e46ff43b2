"""What push servers of the tests have in common: real HTTP/2 over TLS, spoken well, or badly in ways that happen."""

from __future__ import annotations

import asyncio
import ssl
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar, cast

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hyperframe.frame import GoAwayFrame


@dataclass
class Behaviour:
    """What a server does, whatever it is asked; tests change it while it runs.

    Args:
        delay: seconds before each answer.
        max_streams: requests that a connection may have open at once.
        stalls: requests that get no answer at all.
        goaway_after: requests on a connection, after which it says GOAWAY; it looks at none behind them.
        drop_after: requests on a connection, after which it is cut off.
        mute: connections on which nothing is heard or said any more after their first request, as behind a firewall
            that has forgotten them.
    """

    delay: float = 0.0
    max_streams: int = 1000
    stalls: int = 0
    goaway_after: int | None = None
    drop_after: int | None = None
    mute: int = 0


@dataclass(frozen=True)
class Request:
    """A whole request.

    Args:
        headers: pseudo-header fields among them.
        body: all of it.
        certificate: that the client showed, if it did.
    """

    headers: Mapping[str, str]
    body: bytes
    certificate: bytes | None


@dataclass(frozen=True)
class Response:
    """An answer to it."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Http2Server(ABC):
    """A server; `running` runs it.

    Args:
        behaviour: at first.

    Attributes:
        port: where it listens, once it runs.
        reasons: how often each reason was answered.
        connections: that were opened.
        most_streams: requests that were open at once on a connection.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.port = 0
        self.reasons: Counter[str] = Counter()
        self.connections = 0
        self.most_streams = 0
        self.open_connections: set[_Connection] = set()

    @abstractmethod
    def answer(self, request: Request) -> Response:
        """Return the answer to a request."""


S = TypeVar("S", bound=Http2Server)


class _Connection(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, server: Http2Server) -> None:
        self._server = server
        configuration = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self._http = h2.connection.H2Connection(configuration)
        self._requests: dict[int, tuple[dict[str, str], bytearray]] = {}
        self._taken = 0
        self._last_taken = 0
        self._gone = False
        self._flushing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections += 1
        self._server.open_connections.add(self)
        self._certificate = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        self._http.initiate_connection()
        self._http.update_settings(
            {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self._server.behaviour.max_streams}
        )
        self._http.increment_flow_control_window(2**24)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        self._server.open_connections.discard(self)

    def data_received(self, data: bytes) -> None:
        try:
            events = self._http.receive_data(data)
        except h2.exceptions.ProtocolError:
            self._flush()
            self._transport.abort()
            return
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                self._requests[event.stream_id] = ({str(k): str(v) for k, v in event.headers}, bytearray())
                self._server.most_streams = max(self._server.most_streams, len(self._requests))
            elif isinstance(event, h2.events.DataReceived) and event.stream_id in self._requests:
                self._requests[event.stream_id][1].extend(event.data)
                self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self._take(event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self._requests.pop(event.stream_id, None)
        self._flush_soon()

    def _take(self, stream: int) -> None:
        behaviour = self._server.behaviour
        if stream not in self._requests or self._gone:
            return
        if behaviour.goaway_after is not None and self._taken >= behaviour.goaway_after:
            return  # it is behind the last one that was taken
        if behaviour.mute:
            behaviour.mute -= 1
            self._transport.pause_reading()
            return
        self._taken += 1
        self._last_taken = stream
        if behaviour.drop_after is not None and self._taken >= behaviour.drop_after:
            self._gone = True
            self._transport.abort()
            return
        if behaviour.stalls:
            behaviour.stalls -= 1
            return
        if behaviour.delay:
            asyncio.get_running_loop().call_later(behaviour.delay, self._answer, stream)
        else:
            self._answer(stream)
        if behaviour.goaway_after is not None and self._taken == behaviour.goaway_after:
            self.go_away()

    def go_away(self) -> None:
        """Say that nothing behind the last request is taken."""
        # By hand: after its own GOAWAY h2 would not let us answer what was taken before.
        self._flush()
        self._transport.write(GoAwayFrame(last_stream_id=self._last_taken).serialize())

    def cut(self) -> None:
        """End the connection without a word."""
        self._transport.abort()

    def _answer(self, stream: int) -> None:
        found = self._requests.pop(stream, None)
        if found is None or self._gone:
            return
        headers, body = found
        response = self._server.answer(Request(headers, bytes(body), self._certificate))
        fields = [(":status", str(response.status)), *response.headers.items()]
        try:
            self._http.send_headers(stream, fields, end_stream=not response.body)
            if response.body:
                self._http.send_data(stream, response.body, end_stream=True)
        except h2.exceptions.ProtocolError:
            return  # the client gave the stream up, or the connection says GOAWAY
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        data = self._http.data_to_send()
        if data and not self._gone:
            self._transport.write(data)


@asynccontextmanager
async def running(server: S, context: ssl.SSLContext) -> AsyncIterator[S]:
    """Run the server on a free port of the loopback interface within the block.

    Args:
        server: its port is set.
        context: with the server's certificate, and the authorities of clients' ones.
    """
    context.set_alpn_protocols(["h2"])
    listening = await asyncio.get_running_loop().create_server(lambda: _Connection(server), "127.0.0.1", 0, ssl=context)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for connection in list(server.open_connections):
            connection.cut()
        await listening.wait_closed()
