"""Device registrations on their way from the edges to the control plane: one bounded Redis stream.

An edge adds, the control plane consumes in a group and acknowledges what it has stored: at least once, so storing must
be idempotent (the last registration of a device wins). What a consumer took and never acknowledged, because it died, is
claimed by the next one after ``CLAIM_IDLE_MS``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import msgspec
import structlog
from redis.exceptions import RedisError, ResponseError

from telemetry import metrics
from telemetry.cancellation import heed_cancellation
from telemetry.events import DEVICE_ID_PATTERN

if TYPE_CHECKING:
    from redis.asyncio import Redis

STREAM: Final = "skafos:registrations"
MAX_STREAM_LENGTH: Final = 200_000
"""About 100 MB of Redis at 500 bytes each. A control plane that stays away for longer than that loses the oldest; a
device registers again at its next start, so nothing is lost for good."""
READ_COUNT: Final = 1_000
"""Registrations stored in one transaction: large enough that its flush and its messages cost little of it, small enough
to be done again."""
BLOCK_MS: Final = 1_000
"""How long one read waits for news; also how soon a stop is noticed."""
CLAIM_IDLE_MS: Final = 30_000
"""A consumer that holds entries this long without acknowledging is taken for dead; storing takes milliseconds."""
MAX_FACTS: Final = 16
MAX_FACT_CHARS: Final = 100
MAX_PUSH_TOKEN_CHARS: Final = 512
"""APNs tokens have 64 to 200 characters today; Apple asks not to assume a size."""

_FIELD: Final = "registration"

log = structlog.get_logger(__name__)

EntryId: TypeAlias = bytes | str
Entry: TypeAlias = tuple[EntryId, Mapping[Any, Any] | None]
FactText = Annotated[str, msgspec.Meta(max_length=MAX_FACT_CHARS)]


class RegistrationsUnavailable(Exception):
    """Redis cannot be reached, or refuses; try again later."""


class Registration(msgspec.Struct, frozen=True):
    """What a device says about itself. ``registered_at``: the server's clock, seconds since 1970 (UTC)."""

    device_id: Annotated[str, msgspec.Meta(pattern=DEVICE_ID_PATTERN)]
    environment_id: str
    key: str
    registered_at: float
    facts: Annotated[Mapping[FactText, FactText], msgspec.Meta(max_length=MAX_FACTS)] = {}
    push_token: Annotated[str, msgspec.Meta(max_length=MAX_PUSH_TOKEN_CHARS)] | None = None
    push_service: FactText | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """Some registrations to store, and the entries to acknowledge after that (unreadable ones among them)."""

    registrations: tuple[Registration, ...]
    entry_ids: tuple[EntryId, ...] = field(repr=False)


_DECODER = msgspec.json.Decoder(Registration)


class Registrations:
    """The stream, for both sides.

    Args:
        redis: an asyncio client (single, Sentinel or Cluster).
        max_length: bound of the stream, in entries (kept approximately, as Redis trims whole nodes).
    """

    def __init__(self, redis: Redis, max_length: int = MAX_STREAM_LENGTH) -> None:
        self._redis: Any = redis
        self._max_length = max_length

    async def add(self, registration: Registration) -> None:
        """Put one registration into the stream.

        Raises:
            RegistrationsUnavailable: Redis did not take it.
        """
        try:
            await self._redis.xadd(
                STREAM, {_FIELD: msgspec.json.encode(registration)}, maxlen=self._max_length, approximate=True
            )
        except RedisError as error:
            raise RegistrationsUnavailable(f"Redis did not take the registration: {type(error).__name__}") from error
        metrics.REGISTRATIONS.inc()

    async def consume(self, group: str, consumer: str) -> AsyncIterator[Delivery]:
        """Yield deliveries until the caller stops: first what dead consumers left, then news, over and over.

        The caller stores a delivery and then calls ``acknowledge``. Without that it comes again.

        Args:
            group: the consumers' common name.
            consumer: this consumer's own name; a restarted one may take its old name again.

        Raises:
            RegistrationsUnavailable: Redis went away; start again after a pause.
        """
        await self._ensure_group(group)
        async for delivery in self._left_over(group, consumer):
            yield delivery
        while True:
            if await self._claim(group, consumer):
                async for delivery in self._left_over(group, consumer):
                    yield delivery
            news = await self._read(group, consumer, ">", BLOCK_MS)
            if news:
                yield _delivery(news)
            heed_cancellation()

    async def acknowledge(self, group: str, delivery: Delivery) -> None:
        """Tell that a delivery is stored; its entries leave the stream.

        Raises:
            RegistrationsUnavailable: Redis went away; the delivery will come again.
        """
        # There is one group, so what it has stored needs no place any more. In one transaction: what was acknowledged
        # and not deleted would stay until the stream is full.
        async with self._redis.pipeline(transaction=True) as both:
            both.xack(STREAM, group, *delivery.entry_ids)
            both.xdel(STREAM, *delivery.entry_ids)
            await self._call("XACK", both.execute())

    async def _left_over(self, group: str, consumer: str) -> AsyncIterator[Delivery]:
        """What this name holds and never acknowledged: what the consumer before us died with, or what was claimed."""
        last: EntryId = "0"
        while entries := await self._read(group, consumer, last, None):
            last = entries[-1][0]
            yield _delivery(entries)

    async def _claim(self, group: str, consumer: str) -> bool:
        """Make what a dead consumer holds this one's; tell whether there was any.

        By id alone: before Redis 7 an entry that was trimmed from the stream meanwhile comes without its id otherwise
        (XAUTOCLAIM, "History"), and could never be acknowledged.
        """
        reply = await self._in_group(
            group,
            lambda: self._redis.xautoclaim(
                STREAM, group, consumer, min_idle_time=CLAIM_IDLE_MS, start_id="0-0", count=READ_COUNT, justid=True
            ),
        )
        return bool(reply)

    async def _read(self, group: str, consumer: str, after: EntryId, block_ms: int | None) -> list[Entry]:
        reply = await self._in_group(
            group,
            lambda: self._redis.xreadgroup(group, consumer, {STREAM: after}, count=READ_COUNT, block=block_ms),
        )
        return _entries(reply)

    async def _in_group(self, group: str, command: Callable[[], Awaitable[Any]]) -> Any:
        """Run a command of the group; make the group again when Redis was emptied meanwhile."""
        try:
            return await command()
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise RegistrationsUnavailable(f"Redis refused to read registrations: {error}") from error
        except RedisError as error:
            raise RegistrationsUnavailable(f"Redis went away: {type(error).__name__}") from error
        await self._ensure_group(group)
        return await self._call("reading", command())

    async def _ensure_group(self, group: str) -> None:
        try:
            await self._redis.xgroup_create(STREAM, group, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise RegistrationsUnavailable(f"Redis refused the group: {error}") from error
        except RedisError as error:
            raise RegistrationsUnavailable(f"Redis went away: {type(error).__name__}") from error

    async def _call(self, what: str, reply: Awaitable[Any]) -> Any:
        try:
            return await reply
        except RedisError as error:
            raise RegistrationsUnavailable(f"{what} failed: {type(error).__name__}") from error


def _entries(reply: Any) -> list[Entry]:
    """Return the entries of our one stream from a reply of either protocol version.

    RESP2 answers a list of (stream, entries), RESP3 a mapping of stream to a list of lists.
    """
    if not reply:
        return []
    if isinstance(reply, Mapping):
        return [entry for chunk in next(iter(reply.values())) for entry in chunk]
    return list(reply[0][1])


def _delivery(entries: Sequence[Entry]) -> Delivery:
    decoded = (_decode(entry_id, fields) for entry_id, fields in entries)
    return Delivery(tuple(one for one in decoded if one is not None), tuple(entry_id for entry_id, _ in entries))


def _decode(entry_id: EntryId, fields: Mapping[Any, Any] | None) -> Registration | None:
    if not fields:  # trimmed from the stream while it was pending
        return None
    try:
        return _DECODER.decode(next(iter(fields.values())))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("registration_unreadable", entry=str(entry_id), reason=str(error))
        return None
