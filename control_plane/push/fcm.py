"""Google's push service, Firebase Cloud Messaging (FCM), as a channel for Android and the web: its HTTP v1 API.

What each answer means is Google's: "REST Resource: projects.messages", "ErrorCode" and "Best practices when sending FCM
messages at scale" in Firebase's documentation.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from control_plane.push.access_token import AccessToken
from control_plane.push.attempts import AtOnce, Attempts, Later, OnlyThis, Patience, read_object, retry_after
from control_plane.push.channel import ChannelUnusable, Notification, Outcome, Result
from control_plane.push.credentials import GoogleAccount
from control_plane.push.http2 import Answer, Header, Lost, TooLate
from control_plane.push.pool import Http2Pool
from control_plane.push.servers import Server

# Google asks for no less than ten seconds before the next attempt; pauses are between half of these and all of them.
ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 20.0
LONGEST_PAUSE_SECONDS = 40.0
# Longer than this nobody waits for an answer within one call; the job comes back instead.
MAX_RETRY_AFTER_SECONDS = 40
# Over the quota, which is counted by the minute, Google asks to wait for one, and then ever longer.
QUOTA_PAUSE_SECONDS = 60.0
LONGEST_QUOTA_PAUSE_SECONDS = 960.0
# Four weeks: messages that are to be kept for longer are refused.
MAX_TTL_SECONDS = 28 * 24 * 3600
# RFC 8030 section 5.4.
_TOPIC_CHARS = 32
_REASON = re.compile(r"[A-Z][A-Z_]{0,63}")
_FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"

# Of one device. A push credential that is missing for the browsers of a project is no reason to leave out its phones.
_REFUSED = frozenset({"INVALID_ARGUMENT", "SENDER_ID_MISMATCH", "THIRD_PARTY_AUTH_ERROR"})


class FcmChannel:
    """Sends to the devices of a Firebase project.

    Args:
        account: that may send for the project.
        messages: the server that takes messages.
        tokens: the server that gives access tokens.
        clock: Unix time.
        rng: for pauses.
    """

    def __init__(
        self,
        account: GoogleAccount,
        messages: Server,
        tokens: Server,
        *,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._project = account.project
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._access = AccessToken(account, tokens, clock, self._rng)
        self._pool = Http2Pool(messages.host, messages.port, messages.context, rng=self._rng)
        patience = Patience(ATTEMPTS, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, MAX_RETRY_AFTER_SECONDS)
        self._attempts = Attempts[Result](self._pool, "Google's push service", patience, self._rng)
        self._headers = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", messages.authority),
            (":path", f"/v1/projects/{account.project}/messages:send"),
            ("content-type", "application/json"),
        ]
        self._prepared: tuple[Notification, bytes] | None = None
        self._quota_pauses = 0
        self._over_quota_until = 0.0

    @property
    def capacity(self) -> int:
        """Notifications that may be under way at once."""
        return self._pool.capacity

    async def send(self, token: str, notification: Notification) -> Result:
        """Send a notification; what is asked to come a little later is sent again, with pauses.

        Raises:
            ChannelUnusable: the service account is refused.
            ChannelAway: Google cannot be reached, or asked for a longer pause than is made here.
        """
        if self._prepared is None or self._prepared[0] is not notification:
            self._prepared = notification, self._prepare(notification)
        body = b'{"message":{"token":' + json.dumps(token).encode() + b"," + self._prepared[1]
        used = ""

        async def headers() -> Sequence[Header]:
            nonlocal used
            used = await self._access.get()
            return [*self._headers, ("content-length", str(len(body))), ("authorization", f"Bearer {used}")]

        try:
            return await self._attempts.ask(headers, body, lambda answer, anew: self._judge(answer, used, anew))
        except (Lost, TooLate) as error:
            return Result(Outcome.UNKNOWN, type(error).__name__)
        except OnlyThis as error:
            return Result(Outcome.REFUSED, error.reason)

    async def close(self) -> None:
        """Give up the connections."""
        await asyncio.gather(self._pool.close(), self._access.close())

    def _prepare(self, notification: Notification) -> bytes:
        """Return what all messages of a notification have in common: the rest of the body behind the token.

        A message with `data` alone is given to the app, and nothing is shown.
        """
        seconds = int(notification.expires_at.timestamp() - self._clock())
        seconds = min(max(0, seconds), MAX_TTL_SECONDS)
        topic = base64.urlsafe_b64encode(hashlib.sha256(notification.collapse_id.encode()).digest()).decode()
        rest = {
            "data": {"skafos_model": notification.model, "skafos_version": str(notification.version)},
            "android": {"priority": "NORMAL", "collapse_key": notification.collapse_id, "ttl": f"{seconds}s"},
            # RFC 8030: a browser that has neither power nor Wi-Fi need not wake up for it; a later message with the
            # same topic takes its place.
            "webpush": {"headers": {"TTL": str(seconds), "Urgency": "low", "Topic": topic[:_TOPIC_CHARS]}},
        }
        return json.dumps(rest, separators=(",", ":")).encode()[1:] + b"}"

    def _judge(self, answer: Answer, used: str, anew: bool) -> Result | Later | AtOnce:
        """Return what an answer means.

        Args:
            answer: of Google.
            used: the access token.
            anew: whether it was got for this message, since the one before was not accepted.
        """
        if answer.status == 200:
            if self._quota_pauses and asyncio.get_running_loop().time() >= self._over_quota_until:
                self._quota_pauses = 0
            return Result(Outcome.ACCEPTED)
        error = _read_error(answer)
        if error.code == "UNREGISTERED":
            # Only with this word: a 404 of a server in between must not take tokens away.
            return Result(Outcome.GONE, error.code)
        if error.code in _REFUSED:
            return Result(Outcome.REFUSED, error.code)
        if answer.status == 401:
            return self._renew_access(error, used, anew)
        if answer.status == 403:
            raise ChannelUnusable(self._explain_refusal(error), error.info or error.code)
        if answer.status == 429:
            return Later(error.code, self._quota_pause(retry_after(answer, self._clock())))
        if answer.status >= 500:
            return Later(error.code, retry_after(answer, self._clock()))
        return Result(Outcome.REFUSED, error.code)

    def _renew_access(self, error: _Error, used: str, anew: bool) -> AtOnce:
        self._access.refuse(used)
        if anew:
            raise ChannelUnusable(
                "Google does not accept the access token that it gave the service account. Look whether the account is"
                " disabled, and whether a proxy takes away the header Authorization.",
                error.code,
            )
        return AtOnce()

    def _explain_refusal(self, error: _Error) -> str:
        if error.info == "SERVICE_DISABLED":
            return f"The Firebase Cloud Messaging API is not enabled in the project {self._project}. Enable it."
        return (
            f"The service account may not send for the project {self._project}. Give it the role Firebase Cloud"
            " Messaging API Admin there."
        )

    def _quota_pause(self, asked: float | None) -> float:
        """Return how long to wait: what is asked for, or a minute; each time in a row for twice as long.

        All requests that were under way when the quota ended are refused: together they count once.
        """
        now = asyncio.get_running_loop().time()
        if now >= self._over_quota_until:
            pause = (asked or QUOTA_PAUSE_SECONDS) * 2.0**self._quota_pauses
            # Never shorter than asked; those who share the quota do not all come back at one moment.
            pause = max(asked or 0.0, min(pause, LONGEST_QUOTA_PAUSE_SECONDS)) * (1 + self._rng.random() / 2)
            self._quota_pauses += 1
            self._over_quota_until = now + pause
        return max(asked or 0.0, self._over_quota_until - now)


@dataclass(frozen=True, slots=True)
class _Error:
    """What an answer tells of an error.

    Args:
        code: FCM's own, or that of Google's interfaces in general, or the status.
        info: a further reason, empty when there is none.
    """

    code: str
    info: str


def _read_error(answer: Answer) -> _Error:
    error = read_object(answer.body).get("error")
    told: dict[str, Any] = error if isinstance(error, dict) else {}
    details = told.get("details")
    found = {}
    for detail in details if isinstance(details, list) else []:
        if isinstance(detail, dict) and isinstance(detail.get("@type"), str):
            found[detail["@type"]] = detail
    code = _word(found.get(_FCM_ERROR, {}).get("errorCode")) or _word(told.get("status"))
    return _Error(code or f"HTTP {answer.status}", _word(found.get(_ERROR_INFO, {}).get("reason")))


def _word(told: object) -> str:
    return told if isinstance(told, str) and _REASON.fullmatch(told) else ""
