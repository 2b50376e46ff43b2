"""What a push service is to the rest: something that takes a notification for a device and says what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Notification:
    """A silent notification: it wakes an app in the background, which then asks for its manifest. No user sees it.

    Args:
        model: name of the model that has a new version.
        version: its number.
        expires_at: after this the service drops it instead of delivering it.
    """

    model: str
    version: int
    expires_at: datetime

    @property
    def payload(self) -> Mapping[str, object]:
        """What the app is told: the model and its version, and nothing about the device."""
        return {"skafos": {"model": self.model, "version": self.version}}

    @property
    def collapse_id(self) -> str:
        """Notifications with one id replace each other on a device that was away: only the last one wakes it."""
        return f"skafos.{self.model}"


class Outcome(StrEnum):
    """What became of a notification."""

    ACCEPTED = "accepted"
    """The service took it; whether and when the device wakes is up to the service."""
    GONE = "gone"
    """The token is no longer valid: the app was removed, or has another token now."""
    REFUSED = "refused"
    """The service will never take this one; the reason says why."""
    UNKNOWN = "unknown"
    """No answer came, so nobody knows; sending it again may wake a device twice, which does no harm."""


@dataclass(frozen=True, slots=True)
class Result:
    """The end of one notification.

    Args:
        outcome: in general.
        reason: the service's word for it, or ours; empty when accepted.
        gone_at: since when the token has not been valid, where the service tells. A device that registered later has
            another installation behind the same token, and is not retired.
    """

    outcome: Outcome
    reason: str = ""
    gone_at: datetime | None = None


class ChannelUnusable(Exception):
    """No notification can be sent with this credential: the sentence says what is wrong and what to do.

    Args:
        sentence: for a person.
        reason: the service's word.
    """

    def __init__(self, sentence: str, reason: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class ChannelAway(Exception):
    """The service takes nothing at the moment; the same notification may be sent later.

    Args:
        sentence: for a person.
        retry_after: seconds that the service asked for.
    """

    def __init__(self, sentence: str, retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class Channel(Protocol):
    """A push service with a credential."""

    @property
    def capacity(self) -> int:
        """Notifications that may be under way at once."""
        ...

    async def send(self, token: str, notification: Notification) -> Result:
        """Send a notification; trying again, waiting and being asked to slow down are the channel's own business.

        Raises:
            ChannelUnusable: neither this one nor any other can be sent.
            ChannelAway: it is unknown when this one can be sent.
        """
        ...

    async def close(self) -> None:
        """Give up the connections, once what is under way has been answered."""
        ...
