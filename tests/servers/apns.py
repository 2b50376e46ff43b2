"""A push server that speaks Apple's protocol over real HTTP/2 and TLS: it checks what Apple documents, or misbehaves.

Sources: "Sending notification requests to APNs", "Establishing a token-based connection to APNs", "Establishing a
certificate-based connection to APNs" and "Handling notification responses from APNs" in Apple's documentation.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import NameOID
from hyperframe.frame import GoAwayFrame

MAX_PAYLOAD_BYTES = 4096
MAX_COLLAPSE_ID_BYTES = 64
TOKEN_SECONDS = 3600
# A provider token may not be replaced more often than this.
TOKEN_RENEWAL_SECONDS = 20 * 60
_DEVICE_TOKEN = re.compile(r"[0-9a-f]{64,200}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PUSH_TYPES = frozenset(
    ["alert", "background", "location", "voip", "complication", "fileprovider", "mdm", "liveactivity", "pushtotalk"]
)

STATUS_OF = {
    "BadCollapseId": 400,
    "BadDeviceToken": 400,
    "BadExpirationDate": 400,
    "BadMessageId": 400,
    "BadPriority": 400,
    "BadTopic": 400,
    "DeviceTokenNotForTopic": 400,
    "DuplicateHeaders": 400,
    "IdleTimeout": 400,
    "InvalidPushType": 400,
    "MissingDeviceToken": 400,
    "MissingTopic": 400,
    "PayloadEmpty": 400,
    "TopicDisallowed": 400,
    "BadCertificate": 403,
    "BadCertificateEnvironment": 403,
    "ExpiredProviderToken": 403,
    "Forbidden": 403,
    "InvalidProviderToken": 403,
    "MissingProviderToken": 403,
    "UnrelatedKeyIdInToken": 403,
    "BadPath": 404,
    "MethodNotAllowed": 405,
    "ExpiredToken": 410,
    "Unregistered": 410,
    "PayloadTooLarge": 413,
    "TooManyProviderTokenUpdates": 429,
    "TooManyRequests": 429,
    "InternalServerError": 500,
    "ServiceUnavailable": 503,
    "Shutdown": 503,
}


@dataclass(frozen=True)
class SigningKey:
    """A key for provider tokens, as the server knows it."""

    team_id: str
    public: ec.EllipticCurvePublicKey


@dataclass(frozen=True)
class Push:
    """A notification that was accepted."""

    device_token: str
    headers: dict[str, str]
    payload: dict[str, Any]


@dataclass
class Behaviour:
    """What the server does; tests change it while it runs.

    Args:
        delay: seconds before each answer.
        max_streams: requests that a connection may have open at once.
        refuse: device tokens that are answered with a reason.
        unregistered_at: when such a token became invalid, in milliseconds since 1970.
        failures: reasons with which the next requests are answered, whatever they ask; the first goes first.
        retry_after: seconds that these answers tell to wait.
        stalls: requests that get no answer at all.
        goaway_after: requests on a connection, after which it says GOAWAY; it looks at none behind them.
        drop_after: requests on a connection, after which it is cut off.
    """

    delay: float = 0.0
    max_streams: int = 1000
    refuse: dict[str, str] = field(default_factory=dict)
    unregistered_at: int = 0
    failures: list[str] = field(default_factory=list)
    retry_after: int | None = None
    stalls: int = 0
    goaway_after: int | None = None
    drop_after: int | None = None


@dataclass
class ApnsServer:
    """A running server.

    Args:
        topics: bundle identifiers that it knows.
        keys: for provider tokens, by key id.
        clock: Unix time.

    Attributes:
        accepted: notifications, in the order they came.
        reasons: how often each reason was answered.
        connections: that were opened.
        most_streams: requests that were open at once on a connection.
    """

    topics: frozenset[str]
    keys: dict[str, SigningKey] = field(default_factory=dict)
    behaviour: Behaviour = field(default_factory=Behaviour)
    keep: bool = True
    clock: Callable[[], float] = time.time
    port: int = 0
    accepted: list[Push] = field(default_factory=list)
    accepted_count: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    most_streams: int = 0
    open_connections: set[_Connection] = field(default_factory=set)
    _tokens: dict[str, float] = field(default_factory=dict)
    _last_new_token: dict[str, float] = field(default_factory=dict)

    def judge(self, headers: dict[str, str], body: bytes, certificate_topics: frozenset[str] | None) -> str | None:
        """Return the reason to refuse a request, or None when it is accepted."""
        if self.behaviour.failures:
            return self.behaviour.failures.pop(0)
        if headers.get(":method") != "POST":
            return "MethodNotAllowed"
        path = headers.get(":path", "")
        if not path.startswith("/3/device/"):
            return "BadPath"
        device_token = path.removeprefix("/3/device/")
        if not device_token:
            return "MissingDeviceToken"
        return (
            self._judge_sender(headers, certificate_topics)
            or self._judge_headers(headers)
            or ("BadDeviceToken" if not _DEVICE_TOKEN.fullmatch(device_token) else None)
            or _judge_payload(body)
            or self.behaviour.refuse.get(device_token)
        )

    def _judge_sender(self, headers: dict[str, str], certificate_topics: frozenset[str] | None) -> str | None:
        topic = headers.get("apns-topic")
        if certificate_topics is not None:
            if topic is None and len(certificate_topics) != 1:
                return "MissingTopic"
            return None if topic is None or topic in certificate_topics else "BadTopic"
        authorization = headers.get("authorization", "")
        if not authorization.startswith("bearer "):
            return "MissingProviderToken"
        reason = self._judge_token(authorization.removeprefix("bearer "))
        if reason is not None:
            return reason
        if topic is None:
            return "MissingTopic"
        return None if topic in self.topics else "TopicDisallowed"

    def _judge_token(self, token: str) -> str | None:
        now = self.clock()
        issued = self._tokens.get(token)
        if issued is None:
            found = _read_token(token, self.keys)
            if isinstance(found, str):
                return found
            key_id, issued = found
            last = self._last_new_token.get(key_id)
            if last is not None and now - last < TOKEN_RENEWAL_SECONDS:
                return "TooManyProviderTokenUpdates"
            self._last_new_token[key_id] = now
            self._tokens[token] = issued
        return "ExpiredProviderToken" if abs(now - issued) > TOKEN_SECONDS else None

    @staticmethod
    def _judge_headers(headers: dict[str, str]) -> str | None:
        kind, priority = headers.get("apns-push-type"), headers.get("apns-priority", "10")
        if kind is not None and kind not in _PUSH_TYPES:
            return "InvalidPushType"
        if priority not in ("1", "5", "10") or (kind == "background" and priority != "5"):
            return "BadPriority"
        if not headers.get("apns-expiration", "0").isdigit():
            return "BadExpirationDate"
        if len(headers.get("apns-collapse-id", "").encode()) > MAX_COLLAPSE_ID_BYTES:
            return "BadCollapseId"
        if "apns-id" in headers and not _UUID.fullmatch(headers["apns-id"]):
            return "BadMessageId"
        return None


def _judge_payload(body: bytes) -> str | None:
    if not body:
        return "PayloadEmpty"
    if len(body) > MAX_PAYLOAD_BYTES:
        return "PayloadTooLarge"
    return None


def _read_token(token: str, keys: dict[str, SigningKey]) -> tuple[str, float] | str:
    """Return the key id and the time of issue of a provider token (a JWT, RFC 7519), or why it is refused."""
    try:
        head, claims, signature = token.split(".")
        header, claimed = json.loads(_decoded(head)), json.loads(_decoded(claims))
        if header["alg"] != "ES256":
            return "InvalidProviderToken"
        key = keys.get(header["kid"])
        if key is None or claimed["iss"] != key.team_id:
            return "InvalidProviderToken"
        raw = _decoded(signature)
        point = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        key.public.verify(point, f"{head}.{claims}".encode(), ec.ECDSA(hashes.SHA256()))
        return str(header["kid"]), float(claimed["iat"])
    except (ValueError, KeyError, TypeError, InvalidSignature):
        return "InvalidProviderToken"


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _topics_of(certificate: bytes | None) -> frozenset[str] | None:
    """Return the topics of a client's certificate: its user id, or its common name."""
    if not certificate:
        return None
    subject = x509.load_der_x509_certificate(certificate).subject
    names = [str(name.value) for name in subject.get_attributes_for_oid(NameOID.USER_ID)]
    return frozenset(names)


class _Connection(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, server: ApnsServer) -> None:
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
        self._topics = _topics_of(transport.get_extra_info("ssl_object").getpeercert(binary_form=True))
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
        reason = self._server.judge(headers, bytes(body), self._topics)
        fields = [("apns-id", headers.get("apns-id", "00000000-0000-4000-8000-000000000000"))]
        try:
            if reason is None:
                self._accept(headers, bytes(body))
                self._http.send_headers(stream, [(":status", "200"), *fields], end_stream=True)
            else:
                self._refuse(stream, reason, fields)
        except h2.exceptions.ProtocolError:
            return  # the client gave the stream up, or the connection says GOAWAY
        self._flush_soon()

    def _accept(self, headers: dict[str, str], body: bytes) -> None:
        self._server.accepted_count += 1
        if self._server.keep:
            self._server.accepted.append(Push(headers[":path"].removeprefix("/3/device/"), headers, json.loads(body)))

    def _refuse(self, stream: int, reason: str, fields: list[tuple[str, str]]) -> None:
        self._server.reasons[reason] += 1
        told: dict[str, object] = {"reason": reason}
        if STATUS_OF[reason] == 410:
            told["timestamp"] = self._server.behaviour.unregistered_at
        status = [(":status", str(STATUS_OF[reason])), *fields]
        if self._server.behaviour.retry_after is not None and STATUS_OF[reason] in (429, 503):
            status.append(("retry-after", str(self._server.behaviour.retry_after)))
        self._http.send_headers(stream, status)
        self._http.send_data(stream, json.dumps(told).encode(), end_stream=True)

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
async def running_apns(server: ApnsServer, context: ssl.SSLContext) -> AsyncIterator[ApnsServer]:
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
