"""What devices tell: events go to the spool (flow 3 begins here), registrations to a stream in Redis.

Both check the key first, so that an unknown one costs a lookup and no body; then the body within its bounds; then its
meaning. 202 means that the events are durable on this machine, or that the registration is in the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Protocol

import msgspec
from aiohttp import web

from edge import metrics
from edge.batches import accepted, event_labels
from edge.body import BodyLimits, read_body
from edge.errors import Busy, Invalid, TooLarge, Unavailable
from edge.gate import Gate
from edge.manifest_cache import ManifestCache
from edge.refused_events import count_refusals
from telemetry.events import DEVICE_ID_PATTERN, Batch, BatchTooLarge, InvalidBatch, decode_batch
from telemetry.registrations import (
    MAX_FACT_CHARS,
    MAX_FACTS,
    MAX_PUSH_TOKEN_CHARS,
    Registration,
    RegistrationsUnavailable,
)
from telemetry.spool import EventLabels, SpoolClosed, SpoolFull

# The facts and a token at their bounds, each character escaped, take 15 KiB; the rest is for members of later versions.
# The bound of events would let 300,000 names through to the check of each, which takes a quarter of a second.
MAX_DEVICE_BYTES = 64 * 1024

# No control characters: not every database takes NUL, and a line break in a log is a lie waiting to happen.
_CLEAN = r"^[^\x00-\x1f\x7f]*\Z"
_FactName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,31}\Z")]
_FactValue = Annotated[str, msgspec.Meta(pattern=_CLEAN, max_length=MAX_FACT_CHARS)]
_PushToken = Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]+\Z", max_length=MAX_PUSH_TOKEN_CHARS)]
_PushService = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,15}\Z")]


class DeviceBody(msgspec.Struct, frozen=True):
    """What a device says about itself in ``PUT …/devices/{device_id}``. Unknown members are ignored."""

    facts: Annotated[dict[_FactName, _FactValue], msgspec.Meta(max_length=MAX_FACTS)] = {}
    push_token: _PushToken | None = None
    push_service: _PushService | None = None


class _DeviceId(msgspec.Struct, frozen=True):
    device_id: Annotated[str, msgspec.Meta(pattern=DEVICE_ID_PATTERN)]


class EventSpool(Protocol):
    """What is needed of the spool."""

    async def append(self, labels: EventLabels, events: bytes, received_at: datetime) -> None:
        """Return when the events are durable, or raise `SpoolFull` or `SpoolClosed`."""
        ...


class RegistrationStream(Protocol):
    """What is needed of the stream."""

    async def add(self, registration: Registration) -> None:
        """Add one, or raise `RegistrationsUnavailable`."""
        ...


class Intake:
    """The routes that take something in.

    Args:
        manifests: which keys are valid, and whose they are.
        spool: where events go.
        registrations: where registrations go.
        limits: of a request's body; a registration has at most ``MAX_DEVICE_BYTES``.
        max_posts: bodies read and stored at once.
        redis_seconds: longest wait for Redis.
        now: the wall clock, with its zone.
    """

    def __init__(
        self,
        manifests: ManifestCache,
        spool: EventSpool,
        registrations: RegistrationStream,
        *,
        limits: BodyLimits,
        max_posts: int,
        redis_seconds: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._manifests = manifests
        self._spool = spool
        self._registrations = registrations
        self._limits = limits
        self._device_limits = replace(limits, max_bytes=min(limits.max_bytes, MAX_DEVICE_BYTES))
        self._redis_seconds = redis_seconds
        self._now = now
        self._gate = Gate("posts", max_posts, lambda: Busy("Too many requests at once; come back shortly."))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """``POST /v2/environments/{key}/events``."""
        environment = self._manifests.require(request.match_info["key"])
        with self._gate.enter():
            received_at = self._now()
            batch = _decode(await read_body(request, self._limits), request.headers.get("Content-Type"))
            if batch.count:
                await self._store(event_labels(environment.labels), batch, received_at)
        metrics.EVENTS.labels("accepted").inc(batch.count)
        metrics.EVENTS.labels("refused").inc(batch.refused_count)
        for word, events in count_refusals(batch.refused, batch.refused_count).items():
            metrics.EVENTS_REFUSED.labels(word).inc(events)
        return _accepted(batch)

    async def _store(self, labels: EventLabels, batch: Batch, received_at: datetime) -> None:
        try:
            await self._spool.append(labels, batch.raw, received_at)
        except (SpoolFull, SpoolClosed):
            metrics.EVENTS.labels("spool_full").inc(batch.count)
            raise Unavailable("Events cannot be stored at the moment; keep them and come back.", "spool_full") from None

    async def register(self, request: web.Request) -> web.StreamResponse:
        """``PUT /v2/environments/{key}/devices/{device_id}``."""
        key = request.match_info["key"]
        environment = self._manifests.require(key)
        device_id = _device_id(request.match_info["device_id"])
        with self._gate.enter():
            body = _decode_device(await read_body(request, self._device_limits))
            registration = Registration(
                device_id=device_id,
                environment_id=environment.labels.environment_id,
                key=key,
                registered_at=self._now().timestamp(),
                facts=body.facts,
                push_token=body.push_token,
                push_service=body.push_service,
            )
            await self._add(registration)
        return web.json_response({"registered": device_id}, status=202, headers={"Cache-Control": "no-store"})

    async def _add(self, registration: Registration) -> None:
        try:
            async with asyncio.timeout(self._redis_seconds):
                await self._registrations.add(registration)
        except (RegistrationsUnavailable, TimeoutError):
            metrics.REGISTRATIONS.labels("unavailable").inc()
            raise Unavailable("Registrations cannot be stored at the moment; come back.") from None
        metrics.REGISTRATIONS.labels("accepted").inc()


def _decode(body: bytes, content_type: str | None) -> Batch:
    try:
        return decode_batch(body, content_type)
    except BatchTooLarge as error:
        metrics.BATCHES_REFUSED.labels(error.code).inc()
        raise TooLarge(f"{error}.".capitalize(), error.code) from None
    except InvalidBatch as error:
        metrics.BATCHES_REFUSED.labels(error.code).inc()
        raise Invalid(f"The batch cannot be read: {error}.", error.code) from None


def _accepted(batch: Batch) -> web.Response:
    refused = [{"index": one.index, "reason": one.reason} for one in batch.refused]
    told = accepted(batch.count, refused, batch.refused_count)
    return web.json_response(told, status=202, headers={"Cache-Control": "no-store"})


def _device_id(text: str) -> str:
    try:
        return msgspec.convert({"device_id": text}, _DeviceId).device_id
    except (msgspec.ValidationError, UnicodeEncodeError):
        raise Invalid("A device id has 1 to 64 letters, digits and . _ : -", "invalid_device_id") from None


_DEVICE = msgspec.json.Decoder(DeviceBody)


def _decode_device(body: bytes) -> DeviceBody:
    try:
        return _DEVICE.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"The device's facts cannot be read: {error}.", "invalid_device") from None
