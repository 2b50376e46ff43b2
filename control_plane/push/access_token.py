"""Google's access tokens for a service account: got for a signed statement, kept for all, renewed before they end.

The statement is a JSON Web Token that the account's key signs (RFC 7523; "Using OAuth 2.0 for server to server
applications" in Google's documentation). An access token is good for an hour; whoever holds it can send.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Sequence
from urllib.parse import urlencode, urlsplit

import structlog

from control_plane.push.attempts import AtOnce, Attempts, Later, Patience, read_object, retry_after
from control_plane.push.channel import ChannelAway, ChannelUnusable
from control_plane.push.credentials import GOOGLE_TOKEN_URL, GoogleAccount
from control_plane.push.http2 import Answer, Header, Lost, TooLate
from control_plane.push.pool import Http2Pool
from control_plane.push.servers import Server
from control_plane.push.signed_token import sign_claims

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
# The longest that Google takes a statement for.
STATEMENT_SECONDS = 3600
# So long before its end a token is renewed: time enough to wait for a server of tokens that is away.
RENEW_BEFORE_SECONDS = 300.0
# Google's live an hour. What claims to live longer than a day is looked at again all the same.
MAX_TOKEN_SECONDS = 24 * 3600.0
# Until renewing is tried again while the old token is still good.
RENEW_AGAIN_SECONDS = 30.0
ATTEMPTS = 3
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 10.0
MAX_RETRY_AFTER_SECONDS = 30
# Google's tokens may have 2,048 bytes. What is in a header must be visible characters.
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")
_ERROR = re.compile(r"[a-z_]{1,64}")

_UNUSABLE = {
    "invalid_grant": (
        "Google does not accept the service account's key. Create a new one if it was deleted or the account is"
        " disabled, and look whether the clock of this server is right."
    ),
    "invalid_scope": "The service account may not use Firebase Cloud Messaging. Take one of the Firebase project.",
    "unauthorized_client": "The service account may not ask for access. Take one of the Firebase project.",
}
_CLOCK = "Google takes the service account's statement for too old or too new: is the clock of this server right?"

_log = structlog.get_logger(__name__)


class AccessToken:
    """The access token of a service account.

    Args:
        account: that it is for.
        server: which gives it.
        clock: Unix time.
        rng: for pauses.
    """

    def __init__(self, account: GoogleAccount, server: Server, clock: Callable[[], float], rng: random.Random) -> None:
        self._account = account
        self._authority = server.authority
        self._clock = clock
        # One request an hour needs one connection.
        self._pool = Http2Pool(server.host, server.port, server.context, most=1, rng=rng)
        patience = Patience(ATTEMPTS, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, MAX_RETRY_AFTER_SECONDS)
        self._attempts = Attempts[dict[str, object]](self._pool, "Google's server of access tokens", patience, rng)
        self._token = ""
        self._renew_at = self._ends_at = 0.0
        self._renewing: asyncio.Task[None] | None = None

    async def get(self) -> str:
        """Return a token that is good for a while; all who wait for a new one get the same.

        Raises:
            ChannelUnusable: Google gives this account none.
            ChannelAway: it gives none now.
        """
        if self._clock() >= self._renew_at:
            if self._renewing is None:
                self._renewing = asyncio.create_task(self._renew())
                self._renewing.add_done_callback(self._renewed)
            await self._wait(self._renewing)
        return self._token

    def refuse(self, token: str) -> None:
        """Forget a token that was not accepted, unless it has been renewed meanwhile."""
        if token == self._token:
            self._token, self._renew_at, self._ends_at = "", 0.0, 0.0

    async def close(self) -> None:
        """Give up the connection."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        await self._pool.close()

    async def _wait(self, renewing: asyncio.Task[None]) -> None:
        try:
            # Shielded: who gives up waiting must not take it from the others.
            await asyncio.shield(renewing)
        except asyncio.CancelledError:
            if not renewing.cancelled():
                raise
            raise ChannelAway("The credential was replaced.") from None

    def _renewed(self, renewing: asyncio.Task[None]) -> None:
        self._renewing = None
        if not renewing.cancelled():
            renewing.exception()  # it may be that nobody waits

    async def _renew(self) -> None:
        try:
            told = await self._ask()
        except ChannelAway as error:
            if self._clock() >= self._ends_at:
                raise
            _log.warning("push_access_token_not_renewed", project=self._account.project, reason=str(error))
            self._renew_at = self._clock() + RENEW_AGAIN_SECONDS
            return
        self._token, lives = told
        now = self._clock()
        self._ends_at = now + lives
        self._renew_at = now + max(lives - RENEW_BEFORE_SECONDS, lives / 2)

    async def _ask(self) -> tuple[str, float]:
        """Return a new token, and how many seconds it lives."""
        body = self._grant()

        async def headers() -> Sequence[Header]:
            return [
                (":method", "POST"),
                (":scheme", "https"),
                (":authority", self._authority),
                (":path", urlsplit(GOOGLE_TOKEN_URL).path),
                ("content-type", "application/x-www-form-urlencoded"),
                ("content-length", str(len(body))),
            ]

        try:
            told = await self._attempts.ask(headers, body, self._judge)
        except (Lost, TooLate):
            raise ChannelAway("Google's server of access tokens does not answer.") from None
        token, seconds = told.get("access_token"), told.get("expires_in")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise ChannelAway("Google's server of access tokens answers with none.")
        if not isinstance(seconds, int | float) or not seconds > 0:
            raise ChannelAway("Google's server of access tokens does not tell how long one lives.")
        return token, min(float(seconds), MAX_TOKEN_SECONDS)

    def _grant(self) -> bytes:
        issued_at = int(self._clock())
        claims = {
            "iss": self._account.email,
            "scope": SCOPE,
            "aud": GOOGLE_TOKEN_URL,
            "iat": issued_at,
            "exp": issued_at + STATEMENT_SECONDS,
        }
        statement = sign_claims(self._account.key, {"kid": self._account.key_id}, claims)
        return urlencode({"grant_type": GRANT, "assertion": statement}).encode()

    def _judge(self, answer: Answer, _: bool) -> dict[str, object] | Later | AtOnce:
        told = read_object(answer.body)
        if answer.status == 200:
            return told
        if answer.status == 429 or answer.status >= 500:
            return Later(f"HTTP {answer.status}", retry_after(answer, self._clock()))
        error = told.get("error")
        error = error if isinstance(error, str) and _ERROR.fullmatch(error) else f"HTTP {answer.status}"
        if error == "invalid_grant" and "timeframe" in str(told.get("error_description")):
            raise ChannelUnusable(_CLOCK, error)
        raise ChannelUnusable(
            _UNUSABLE.get(error, f"Google gives the service account no access ({error}). Look at it in Google Cloud."),
            error,
        )
