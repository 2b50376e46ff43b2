"""From spooled records to the columns of ``raw_events``: the only place that knows both the wire and the table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

from telemetry.events import Event, decode_events
from telemetry.segment import EventLabels, Record

MAX_ERROR_KEPT: Final = 300
"""Characters of an error that are stored. Errors are grouped by, so a long tail of texts would cost every question."""

COLUMNS: Final = (
    "organization_id",
    "application_id",
    "environment",
    "model",
    "type",
    "device_id",
    "event_id",
    "day",
    "received_at",
    "arrival",
    "occurred_at",
    "version",
    "from_version",
    "bytes",
    "full_bytes",
    "duration_ms",
    "encoding",
    "error",
    "os",
    "os_version",
    "device_model",
    "app_version",
    "locale",
    "organization",
    "application",
)
"""The columns of ``raw_events``, in the order of ``EventColumns.values``."""

ARRIVALS_PER_MS: Final = 1_000
"""``arrival`` = received milliseconds times this, plus the event's place in its batch (which has at most so many)."""


@dataclass(frozen=True, slots=True)
class EventColumns:
    """Events column by column: ``values[i]`` belongs to ``COLUMNS[i]``; all of one length, ``count``."""

    values: tuple[list[Any], ...]
    count: int


def event_columns(records: Iterable[Record]) -> EventColumns:
    """Turn spooled records into columns.

    Raises:
        InvalidBatch: a record's events cannot be decoded.
    """
    rows = [row for record in records for row in _rows(record)]
    values = tuple(list(column) for column in zip(*rows, strict=True)) if rows else tuple([] for _ in COLUMNS)
    return EventColumns(values, len(rows))


def _rows(record: Record) -> list[tuple[Any, ...]]:
    seconds = record.received_ms // 1000
    day = datetime.fromtimestamp(seconds, UTC).date()
    first = record.received_ms * ARRIVALS_PER_MS
    return [
        _row(record.labels, event, day, seconds, first + place)
        for place, event in enumerate(decode_events(record.events))
    ]


def _row(labels: EventLabels, event: Event, day: date, received: int, arrival: int) -> tuple[Any, ...]:
    return (
        labels.organization_id,
        labels.application_id,
        labels.environment,
        event.model or "",
        event.type,
        event.device_id,
        event.event_id,
        day,
        received,
        arrival,
        event.occurred_unix(),
        event.version,
        event.from_version,
        event.bytes,
        event.full_bytes,
        None if event.duration_ms is None else round(event.duration_ms),
        event.encoding or "",
        (event.error or "")[:MAX_ERROR_KEPT],
        event.os or "",
        event.os_version or "",
        event.device_model or "",
        event.app_version or "",
        event.locale or "",
        labels.organization,
        labels.application,
    )
