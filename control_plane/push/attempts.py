"""Requests to a push service that are made again while the service asks for it, with pauses for everybody who sends.

What an answer means is a service's own matter. This is what services have in common: they ask to come later, each
attempt waits longer, nobody sends meanwhile, and what takes too long is told to the caller instead of waited for.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar

from control_plane.push.channel import ChannelAway
from control_plane.push.http2 import Answer, CannotConnect, Header, NotProcessed
from control_plane.push.pool import Http2Pool

# An answer takes some 100 ms. What is not there after this is not worth waiting for.
ANSWER_SECONDS = 20.0
# Who waited for the same moment goes on within this part of the pause, not all at once.
SPREAD = 0.25
# More digits than these are no number of seconds that anybody waits.
_MAX_DIGITS = 7

T = TypeVar("T")
Headers = Callable[[], Awaitable[Sequence[Header]]]


@dataclass(frozen=True, slots=True)
class Later:
    """An answer that says: the same request may be taken after a pause.

    Args:
        reason: the service's word; empty when it has not looked at the request.
        asked: seconds that the service asked for; None: it did not.
    """

    reason: str = ""
    asked: float | None = None


@dataclass(frozen=True, slots=True)
class AtOnce:
    """An answer that says: the request may be taken now, when it is made anew."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a service is waited for within one call.

    Args:
        attempts: of one request.
        first_seconds, longest_seconds: of the pauses, which double.
        most_asked_seconds: asked for a longer pause, the caller is told.
    """

    attempts: int
    first_seconds: float
    longest_seconds: float
    most_asked_seconds: float


class OnlyThis(Exception):
    """A request was put off again and again, while others were not: the trouble is with this one.

    Args:
        reason: the service's word.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Attempts(Generic[T]):
    """Makes requests over a pool until an answer is the last word.

    Args:
        pool: of connections to the service.
        service: its name, for sentences.
        patience: with it.
        rng: for pauses.
    """

    def __init__(self, pool: Http2Pool, service: str, patience: Patience, rng: random.Random) -> None:
        self._pool = pool
        self._service = service
        self._patience = patience
        self._rng = rng
        self._held_until = 0.0
        self._ended = 0

    async def ask(self, headers: Headers, body: bytes, judge: Callable[[Answer, bool], T | Later | AtOnce]) -> T:
        """Make a request, and return what its answer means.

        Args:
            headers: makes them for each attempt, pseudo-header fields first.
            body: small.
            judge: says what an answer means, to a request that was made anew at once before, or was not.

        Raises:
            ChannelAway: the service cannot be reached, or asked for a longer pause than is made here.
            OnlyThis: this request alone was put off in all attempts.
            Lost, TooLate: nobody knows whether it was processed.
        """
        others, reason, anew = self._ended, "", False
        for attempt in range(self._patience.attempts):
            await self._wait_while_held()
            try:
                answer = await self._pool.request(await headers(), body, ANSWER_SECONDS)
            except CannotConnect as error:
                raise ChannelAway(f"{self._service} cannot be reached: {error}.") from None
            except NotProcessed:
                verdict: T | Later | AtOnce = Later()
            else:
                verdict = judge(answer, anew)
            if isinstance(verdict, Later):
                reason = verdict.reason
                self._hold(attempt, verdict.asked)
            elif isinstance(verdict, AtOnce):
                anew = True
            else:
                self._ended += 1
                return verdict
        if reason and self._ended > others:
            raise OnlyThis(reason)
        raise ChannelAway(f"{self._service} asks to come back later.")

    def _hold(self, attempt: int, asked: float | None) -> None:
        """Let nobody send for a while: everybody's requests go to the same service."""
        if asked is not None and asked > self._patience.most_asked_seconds:
            raise ChannelAway(f"{self._service} asks to come back in {asked:.0f} seconds.", round(asked))
        longest = min(self._patience.longest_seconds, self._patience.first_seconds * 2.0**attempt)
        pause = max(asked or 0.0, longest / 2 + self._rng.random() * longest / 2)
        self._held_until = max(self._held_until, asyncio.get_running_loop().time() + pause)

    async def _wait_while_held(self) -> None:
        loop = asyncio.get_running_loop()
        while (pause := self._held_until - loop.time()) > 0:  # noqa: ASYNC110 - it waits for a time, not for an event
            await asyncio.sleep(pause * (1 + self._rng.random() * SPREAD))


def read_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of an answer; an empty one when it is none, such as a page of a server in between."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def retry_after(answer: Answer, now: float) -> float | None:
    """Return how many seconds an answer asks to wait (RFC 9110 section 10.2.3: a number or a date); None: it does not.

    Args:
        answer: of a service.
        now: Unix time.
    """
    text = answer.headers.get("retry-after")
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return float(text) if len(text) <= _MAX_DIGITS else None
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
