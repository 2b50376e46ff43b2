"""Device events as they come over the wire: the fields, their bounds, and the decoding of a batch.

A batch is checked once, here, when a device hands it in. What passes goes on as JSON, byte for byte where possible, so
that fields this version does not know survive the spool. An unknown *type* is kept too: a newer client must not lose
its events to an older server. Anything that could grow without bound (text, numbers, counts) has a bound below.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from operator import attrgetter
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec

EVENT_TYPES: Final = ("check", "download", "verify", "activate", "error", "register")
"""The types this version knows. Others are kept when they look like a type (``TYPE_PATTERN``)."""

MAX_TYPE_CHARS: Final = 32
MAX_DEVICE_ID_CHARS: Final = 64
TYPE_PATTERN: Final = rf"^[a-z][a-z0-9_]{{0,{MAX_TYPE_CHARS - 1}}}\Z"
DEVICE_ID_PATTERN: Final = rf"^[A-Za-z0-9._:-]{{1,{MAX_DEVICE_ID_CHARS}}}\Z"
"""Device ids are random per installation; a UUID needs 36 characters."""

MAX_EVENTS_PER_BATCH: Final = 1_000
"""A device that was offline for a month reports some hundred events; a thousand are decoded in under 2 ms."""
MAX_BATCH_BYTES: Final = 2 * 1024 * 1024
"""A thousand events of 650 bytes (the measured size of a full event), three times over."""
MAX_NAME_CHARS: Final = 100
"""Model, encoding, OS, OS version, device model, app version, locale: names, never sentences."""
MAX_ERROR_CHARS: Final = 4_096
"""An exception's text is accepted up to this length, so that no failure goes unreported for being wordy."""
MAX_VERSION: Final = 2**32 - 1
MAX_BYTES: Final = 2**63 - 1
MAX_DURATION_MS: Final = 2**32 - 1
MAX_REASONS_PER_BATCH: Final = 100
"""Refusals named in an answer; the rest are only counted, so that an answer is never larger than its request."""
MAX_HALVES_MENDED: Final = 10_000
"""Halves of surrogate pairs that are put right, ten an event; replacing all that fit into a batch would take 0.2 s."""

_FIRST_SECOND: Final = 0
_LAST_SECOND: Final = 2**32 - 1
"""ClickHouse's DateTime spans 1970 to 2106; a device clock outside of it is kept as the nearest end."""

Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME_CHARS)]
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_BYTES)]
VersionNumber = Annotated[int, msgspec.Meta(ge=0, le=MAX_VERSION)]


class InvalidBatch(ValueError):
    """The body as a whole is no batch of events: neither a JSON array nor NDJSON."""

    code = "invalid_batch"


class BatchTooLarge(InvalidBatch):
    """The body has more bytes or more events than a batch may have."""

    code = "batch_too_large"


class Event(msgspec.Struct, frozen=True, gc=False):
    """One device event. ``version`` is the version the event is about, by type.

    ``check``: the version the device holds now (absent: none). ``activate``: the version now in place. ``download``,
    ``verify``, ``error``: the version that was tried, and ``from_version`` is the one still held. ``occurred_at`` is
    the device's own clock (RFC 3339, or seconds since 1970) and may be wrong; days are counted by the server's clock.

    ``type`` and ``device_id`` have patterns as well. `decode_batch` looks at each different one once: for every event
    it would take as long as all the rest.
    """

    event_id: UUID
    type: Annotated[str, msgspec.Meta(max_length=MAX_TYPE_CHARS)]
    occurred_at: datetime | float
    device_id: Annotated[str, msgspec.Meta(max_length=MAX_DEVICE_ID_CHARS)]
    model: Name | None = None
    version: VersionNumber | None = None
    from_version: VersionNumber | None = None
    bytes: Count | None = None
    full_bytes: Count | None = None
    duration_ms: Annotated[float, msgspec.Meta(ge=0, le=MAX_DURATION_MS)] | None = None
    encoding: Name | None = None
    error: Annotated[str, msgspec.Meta(max_length=MAX_ERROR_CHARS)] | None = None
    os: Name | None = None
    os_version: Name | None = None
    device_model: Name | None = None
    app_version: Name | None = None
    locale: Name | None = None

    def occurred_unix(self) -> int:
        """Return the device's time in whole seconds since 1970 (UTC), kept within what ClickHouse can hold."""
        return _bounded_seconds(self.occurred_at)


def _bounded_seconds(moment: datetime | float) -> int:
    if isinstance(moment, datetime):
        # A time without an offset is read as UTC: the device left out what RFC 3339 asks for.
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    else:
        seconds = float(moment)
    if not math.isfinite(seconds):
        return _FIRST_SECOND
    return int(min(max(seconds, _FIRST_SECOND), _LAST_SECOND))


@dataclass(frozen=True, slots=True)
class Refused:
    """One event of a batch that was not accepted: its place (from 0) and why."""

    index: int
    reason: str


class Batch(msgspec.Struct, frozen=True):
    """A decoded batch.

    Attributes:
        count: of accepted events.
        raw: the accepted events as one JSON array, in the order the device gave them and with the fields this version
            does not know; this goes to the spool.
        refused: the first refusals (at most ``MAX_REASONS_PER_BATCH``).
        refused_count: all refusals.
    """

    count: int
    raw: bytes
    refused: tuple[Refused, ...] = ()
    refused_count: int = 0


class _CheckedEvent(Event, frozen=True, gc=False, kw_only=True):
    """An event whose patterns the decoder looks at, so that it says what is wrong with them."""

    type: Annotated[str, msgspec.Meta(pattern=TYPE_PATTERN)]
    device_id: Annotated[str, msgspec.Meta(pattern=DEVICE_ID_PATTERN)]


_EVENTS = msgspec.json.Decoder(list[Event])
_CHECKED_EVENT = msgspec.json.Decoder(_CheckedEvent)
_KIND: Final = attrgetter("type")
_DEVICE: Final = attrgetter("device_id")
_KNOWN_TYPES: Final = frozenset(EVENT_TYPES)
_TYPE: Final = re.compile(TYPE_PATTERN)
_DEVICE_ID: Final = re.compile(DEVICE_ID_PATTERN)
# An array with so many places is given up at the first item too many, where a list would hold a million of them first.
_ITEMS: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
    msgspec.defstruct(
        "_Items",
        [(f"item_{place}", msgspec.Raw, msgspec.Raw()) for place in range(MAX_EVENTS_PER_BATCH)],
        array_like=True,
        forbid_unknown_fields=True,
    )
)
_LINE: Final = re.compile(rb"\S[^\n]*")
_HIGH: Final = rb"\\u[dD][89abAB][0-9a-fA-F]{2}"
_LOW: Final = rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_HALF_PAIR: Final = re.compile(rb"\\(?<!\\\\)((?:\\\\)*)(?:%b(?!%b)|(?<!%b\\)%b)" % (_HIGH[2:], _LOW, _HIGH, _LOW[2:]))
"""Half of a surrogate pair, which is an escape: an even number of backslashes stands in front of it. The pattern begins
with a plain character, for which ``re`` has a quick search."""

_JSON_TYPES: Final = frozenset({"application/json", "text/json"})
_NDJSON_TYPES: Final = frozenset(
    {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}
)


def decode_batch(body: bytes, content_type: str | None = None) -> Batch:
    """Decode and check a batch of events.

    Args:
        body: the request's body, already decompressed.
        content_type: ``application/json`` is an array, ``application/x-ndjson`` one event a line; without one, or with
            another, the first character tells.

    Raises:
        BatchTooLarge: more than ``MAX_BATCH_BYTES`` bytes or ``MAX_EVENTS_PER_BATCH`` events.
        InvalidBatch: the body is no JSON array and no NDJSON. One bad event is refused alone and raises nothing.
    """
    if len(body) > MAX_BATCH_BYTES:
        raise BatchTooLarge(f"a batch has at most {MAX_BATCH_BYTES} bytes")
    try:
        if _is_lines(body, content_type):
            # Good lines are good items; what is not, with its blank lines and its many, is looked at closely.
            whole = _decode_whole(b"[%b]" % body.strip().replace(b"\n", b","))
            if whole is not None:
                return whole
            array = _joined_lines(body)
        else:
            array = _checked_array(body)
        return _decode_whole(array) or _decode_whole(array := _mended(array)) or _decode_each(array)
    except RecursionError:
        raise InvalidBatch("the JSON is nested too deeply") from None


def decode_events(raw: bytes) -> list[Event]:
    """Decode what ``Batch.raw`` holds.

    Raises:
        InvalidBatch: the bytes are not an array of valid events.
    """
    try:
        return _EVENTS.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidBatch(f"not an array of events: {error}") from None


def _is_lines(body: bytes, content_type: str | None) -> bool:
    if content_type in _JSON_TYPES:  # as nearly everybody writes it
        return False
    kind = (content_type or "").partition(";")[0].strip().lower()
    return kind in _NDJSON_TYPES or (kind not in _JSON_TYPES and body.lstrip()[:1] == b"{")


def _joined_lines(body: bytes) -> bytes:
    # One more than may be is enough to tell: a small body may swell to a million lines.
    lines = [line.group() for line in islice(_LINE.finditer(body), MAX_EVENTS_PER_BATCH + 1)]
    _check_count(len(lines))
    return b"[" + b",".join(lines) + b"]"


def _checked_array(body: bytes) -> bytes:
    if body.lstrip()[:1] != b"[":
        raise InvalidBatch("a batch is a JSON array of events, or NDJSON with the content type application/x-ndjson")
    return body


def _mended(array: bytes) -> bytes:
    """Put U+FFFD in the place of every half of a surrogate pair.

    A client whose texts are UTF-16 makes one by cutting a text off. The grammar allows it (RFC 8259 section 8.2), the
    decoder takes the whole batch for broken.
    """
    return _HALF_PAIR.sub(rb"\\\1ufffd", array, count=MAX_HALVES_MENDED)


def _decode_whole(array: bytes) -> Batch | None:
    """Decode a batch in which every event is good, the common case, in one pass; None when some event is not."""
    try:
        events = _EVENTS.decode(array)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    _check_count(len(events))
    types = set(map(_KIND, events))
    if not (types <= _KNOWN_TYPES or all(map(_TYPE.match, types))):
        return None
    if not all(map(_DEVICE_ID.match, set(map(_DEVICE, events)))):
        return None
    return Batch(len(events), array)


def _decode_each(array: bytes) -> Batch:
    kept: list[bytes] = []
    refused: list[Refused] = []
    for index, item in enumerate(_items(array)):
        reason = _wrong_with(item)
        if reason is None:
            kept.append(item)
        else:
            refused.append(Refused(index, reason))
    return Batch(len(kept), b"[" + b",".join(kept) + b"]", tuple(refused[:MAX_REASONS_PER_BATCH]), len(refused))


def _items(array: bytes) -> list[bytes]:
    try:
        items = msgspec.structs.astuple(_ITEMS.decode(array))
    except msgspec.ValidationError:  # it is an array, of anything
        raise _too_many() from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidBatch(f"the body is not valid JSON: {error}") from None
    return [bytes(item) for item in items if item]


def _wrong_with(item: bytes) -> str | None:
    try:
        _CHECKED_EVENT.decode(item)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # The array around it was well-formed, so a text that is no UTF-8 spoils this event alone.
        return str(error)
    return None


def _check_count(count: int) -> None:
    if count > MAX_EVENTS_PER_BATCH:
        raise _too_many()


def _too_many() -> BatchTooLarge:
    return BatchTooLarge(f"a batch has at most {MAX_EVENTS_PER_BATCH} events")
