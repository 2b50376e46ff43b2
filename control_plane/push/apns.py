"""Apple's push service (APNs) as a channel, over HTTP/2.

What each answer means is Apple's: "Handling notification responses from APNs". A team's key (.p8) signs a token that is
good for an hour and may not be replaced more than once in 20 minutes; an app's certificate is shown in TLS instead.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from control_plane.push.channel import ChannelAway, ChannelUnusable, Notification, Outcome, Result
from control_plane.push.credentials import AppleCertificate, AppleKey
from control_plane.push.http2 import Answer, CannotConnect, Header, Lost, NotProcessed, TooLate, client_context
from control_plane.push.pool import Http2Pool
from control_plane.push.signed_token import sign_claims

PRODUCTION_HOST = "api.push.apple.com"
SANDBOX_HOST = "api.sandbox.push.apple.com"
PORT = 443

# An answer takes some 100 ms. What is not there after this is not worth waiting for.
ANSWER_SECONDS = 20.0
# Apple refuses tokens older than an hour, and those that are replaced within 20 minutes. All who have the key make the
# same token for as long, since its time of issue is a multiple of this.
TOKEN_SECONDS = 40 * 60
# A refused attempt is made again, ever later, so often: about a minute in all.
ATTEMPTS = 6
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
# Longer than this nobody waits for an answer within one call; the job comes back instead.
MAX_RETRY_AFTER_SECONDS = 120

# The token is no longer one of the app's: the device is to register again.
_GONE = frozenset({"Unregistered", "ExpiredToken"})
# Apple's trouble, or ours for a moment: the same request may be taken later.
_LATER = frozenset(
    {"InternalServerError", "ServiceUnavailable", "Shutdown", "IdleTimeout", "TooManyProviderTokenUpdates"}
)
# With these no notification at all will be taken.
_UNUSABLE = {
    "BadCertificate": "Apple does not accept the certificate. Upload a new one.",
    "BadCertificateEnvironment": "The certificate is for Apple's other server. Upload one for this one.",
    "BadTopic": "The certificate is not for this application's bundle ID. Upload one that is.",
    "Forbidden": "Apple does not let this key or certificate send. Look whether it was revoked.",
    "InvalidProviderToken": "Apple does not accept the key: check key id and team id, and that it was not revoked.",
    "MissingProviderToken": "Apple asks for a key or a certificate. Upload one for this environment.",
    "MissingTopic": "Apple asks for the bundle ID. Set it on the application.",
    "TopicDisallowed": "The key's team has no app with this bundle ID. Check both.",
    "UnrelatedKeyIdInToken": "The key id is not that of the key. Upload the key again with its own id.",
}


@dataclass(frozen=True, slots=True)
class Server:
    """Where notifications go.

    Args:
        host, port: of the service.
        authority: Apple's name, which stays when a test server stands in.
        context: of TLS; a certificate is added to it.
    """

    host: str
    port: int
    authority: str
    context: ssl.SSLContext


def apple_server(*, sandbox: bool) -> Server:
    """Return Apple's own server: the development one, or that of the App Store and TestFlight."""
    host = SANDBOX_HOST if sandbox else PRODUCTION_HOST
    return Server(host, PORT, host, client_context())


class ProviderToken:
    """The token that a key signs, made anew when it is time.

    Args:
        key: of the team.
        clock: Unix time.
    """

    def __init__(self, key: AppleKey, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._clock = clock
        self._issued_at = -1
        self._token = ""

    def __call__(self) -> str:
        """Return the token of now."""
        issued_at = int(self._clock() // TOKEN_SECONDS) * TOKEN_SECONDS
        if issued_at != self._issued_at:
            claims = {"iss": self._key.team_id, "iat": issued_at}
            self._token = sign_claims(self._key.key, {"kid": self._key.key_id}, claims)
            self._issued_at = issued_at
        return self._token


class ApnsChannel:
    """Sends to the devices of one app.

    Args:
        credential: of the app's environment.
        bundle_id: of the app.
        server: `apple_server`, or one that stands in for it.
        clock: Unix time.
        rng: for pauses.
    """

    def __init__(
        self,
        credential: AppleKey | AppleCertificate,
        bundle_id: str,
        server: Server,
        *,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._bundle_id = bundle_id
        self._authority = server.authority
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._token = ProviderToken(credential, clock) if isinstance(credential, AppleKey) else None
        if isinstance(credential, AppleCertificate):
            _show(server.context, credential)
        self._pool = Http2Pool(server.host, server.port, server.context, rng=self._rng)
        self._held_until = 0.0
        self._prepared: tuple[Notification, list[Header], list[Header], bytes] | None = None

    @property
    def capacity(self) -> int:
        """Notifications that may be under way at once."""
        return self._pool.capacity

    async def send(self, token: str, notification: Notification) -> Result:
        """Send a notification; what is asked to come later is sent again, with pauses.

        Raises:
            ChannelUnusable: the credential is refused.
            ChannelAway: Apple cannot be reached, or asked for a longer pause than is made here.
        """
        if self._prepared is None or self._prepared[0] is not notification:
            self._prepared = notification, *self._prepare(notification)
        _, pseudo, headers, body = self._prepared
        for attempt in range(ATTEMPTS):
            await self._wait_while_held()
            sent = [*pseudo, (":path", f"/3/device/{token}"), *headers, *self._authorization()]
            try:
                answer = await self._pool.request(sent, body, ANSWER_SECONDS)
            except CannotConnect as error:
                raise ChannelAway(f"Apple's push service cannot be reached: {error}.") from None
            except (Lost, TooLate) as error:
                return Result(Outcome.UNKNOWN, type(error).__name__)
            except NotProcessed:
                self._hold(attempt, None)
                continue
            result = self._judge(answer, attempt)
            if result is not None:
                return result
        raise ChannelAway("Apple's push service asks to come back later.")

    async def close(self) -> None:
        """Give up the connections."""
        await self._pool.close()

    def _prepare(self, notification: Notification) -> tuple[list[Header], list[Header], bytes]:
        """Return what all requests for a notification have in common: pseudo-headers, other headers, and the body."""
        pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", self._authority)]
        headers = [
            ("apns-push-type", "background"),
            ("apns-priority", "5"),
            ("apns-topic", self._bundle_id),
            ("apns-collapse-id", notification.collapse_id),
            ("apns-expiration", str(int(notification.expires_at.timestamp()))),
        ]
        payload = {"aps": {"content-available": 1}, **notification.payload}
        return pseudo, headers, json.dumps(payload, separators=(",", ":")).encode()

    def _authorization(self) -> list[Header]:
        return [] if self._token is None else [("authorization", f"bearer {self._token()}")]

    def _judge(self, answer: Answer, attempt: int) -> Result | None:
        """Return what an answer means; None when the notification is to be sent again."""
        if answer.status == 200:
            return Result(Outcome.ACCEPTED)
        reason, since = _read_reason(answer)
        if reason in _GONE:
            return Result(Outcome.GONE, reason, since)
        if reason in _UNUSABLE:
            raise ChannelUnusable(_UNUSABLE[reason], reason)
        if reason == "ExpiredProviderToken":
            if attempt:
                raise ChannelUnusable("Apple takes the token for expired: is the clock of this server right?", reason)
            return None
        if reason in _LATER or answer.status >= 500:
            self._hold(attempt, _retry_after(answer))
            return None
        # TooManyRequests is about this one device, and ends by itself.
        return Result(Outcome.REFUSED, reason)

    def _hold(self, attempt: int, asked: int | None) -> None:
        """Let nobody send for a while: everybody's requests go to the same service."""
        if asked is not None and asked > MAX_RETRY_AFTER_SECONDS:
            raise ChannelAway(f"Apple's push service asks to come back in {asked} seconds.", asked)
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**attempt)
        pause = max(asked or 0.0, longest / 2 + self._rng.random() * longest / 2)
        self._held_until = max(self._held_until, asyncio.get_running_loop().time() + pause)

    async def _wait_while_held(self) -> None:
        loop = asyncio.get_running_loop()
        while (pause := self._held_until - loop.time()) > 0:  # noqa: ASYNC110 - it waits for a time, not for an event
            await asyncio.sleep(pause)


def _show(context: ssl.SSLContext, certificate: AppleCertificate) -> None:
    """Have TLS show a certificate. `ssl` reads it from files only, so it is in one for a moment, for us alone."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate.pem)
        file.flush()
        context.load_cert_chain(Path(file.name))


def _read_reason(answer: Answer) -> tuple[str, datetime | None]:
    try:
        told = json.loads(answer.body)
        reason, since = str(told["reason"]), told.get("timestamp")
        at = datetime.fromtimestamp(since / 1000, UTC) if isinstance(since, int | float) else None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError):
        return f"HTTP {answer.status}", None
    return reason[:64], at


def _retry_after(answer: Answer) -> int | None:
    text = answer.headers.get("retry-after", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 8 else None
