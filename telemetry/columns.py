"""From spooled records to the columns of ``raw_events``: the only place that knows both the wire and the table.

The events were checked when they were accepted, so they are read into a form that costs little: an id stays text until
all ids are turned into bytes together, and so do times. What is out of the ordinary takes the long way, the same one as
at acceptance, for its chunk alone.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from telemetry.events import MAX_DURATION_MS, Count, Event, InvalidBatch, VersionNumber, decode_events
from telemetry.native import Coded, Column, Nullable, Numbers, joined, taken
from telemetry.segment import Record

MAX_ERROR_KEPT: Final = 300
"""Characters of an error that are stored. Errors are grouped by, so a long tail of texts would cost every question."""

COLUMN_TYPES: Final = {
    "organization_id": "LowCardinality(String)",
    "application_id": "LowCardinality(String)",
    "environment": "LowCardinality(String)",
    "model": "LowCardinality(String)",
    "type": "LowCardinality(String)",
    "device_id": "String",
    "event_id": "UUID",
    "day": "Date",
    "received_at": "DateTime('UTC')",
    "arrival": "UInt64",
    "occurred_at": "DateTime('UTC')",
    "version": "Nullable(UInt32)",
    "from_version": "Nullable(UInt32)",
    "bytes": "Nullable(UInt64)",
    "full_bytes": "Nullable(UInt64)",
    "duration_ms": "Nullable(UInt32)",
    "encoding": "LowCardinality(String)",
    "error": "String",
    "os": "LowCardinality(String)",
    "os_version": "LowCardinality(String)",
    "device_model": "LowCardinality(String)",
    "app_version": "LowCardinality(String)",
    "locale": "LowCardinality(String)",
    "organization": "LowCardinality(String)",
    "application": "LowCardinality(String)",
}
"""The columns of ``raw_events`` and their types, in the order of ``EventColumns.values``."""
COLUMNS: Final = tuple(COLUMN_TYPES)

ARRIVALS_PER_MS: Final = 1_000
"""``arrival`` = received milliseconds times this, plus the event's place in its batch (which has at most so many)."""

CHUNK_EVENTS: Final = 4_096
"""Events that exist as objects at a time: they fit into a core's cache, and their memory (some 5 MB) is used again."""

_OF_THE_SENDER: Final = ("organization_id", "application_id", "environment", "organization", "application")
_OF_THE_DEVICE: Final = tuple(
    name for name, kind in COLUMN_TYPES.items() if "String" in kind and name not in _OF_THE_SENDER
)
_SORTED_BY: Final = ("organization_id", "application_id", "environment", "model", "type", "device_id")
"""The sorting key of ``raw_events``, up to the event's id."""
_LARGEST_KEY: Final = 2**40
"""Beyond it the places that are taken are numbered anew, so that 22 bits are left for the event's id."""
_LAST_SECOND: Final = 2**32 - 1
_SECONDS_A_DAY: Final = 86_400
_EXACT_FLOATS: Final = 2.0**53
"""From here on a float does not hold every whole number."""
_WITHOUT_FRACTION: Final = f"S{len('2026-05-14T12:00:00')}"
_UUID_CHARS: Final = 36
_HYPHENS: Final = [8, 13, 18, 23]
_HEX_DIGITS: Final = [place for place in range(_UUID_CHARS) if place not in _HYPHENS]


@dataclass(frozen=True, slots=True)
class EventColumns:
    """Events column by column: ``values[i]`` belongs to ``COLUMNS[i]``; all of one length, ``count``."""

    values: tuple[Column, ...]
    count: int

    def by_name(self) -> dict[str, Column]:
        """Return the columns by their names, in their order."""
        return dict(zip(COLUMNS, self.values, strict=True))

    def first_arrival(self) -> float:
        """Return when the first of them was received, in seconds since 1970 (UTC); there must be one."""
        arrivals = self.by_name()["arrival"]
        assert isinstance(arrivals, np.ndarray)
        return int(arrivals.min()) / (1000 * ARRIVALS_PER_MS)

    def rows(self, places: NDArray[np.intp]) -> EventColumns:
        """Return the events at some places, in their order."""
        return EventColumns(tuple(taken(column, places) for column in self.values), len(places))


class _Spooled(msgspec.Struct, frozen=True, gc=False):
    """An accepted event, as far as it is stored: with the bounds of the numbers, which a column's width relies on."""

    event_id: str
    type: str
    occurred_at: str | float
    device_id: str
    model: str | None = None
    version: VersionNumber | None = None
    from_version: VersionNumber | None = None
    bytes: Count | None = None
    full_bytes: Count | None = None
    duration_ms: Annotated[float, msgspec.Meta(ge=0, le=MAX_DURATION_MS)] | None = None
    encoding: str | None = None
    error: str | None = None
    os: str | None = None
    os_version: str | None = None
    device_model: str | None = None
    app_version: str | None = None
    locale: str | None = None


_EVENTS: Final = msgspec.json.Decoder(list[_Spooled])


def event_columns(records: Iterable[Record]) -> EventColumns:
    """Turn spooled records into columns.

    Raises:
        InvalidBatch: a record's events cannot be decoded.
    """
    codes = {name: _Codes() for name in (*_OF_THE_SENDER, *_OF_THE_DEVICE)}
    try:
        parts = [_chunk_columns(chunk, codes) for chunk in _chunks(records)] or [_chunk_columns(_Chunk(), codes)]
    except (ArithmeticError, ValueError) as error:  # such as a time of arrival that no edge would write
        raise InvalidBatch(str(error)) from None
    columns = {name: joined([part[name] for part in parts]) for name in COLUMNS}
    order = _sorting_order(columns)
    return EventColumns(tuple(columns.values()), len(order)).rows(order)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some records, and their events in order: ``counts[i]`` of them are those of ``records[i]``."""

    records: list[Record] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    events: list[_Spooled] = field(default_factory=list)

    def each(self, name: str) -> list[Any]:
        """Return one field of every event."""
        return list(map(attrgetter(name), self.events))

    def spread(self, of_records: Iterable[int]) -> NDArray[np.int64]:
        """Return a number of each record, once for each of its events."""
        return np.repeat(np.fromiter(of_records, np.int64, len(self.records)), self.counts)

    def places(self) -> NDArray[np.int64]:
        """Return the place of every event in its batch, from 0."""
        ends = np.cumsum(self.counts, dtype=np.int64)
        return np.arange(len(self.events), dtype=np.int64) - np.repeat(ends - self.counts, self.counts)

    def the_long_way(self) -> Iterator[Event]:
        """Decode the events once more, as they were decoded when they were accepted."""
        return (event for record in self.records for event in decode_events(record.events))


def _chunks(records: Iterable[Record]) -> Iterator[_Chunk]:
    chunk = _Chunk()
    for record in records:
        try:
            events = _EVENTS.decode(record.events)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidBatch(f"not an array of events: {error}") from None
        chunk.records.append(record)
        chunk.counts.append(len(events))
        chunk.events.extend(events)
        if len(chunk.events) >= CHUNK_EVENTS:
            yield chunk
            chunk = _Chunk()
    if chunk.events:
        yield chunk


class _Codes(dict[str | None, int]):
    """A number for each different text, given at the first look; what was left out is the empty text.

    No text is longer than ``MAX_ERROR_KEPT``: errors are cut off there, and all else is shorter anyway.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __missing__(self, text: str | None) -> int:
        kept = (text or "")[:MAX_ERROR_KEPT]
        if kept == text:
            code = len(self.texts)
            self.texts.append(text)
        else:
            code = self[kept]
        self[text] = code
        return code


def _chunk_columns(chunk: _Chunk, codes: Mapping[str, _Codes]) -> dict[str, Column]:
    received_ms = chunk.spread(record.received_ms for record in chunk.records)
    received = received_ms // 1000
    columns: dict[str, Column] = {
        "event_id": _event_ids(chunk),
        "day": (received // _SECONDS_A_DAY).astype(np.uint16),
        "received_at": received.astype(np.uint32),
        "arrival": (received_ms * ARRIVALS_PER_MS + chunk.places()).astype(np.uint64),
        "occurred_at": _occurred(chunk),
        "version": _numbers(chunk.each("version"), np.uint32),
        "from_version": _numbers(chunk.each("from_version"), np.uint32),
        "bytes": _numbers(chunk.each("bytes"), np.uint64),
        "full_bytes": _numbers(chunk.each("full_bytes"), np.uint64),
        "duration_ms": _numbers(chunk.each("duration_ms"), np.uint32),
    }
    for name in _OF_THE_SENDER:
        known = codes[name]
        of_records = (known[getattr(record.labels, name)] for record in chunk.records)
        columns[name] = Coded(chunk.spread(of_records), known.texts)
    for name in _OF_THE_DEVICE:
        known, texts = codes[name], chunk.each(name)
        columns[name] = Coded(np.fromiter(map(known.__getitem__, texts), np.int64, len(texts)), known.texts)
    return columns


def _event_ids(chunk: _Chunk) -> Numbers:
    """Return ids as ClickHouse holds them: two numbers of 64 bits, the upper one first."""
    ids = chunk.each("event_id")
    try:
        digits = np.frombuffer("".join(ids).encode("ascii"), np.uint8).reshape(len(ids), _UUID_CHARS)
        if (digits[:, _HYPHENS] != ord("-")).any():
            raise ValueError
        data = binascii.unhexlify(digits[:, _HEX_DIGITS].tobytes())
    except ValueError:  # an id may come without its hyphens
        data = b"".join(event.event_id.bytes for event in chunk.the_long_way())
    return np.frombuffer(data, ">u8").astype(np.uint64).reshape(-1, 2)


def _occurred(chunk: _Chunk) -> Numbers:
    """Return devices' times in whole seconds since 1970 (UTC), kept within what ClickHouse can hold."""
    moments = chunk.each("occurred_at")
    try:
        if not _all_in_utc("".join(moments), len(moments)):
            raise ValueError
        seconds = np.array(moments, dtype=_WITHOUT_FRACTION).astype("datetime64[s]").astype(np.int64)
    except (TypeError, ValueError):  # a number, or a time of another zone
        seconds = np.array([event.occurred_unix() for event in chunk.the_long_way()], np.int64)
    return np.clip(seconds, 0, _LAST_SECOND).astype(np.uint32)


def _all_in_utc(moments: str, count: int) -> bool:
    """Tell whether so many times of RFC 3339 all end in ``Z``: those of other zones have a sign there, or nothing."""
    return moments.count("Z") == count and moments.count("-") == 2 * count and "+" not in moments


def _numbers(values: Sequence[float | None], kind: type[np.unsignedinteger[Any]]) -> Nullable:
    """Return numbers, some of which are missing, rounded to whole ones."""
    floats = np.array(values, np.float64)  # None becomes NaN
    missing = np.isnan(floats)
    floats[missing] = 0
    if floats.max(initial=0) >= _EXACT_FLOATS:
        return Nullable(np.array([value or 0 for value in values], kind), missing.view(np.uint8))
    return Nullable(np.rint(floats).astype(kind), missing.view(np.uint8))


def _sorting_order(columns: Mapping[str, Column]) -> NDArray[np.intp]:
    """Return the order of the rows by the table's sorting key.

    The server finds that they are sorted and does not sort them itself, by comparing texts, which takes it three times
    as long as all the rest of storing them. An order that is not quite the server's own costs that time and no more.
    """
    texts = [column for column in map(columns.__getitem__, _SORTED_BY) if isinstance(column, Coded)]
    key = np.zeros(len(texts[0].codes), np.int64)
    different = 1
    for column in texts:
        if different * len(column.texts) > _LARGEST_KEY:
            used, key = np.unique(key, return_inverse=True)
            different = len(used)
        different *= max(len(column.texts), 1)
        key = key * max(len(column.texts), 1) + column.ranks()
    # Last comes the event's id, of which the second half leads (ClickHouse's documentation of UUID): what fits of it.
    room = 63 - different.bit_length()
    ids = columns["event_id"]
    assert isinstance(ids, np.ndarray)
    return np.argsort(key << room | (ids[:, 1] >> np.uint64(64 - room)).astype(np.int64))
