"""A push server that speaks Apple's protocol over real HTTP/2 and TLS: it checks what Apple documents, or misbehaves.

Sources: "Sending notification requests to APNs", "Establishing a token-based connection to APNs", "Establishing a
certificate-based connection to APNs" and "Handling notification responses from APNs" in Apple's documentation.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import NameOID

from tests.servers import http2
from tests.servers.http2 import Http2Server, Request, Response

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
    headers: Mapping[str, str]
    payload: dict[str, Any]


@dataclass
class Behaviour(http2.Behaviour):
    """What the server does; tests change it while it runs.

    Args:
        refuse: device tokens that are answered with a reason.
        unregistered_at: when such a token became invalid, in milliseconds since 1970.
        failures: reasons with which the next requests are answered, whatever they ask; the first goes first.
        retry_after: seconds that these answers tell to wait.
    """

    refuse: dict[str, str] = field(default_factory=dict)
    unregistered_at: int = 0
    failures: list[str] = field(default_factory=list)
    retry_after: int | None = None


class ApnsServer(Http2Server):
    """A server of Apple's protocol.

    Args:
        topics: bundle identifiers that it knows.
        keys: for provider tokens, by key id.
        behaviour: at first.
        keep: whether it remembers what it accepted.
        clock: Unix time.

    Attributes:
        accepted: notifications, in the order they came.
    """

    def __init__(
        self,
        topics: frozenset[str],
        keys: dict[str, SigningKey] | None = None,
        behaviour: Behaviour | None = None,
        *,
        keep: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.behaviour: Behaviour = behaviour or Behaviour()
        super().__init__(self.behaviour)
        self.topics = topics
        self.keys = keys or {}
        self.keep = keep
        self.clock = clock
        self.accepted: list[Push] = []
        self.accepted_count = 0
        self._tokens: dict[str, float] = {}
        self._last_new_token: dict[str, float] = {}

    def answer(self, request: Request) -> Response:
        """Accept a notification, or say why not."""
        headers = {"apns-id": request.headers.get("apns-id", "00000000-0000-4000-8000-000000000000")}
        reason = self.judge(request.headers, request.body, _topics_of(request.certificate))
        if reason is None:
            self.accepted_count += 1
            if self.keep:
                token = request.headers[":path"].removeprefix("/3/device/")
                self.accepted.append(Push(token, request.headers, json.loads(request.body)))
            return Response(200, headers)
        self.reasons[reason] += 1
        told: dict[str, object] = {"reason": reason}
        status = STATUS_OF[reason]
        if status == 410:
            told["timestamp"] = self.behaviour.unregistered_at
        if self.behaviour.retry_after is not None and status in (429, 503):
            headers["retry-after"] = str(self.behaviour.retry_after)
        return Response(status, headers, json.dumps(told).encode())

    def judge(self, headers: Mapping[str, str], body: bytes, certificate_topics: frozenset[str] | None) -> str | None:
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

    def _judge_sender(self, headers: Mapping[str, str], certificate_topics: frozenset[str] | None) -> str | None:
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
    def _judge_headers(headers: Mapping[str, str]) -> str | None:
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
