"""Apple's push service (APNs) as a channel, over HTTP/2.

What each answer means is Apple's: "Handling notification responses from APNs". A team's key (.p8) signs a token that is
good for an hour and may not be replaced more than once in 20 minutes; an app's certificate is shown in TLS instead.
"""

from __future__ import annotations

import json
import random
import ssl
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from control_plane.push.attempts import AtOnce, Attempts, Later, OnlyThis, Patience, read_object, retry_after
from control_plane.push.channel import ChannelUnusable, Notification, Outcome, Result
from control_plane.push.credentials import AppleCertificate, AppleKey
from control_plane.push.http2 import Answer, Header, Lost, TooLate
from control_plane.push.pool import Http2Pool
from control_plane.push.servers import Server
from control_plane.push.signed_token import sign_claims

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
        server: Apple's, or one that stands in for it.
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
        self._clock = clock
        rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._token = ProviderToken(credential, clock) if isinstance(credential, AppleKey) else None
        if isinstance(credential, AppleCertificate):
            _show(server.context, credential)
        self._pool = Http2Pool(server.host, server.port, server.context, rng=rng)
        patience = Patience(ATTEMPTS, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, MAX_RETRY_AFTER_SECONDS)
        self._attempts = Attempts[Result](self._pool, "Apple's push service", patience, rng)
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

        async def fields() -> Sequence[Header]:
            return [*pseudo, (":path", f"/3/device/{token}"), *headers, *self._authorization()]

        try:
            return await self._attempts.ask(fields, body, self._judge)
        except (Lost, TooLate) as error:
            return Result(Outcome.UNKNOWN, type(error).__name__)
        except OnlyThis as error:
            return Result(Outcome.REFUSED, error.reason)

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

    def _judge(self, answer: Answer, anew: bool) -> Result | Later | AtOnce:
        """Return what an answer means."""
        if answer.status == 200:
            return Result(Outcome.ACCEPTED)
        reason, since = _read_reason(answer)
        if reason in _GONE:
            return Result(Outcome.GONE, reason, since)
        if reason in _UNUSABLE:
            raise ChannelUnusable(_UNUSABLE[reason], reason)
        if reason == "ExpiredProviderToken":
            if anew:
                raise ChannelUnusable("Apple takes the token for expired: is the clock of this server right?", reason)
            return AtOnce()
        if reason in _LATER or answer.status >= 500:
            return Later(reason, retry_after(answer, self._clock()))
        # TooManyRequests is about this one device, and ends by itself.
        return Result(Outcome.REFUSED, reason)


def _show(context: ssl.SSLContext, certificate: AppleCertificate) -> None:
    """Have TLS show a certificate. `ssl` reads it from files only, so it is in one for a moment, for us alone."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate.pem)
        file.flush()
        context.load_cert_chain(Path(file.name))


def _read_reason(answer: Answer) -> tuple[str, datetime | None]:
    told = read_object(answer.body)
    reason, since = told.get("reason"), told.get("timestamp")
    if not isinstance(reason, str):
        return f"HTTP {answer.status}", None
    try:
        at = datetime.fromtimestamp(since / 1000, UTC) if isinstance(since, int | float) else None
    except (ValueError, OverflowError, OSError):
        at = None
    return reason[:64], at
