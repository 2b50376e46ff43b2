"""A push server that speaks Google's protocol over real HTTP/2 and TLS: Firebase Cloud Messaging's HTTP v1 API, and the
access tokens that it asks for. It checks what Google documents, or misbehaves.

Sources: "REST Resource: projects.messages", "ErrorCode" and "FcmError" in Firebase's documentation; "Using OAuth 2.0
for server to server applications" in Google's; RFC 7523 (JWT bearer grant), RFC 8030 (web push) and the canonical JSON
of protocol buffers, which refuses unknown names and values of another type.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.servers import http2
from tests.servers.http2 import Http2Server, Request, Response

MESSAGES_HOST, TOKENS_HOST = "fcm.googleapis.com", "oauth2.googleapis.com"
TOKEN_URL = "https://oauth2.googleapis.com/token"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
SCOPES = frozenset(
    ["https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"]
)
# A statement may not be good for longer, and clocks may differ by so much.
STATEMENT_SECONDS, SKEW_SECONDS = 3600, 300
MAX_DATA_BYTES = 4096
MAX_TTL_SECONDS = 2_419_200
_REGISTRATION = re.compile(r"[A-Za-z0-9_:-]{20,4096}")
_DURATION = re.compile(r"(\d{1,12})(\.\d{1,9})?s")
_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")
_URGENCIES = frozenset(["very-low", "low", "normal", "high"])
_PACKAGE = "type.googleapis.com/"

# HTTP status, the general status, and whether the word is one of FCM's own.
ERRORS = {
    "INVALID_ARGUMENT": (400, "INVALID_ARGUMENT", True),
    "UNREGISTERED": (404, "NOT_FOUND", True),
    "SENDER_ID_MISMATCH": (403, "PERMISSION_DENIED", True),
    "QUOTA_EXCEEDED": (429, "RESOURCE_EXHAUSTED", True),
    "UNAVAILABLE": (503, "UNAVAILABLE", True),
    "INTERNAL": (500, "INTERNAL", True),
    "THIRD_PARTY_AUTH_ERROR": (401, "UNAUTHENTICATED", True),
    "UNAUTHENTICATED": (401, "UNAUTHENTICATED", False),
    "PERMISSION_DENIED": (403, "PERMISSION_DENIED", False),
    "SERVICE_DISABLED": (403, "PERMISSION_DENIED", False),
    "NOT_FOUND": (404, "NOT_FOUND", False),
}
# What is between us and Google answers with pages.
PAGE = b"<!DOCTYPE html><title>Error (Server Error)!!1</title>"


@dataclass(frozen=True)
class Account:
    """A service account, as the server knows it."""

    project: str
    email: str
    key_id: str
    public: rsa.RSAPublicKey


@dataclass(frozen=True)
class Push:
    """A message that was accepted."""

    device_token: str
    headers: Mapping[str, str]
    message: dict[str, Any]


@dataclass
class Behaviour(http2.Behaviour):
    """What the server does; tests change it while it runs.

    Args:
        refuse: registration tokens that are answered with an error's name.
        failures: errors' names, or ``page 502`` for a page with that status, with which the next messages are answered,
            whatever they are; the first goes first.
        token_failures: the same for the next requests for access tokens: errors of OAuth, or pages.
        retry_after: what these answers tell.
        token_seconds: that access tokens live.
        token_answer: in the place of an access token, when there is any.
    """

    refuse: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    token_failures: list[str] = field(default_factory=list)
    retry_after: str | None = None
    token_seconds: int = 3599
    token_answer: dict[str, Any] | None = None


class FcmServer(Http2Server):
    """A server of Google's protocol.

    Args:
        accounts: that it knows.
        behaviour: at first.
        clock: Unix time.

    Attributes:
        accepted: messages, in the order they came.
        grants: requests for access tokens.
        tokens: access tokens that were given, with their account and their end; tests may revoke them.
    """

    def __init__(
        self,
        *accounts: Account,
        behaviour: Behaviour | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.behaviour: Behaviour = behaviour or Behaviour()
        super().__init__(self.behaviour)
        self.accounts = {account.email: account for account in accounts}
        self.clock = clock
        self.accepted: list[Push] = []
        self.grants = 0
        self.tokens: dict[str, tuple[Account, float]] = {}

    def answer(self, request: Request) -> Response:
        """Answer for the one or the other of the two services."""
        authority, path = request.headers.get(":authority"), request.headers.get(":path", "")
        if request.headers.get(":method") == "POST" and authority == TOKENS_HOST and path == "/token":
            return self._give_token(request)
        found = re.fullmatch(r"/v1/projects/([^/]+)/messages:send", path)
        if request.headers.get(":method") == "POST" and authority == MESSAGES_HOST and found:
            return self._take_message(request, found[1])
        return Response(404, {"content-type": "text/html"}, PAGE)

    # --- Access tokens --------------------------------------------------------------------------------------------

    def _give_token(self, request: Request) -> Response:
        self.grants += 1
        if self.behaviour.token_failures:
            return self._oauth_error(self.behaviour.token_failures.pop(0))
        if request.headers.get("content-type") != "application/x-www-form-urlencoded":
            return self._oauth_error("invalid_request")
        form = parse_qs(request.body.decode(), strict_parsing=True)
        if form.get("grant_type") != [GRANT]:
            return self._oauth_error("unsupported_grant_type")
        judged = self._judge_statement(form.get("assertion", [""])[0])
        if isinstance(judged, tuple):
            return self._oauth_error(*judged)
        if self.behaviour.token_answer is not None:
            return _json(200, self.behaviour.token_answer)
        token = f"ya29.c.{len(self.tokens)}.{'x' * 200}"
        self.tokens[token] = judged, self.clock() + self.behaviour.token_seconds
        return _json(200, {"access_token": token, "expires_in": self.behaviour.token_seconds, "token_type": "Bearer"})

    def _judge_statement(self, statement: str) -> Account | tuple[str, str]:
        """Return the account that a signed statement is from, or the error and its description."""
        try:
            head, claims, signature = statement.split(".")
            header, claimed = json.loads(_decoded(head)), json.loads(_decoded(claims))
            account = self.accounts.get(claimed["iss"])
            if account is None:
                return "invalid_grant", "Invalid grant: account not found"
            if header != {"alg": "RS256", "typ": "JWT", "kid": account.key_id}:
                return "invalid_grant", "Invalid JWT Signature."
            account.public.verify(_decoded(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256())
            issued, ends = int(claimed["iat"]), int(claimed["exp"])
        except (ValueError, KeyError, TypeError, InvalidSignature):
            return "invalid_grant", "Invalid JWT Signature."
        if set(claimed) != {"iss", "scope", "aud", "iat", "exp"} or claimed["aud"] != TOKEN_URL:
            return "invalid_grant", "Invalid JWT: Failed audience check."
        now = self.clock()
        if ends - issued > STATEMENT_SECONDS or not issued - SKEW_SECONDS <= now <= ends + SKEW_SECONDS:
            return (
                "invalid_grant",
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.",
            )
        if not set(claimed["scope"].split()) & SCOPES:
            return "invalid_scope", "Invalid OAuth scope or ID token audience provided."
        return account

    def _oauth_error(self, error: str, description: str = "Bad Request") -> Response:
        self.reasons[error] += 1
        if error.startswith("page "):
            return self._page(error)
        return _json(400, {"error": error, "error_description": description})

    # --- Messages -------------------------------------------------------------------------------------------------

    def _take_message(self, request: Request, project: str) -> Response:
        if self.behaviour.failures:
            return self._error(self.behaviour.failures.pop(0))
        refused = self._judge_sender(request.headers.get("authorization", ""), project)
        if refused is not None:
            return self._error(refused)
        try:
            message = read_message(request.body)
        except InvalidMessage as error:
            return self._error("INVALID_ARGUMENT", str(error))
        device_token = message["token"]
        if device_token in self.behaviour.refuse:
            return self._error(self.behaviour.refuse[device_token])
        self.accepted.append(Push(device_token, request.headers, message))
        return _json(200, {"name": f"projects/{project}/messages/{len(self.accepted)}"})

    def _judge_sender(self, authorization: str, project: str) -> str | None:
        account, ends = self.tokens.get(authorization.removeprefix("Bearer "), (None, 0.0))
        if not authorization.startswith("Bearer ") or account is None or self.clock() >= ends:
            return "UNAUTHENTICATED"
        return None if account.project == project else "PERMISSION_DENIED"

    def _error(self, name: str, description: str = "") -> Response:
        self.reasons[name] += 1
        if name.startswith("page "):
            return self._page(name)
        status, general, is_fcms = ERRORS[name]
        details: list[dict[str, Any]] = []
        if is_fcms:
            details.append({"@type": f"{_PACKAGE}google.firebase.fcm.v1.FcmError", "errorCode": name})
        if description:
            violation = {"field": "message", "description": description}
            details.append({"@type": f"{_PACKAGE}google.rpc.BadRequest", "fieldViolations": [violation]})
        if name == "SERVICE_DISABLED":
            details.append({"@type": f"{_PACKAGE}google.rpc.ErrorInfo", "reason": name, "domain": "googleapis.com"})
        error = {"code": status, "message": description or "Told by a test.", "status": general, "details": details}
        return _json(status, {"error": error}, self._retry(status))

    def _page(self, name: str) -> Response:
        status = int(name.removeprefix("page "))
        return Response(status, {"content-type": "text/html", **self._retry(status)}, PAGE)

    def _retry(self, status: int) -> dict[str, str]:
        asked = self.behaviour.retry_after
        return {"retry-after": asked} if asked is not None and status in (429, 503) else {}


class InvalidMessage(ValueError):
    """A body is none that Google takes."""


def read_message(body: bytes) -> dict[str, Any]:
    """Return the message of a body, of exactly the documented shape, to one device.

    Raises:
        InvalidMessage: it has another shape.
    """
    try:
        told = json.loads(body)
    except ValueError:
        raise InvalidMessage("Invalid JSON payload received.") from None
    _names("body", told, required={"message"}, allowed={"validate_only"})
    message = _names("message", told["message"], required={"token"}, allowed=_MESSAGE)
    if not isinstance(message["token"], str) or not _REGISTRATION.fullmatch(message["token"]):
        raise InvalidMessage("The registration token is not a valid FCM registration token")
    data = _texts("message.data", message.get("data", {}))
    for name in data:
        if name in ("from", "gcm", "message_type") or name.startswith(("google.", "gcm.notification.")):
            raise InvalidMessage(f"Invalid data payload key: {name}")
    if sum(len(name.encode()) + len(value.encode()) for name, value in data.items()) > MAX_DATA_BYTES:
        raise InvalidMessage("Message is too big")
    _check_android(_names("message.android", message.get("android", {}), required=set(), allowed=_ANDROID))
    web = _names("message.webpush", message.get("webpush", {}), required=set(), allowed=_WEBPUSH)
    _check_web_headers(_texts("message.webpush.headers", web.get("headers", {})))
    return message


_MESSAGE = {"data", "notification", "android", "webpush", "apns", "fcm_options"}
_ANDROID = {
    *("collapse_key", "priority", "ttl", "restricted_package_name", "data", "notification", "fcm_options"),
    "direct_boot_ok",
}
_WEBPUSH = {"headers", "data", "notification", "fcm_options"}


def _names(where: str, told: object, required: set[str], allowed: set[str]) -> dict[str, Any]:
    if not isinstance(told, dict):
        raise InvalidMessage(f"Invalid value at '{where}'")
    for name in told:
        if name not in required | allowed:
            raise InvalidMessage(f"Unknown name \"{name}\" at '{where}': Cannot find field.")
    if missing := required - set(told):
        raise InvalidMessage(f"'{where}' has no {', '.join(sorted(missing))}")
    return told


def _texts(where: str, told: object) -> dict[str, str]:
    if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
        raise InvalidMessage(f"Invalid value at '{where}' (TYPE_STRING)")
    return told


def _check_android(android: dict[str, Any]) -> None:
    if android.get("priority", "NORMAL") not in ("NORMAL", "HIGH"):
        raise InvalidMessage("Invalid value at 'message.android.priority'")
    if not isinstance(android.get("collapse_key", ""), str):
        raise InvalidMessage("Invalid value at 'message.android.collapse_key' (TYPE_STRING)")
    ttl = android.get("ttl", "0s")
    found = _DURATION.fullmatch(ttl) if isinstance(ttl, str) else None
    if found is None or int(found[1]) > MAX_TTL_SECONDS:
        raise InvalidMessage("Invalid value at 'message.android.ttl'")


def _check_web_headers(headers: dict[str, str]) -> None:
    for name, value in headers.items():
        good = {
            "TTL": value.isascii() and value.isdigit(),
            "Urgency": value in _URGENCIES,
            "Topic": _TOPIC.fullmatch(value) is not None,
        }.get(name)
        if not good:
            raise InvalidMessage(f"Invalid value at 'message.webpush.headers[{name}]'")


def _json(status: int, told: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    fields = {"content-type": "application/json; charset=UTF-8", **(headers or {})}
    return Response(status, fields, json.dumps(told).encode())


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
