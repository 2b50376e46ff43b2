"""One HTTP/2 connection to a push service: many requests at once, each with a time limit and a clear end.

The protocol itself is `h2`'s. What is here is what a sender of pushes must know that a general client hides: whether
a request that was not answered can have been processed. `NotProcessed` says that it cannot (RFC 9113 sections 6.8 and
8.7), so that it is sent again by another connection; `Lost` and `TooLate` say that nobody knows.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from control_plane.push.field_encoder import FieldEncoder

# Answers of push services are a few hundred bytes; more is not one.
MAX_ANSWER_BYTES = 64 * 1024
# Stream numbers end at 2^31. Long before that a connection is replaced, which also spreads senders over servers anew.
MAX_REQUESTS = 200_000
# Until the server has told how many requests it takes at once (RFC 9113 section 6.5.2 recommends no less than 100).
STREAMS_BEFORE_SETTINGS = 100
CONNECT_SECONDS = 15.0
# Between pushes nothing is said. Firewalls forget such a connection after some minutes and tell neither end, so that
# all that is sent then would be lost without an answer.
MAX_SILENT_SECONDS = 60.0
# RFC 9113 section 6.7: a ping is answered before anything else.
PING_SECONDS = 5.0
# RFC 9113 sections 4.1, 4.2 and 6.8.
_FRAME_HEAD_BYTES = 9
_MAX_FRAME_BYTES = 16_384
_GOAWAY = 0x7

Header = tuple[str, str]


class Http2Error(Exception):
    """A request has no answer."""


class NotProcessed(Http2Error):
    """The server has not looked at the request: it may be sent again."""


class Lost(Http2Error):
    """The connection ended before the answer; nobody knows whether the request was processed."""


class TooLate(Http2Error):
    """No answer came in time; nobody knows whether the request was processed."""


class CannotConnect(Http2Error):
    """There is no connection: the sentence says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a request.

    Args:
        status: of HTTP.
        headers: names in lower case.
        body: at most `MAX_ANSWER_BYTES`.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True, eq=False)
class _Exchange:
    """A request that awaits its answer."""

    answer: asyncio.Future[Answer]
    began_at: float
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)


class _Protocol(h2.connection.H2Connection):
    # How each stream ended is kept for frames that were on their way when we reset it, at 100 bytes. `h2` keeps 65,536
    # of a connection; this many begin in several seconds at full speed, and what was on its way is here by then.
    MAX_CLOSED_STREAMS = 4_096


class Http2Connection(asyncio.Protocol):
    """A connection; made by `connect`.

    Args:
        on_change: called when there is room for another request, and when there will never be again.
    """

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        configuration = h2.config.H2Configuration(
            client_side=True,
            header_encoding=None,
            # Ours are few and known; looking at each takes a tenth of the time.
            validate_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self._http = _Protocol(configuration)
        self._http.encoder = FieldEncoder()
        self._on_change = on_change
        self._exchanges: dict[int, _Exchange] = {}
        self._transport: asyncio.Transport | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._streams = STREAMS_BEFORE_SETTINGS
        self._requests = 0
        self._heard_at = 0.0
        self._pinged = False
        self._rest = b""
        self._leaving = False
        self._flushing = False

    # --- What senders call ----------------------------------------------------------------------------------------

    @property
    def open_requests(self) -> int:
        """Requests that await their answer."""
        return len(self._exchanges)

    @property
    def usable(self) -> bool:
        """Whether requests may still be begun on it, if not now."""
        return not self._leaving

    @property
    def silent(self) -> bool:
        """Whether nothing was under way or heard for so long that it may be dead."""
        return not self._exchanges and asyncio.get_running_loop().time() - self._heard_at > MAX_SILENT_SECONDS

    @property
    def room(self) -> int:
        """How many requests may be begun now."""
        return 0 if self._leaving else max(0, self._streams - len(self._exchanges))

    async def request(self, headers: Sequence[Header], body: bytes, seconds: float) -> Answer:
        """Send a request and return its answer.

        Args:
            headers: pseudo-header fields first (RFC 9113 section 8.3.1).
            body: small: it must fit the server's window at once.
            seconds: for the answer.

        Raises:
            NotProcessed: there is no room, or the server did not look at it.
            Lost, TooLate: nobody knows.
        """
        if not self.room:
            raise NotProcessed("there is no room on the connection")
        loop = asyncio.get_running_loop()
        exchange = _Exchange(loop.create_future(), loop.time())
        try:
            stream = self._http.get_next_available_stream_id()
            self._http.send_headers(stream, headers, end_stream=not body)
            if body:
                self._http.send_data(stream, body, end_stream=True)
        except (h2.exceptions.ProtocolError, h2.exceptions.NoAvailableStreamIDError) as error:
            self._leave()
            raise NotProcessed(f"the connection takes no more requests: {error}") from None
        self._exchanges[stream] = exchange
        self._requests += 1
        if self._requests >= MAX_REQUESTS:
            self._leave()
        self._flush_soon()
        timer = loop.call_later(seconds, self._give_up, stream)
        try:
            return await exchange.answer
        finally:
            timer.cancel()
            if self._exchanges.pop(stream, None) is not None:  # who waited was cancelled
                self._reset(stream)
            self._changed()

    async def close(self) -> None:
        """End the connection once what is under way has been answered."""
        self._leave()
        if self._transport is not None:
            await self._closed

    def abort(self) -> None:
        """End the connection at once."""
        self._leaving = True
        if self._transport is not None:
            self._transport.abort()

    async def settled(self) -> None:
        """Return when the server has told its settings.

        Raises:
            CannotConnect: it ended the connection instead.
        """
        await asyncio.shield(self._ready)

    # --- What the transport calls ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with the preface and our settings."""
        self._transport = cast("asyncio.Transport", transport)
        self._http.initiate_connection()
        self._http.update_settings({h2.settings.SettingCodes.ENABLE_PUSH: 0})
        # Answers are small and read at once: one large window, so that none of them waits for an update.
        self._http.increment_flow_control_window(2**24)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take answers, and all else that the server tells."""
        self._heard_at = asyncio.get_running_loop().time()
        try:
            self._take_frames(self._rest + data)
        except h2.exceptions.ProtocolError:
            self._flush()
            self.abort()
            return
        self._flush_soon()

    def _take_frames(self, data: bytes) -> None:
        """Give `h2` all whole frames but GOAWAY: after one it would refuse the answers that are still due."""
        start = place = 0
        while len(data) - place >= _FRAME_HEAD_BYTES:
            length = int.from_bytes(data[place : place + 3], "big")
            if length > _MAX_FRAME_BYTES:
                raise h2.exceptions.FrameTooLargeError("a frame is longer than we allow")
            end = place + _FRAME_HEAD_BYTES + length
            if end > len(data):
                break
            if data[place + 3] == _GOAWAY:
                self._take(data[start:place])
                self._on_goaway(data[place + _FRAME_HEAD_BYTES : end])
                start = end
            place = end
        self._rest = data[place:]
        self._take(data[start:place])

    def _take(self, frames: bytes) -> None:
        for event in self._http.receive_data(frames):
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                handler(self, event)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - that it ended says enough
        """Tell everybody who waits that no answer will come."""
        self._leaving = True
        self._transport = None
        if not self._ready.done():
            self._ready.set_exception(CannotConnect("the server ended the connection at once"))
            self._ready.exception()  # it may be that nobody waits
        exchanges, self._exchanges = self._exchanges, {}
        for exchange in exchanges.values():
            _fail(exchange, Lost("the connection was lost"))
        if not self._closed.done():
            self._closed.set_result(None)
        self._on_change()

    # --- Frames ---------------------------------------------------------------------------------------------------

    def _on_headers(self, event: h2.events.ResponseReceived) -> None:
        exchange = self._exchanges.get(event.stream_id)
        if exchange is not None:
            for name, value in event.headers:
                if name == b":status":
                    exchange.status = int(value)
                else:
                    exchange.headers[name.decode("latin-1")] = value.decode("latin-1")

    def _on_data(self, event: h2.events.DataReceived) -> None:
        if event.flow_controlled_length:
            self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        exchange = self._exchanges.get(event.stream_id)
        if exchange is None:
            return
        exchange.body += event.data
        if len(exchange.body) > MAX_ANSWER_BYTES:
            del self._exchanges[event.stream_id]
            self._reset(event.stream_id)
            _fail(exchange, Lost("the answer is too long"))

    def _on_end(self, event: h2.events.StreamEnded) -> None:
        exchange = self._exchanges.pop(event.stream_id, None)
        if exchange is not None and not exchange.answer.done():
            exchange.answer.set_result(Answer(exchange.status, exchange.headers, bytes(exchange.body)))

    def _on_reset(self, event: h2.events.StreamReset) -> None:
        exchange = self._exchanges.pop(event.stream_id, None)
        if exchange is None:
            return
        if event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM:
            _fail(exchange, NotProcessed("the server refused the request"))
        else:
            _fail(exchange, Lost(f"the server broke the request off (error {event.error_code})"))

    def _on_settings(self, _: h2.events.RemoteSettingsChanged) -> None:
        self._streams = int(self._http.remote_settings.max_concurrent_streams)
        if not self._ready.done():
            self._ready.set_result(None)
        self._on_change()

    def _on_goaway(self, payload: bytes) -> None:
        """Begin nothing more; what the server has not looked at is for another connection (RFC 9113 section 6.8)."""
        last = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
        for stream in [stream for stream in self._exchanges if stream > last]:
            _fail(self._exchanges.pop(stream), NotProcessed("the server ends the connection"))
        self._leave()

    # --- Ends -----------------------------------------------------------------------------------------------------

    def _give_up(self, stream: int) -> None:
        exchange = self._exchanges.pop(stream, None)
        if exchange is not None:
            self._reset(stream)
            _fail(exchange, TooLate("no answer came in time"))
            if self._heard_at < exchange.began_at:
                self._see_whether_it_lives()

    def _see_whether_it_lives(self) -> None:
        """End a connection on which nothing is heard, not even the answer to a ping: others would wait in vain too."""
        if self._transport is None or self._pinged:
            return
        self._pinged = True
        self._http.ping(bytes(8))
        self._flush_soon()
        loop = asyncio.get_running_loop()
        loop.call_later(PING_SECONDS, self._end_unless_heard_since, loop.time())

    def _end_unless_heard_since(self, moment: float) -> None:
        self._pinged = False
        if self._heard_at < moment:
            self.abort()

    def _reset(self, stream: int) -> None:
        try:
            self._http.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        except h2.exceptions.ProtocolError:
            return  # it has ended meanwhile
        self._flush_soon()

    def _leave(self) -> None:
        if not self._leaving:
            self._leaving = True
            self._on_change()
        self._close_when_idle()

    def _changed(self) -> None:
        self._close_when_idle()
        self._on_change()

    def _close_when_idle(self) -> None:
        if self._leaving and not self._exchanges and self._transport is not None:
            self._flush()
            self._transport.close()

    # --- Bytes ----------------------------------------------------------------------------------------------------

    def _flush_soon(self) -> None:
        """Write in one piece what this turn of the loop has to say: a record of TLS for many requests, not for each."""
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        data = self._http.data_to_send()
        if data and self._transport is not None:
            self._transport.write(data)


_HANDLERS: dict[type, Callable[..., None]] = {
    h2.events.ResponseReceived: Http2Connection._on_headers,
    h2.events.DataReceived: Http2Connection._on_data,
    h2.events.StreamEnded: Http2Connection._on_end,
    h2.events.StreamReset: Http2Connection._on_reset,
    h2.events.RemoteSettingsChanged: Http2Connection._on_settings,
}


def _fail(exchange: _Exchange, error: Http2Error) -> None:
    if not exchange.answer.done():
        exchange.answer.set_exception(error)


async def connect(
    host: str, port: int, context: ssl.SSLContext, on_change: Callable[[], None] = lambda: None
) -> Http2Connection:
    """Return a connection on which requests may be sent.

    Raises:
        CannotConnect: the server cannot be reached, its certificate is not trusted, or it does not speak HTTP/2.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            transport, connection = await loop.create_connection(
                lambda: Http2Connection(on_change), host, port, ssl=context
            )
            ssl_object = transport.get_extra_info("ssl_object")
            if ssl_object is not None and ssl_object.selected_alpn_protocol() != "h2":
                connection.abort()
                raise CannotConnect(f"{host} does not speak HTTP/2")
            await connection.settled()
    except TimeoutError:
        raise CannotConnect(f"{host} does not answer") from None
    except ssl.SSLError as error:
        raise CannotConnect(f"{host} cannot be trusted: {error.reason or error}") from None
    except OSError as error:
        raise CannotConnect(f"{host} cannot be reached: {error.strerror or error}") from None
    return connection


def client_context() -> ssl.SSLContext:
    """Return the settings of TLS for a client of HTTP/2 (RFC 9113 section 9.2)."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    return context
