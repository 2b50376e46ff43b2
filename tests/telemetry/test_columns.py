"""Columns of events: the quick way and the long way end in the same rows, sorted as the table is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry import columns as module
from telemetry.columns import COLUMNS, MAX_ERROR_KEPT, EventColumns, event_columns
from telemetry.events import MAX_BYTES, MAX_DURATION_MS, MAX_VERSION, InvalidBatch, decode_events
from telemetry.native import Coded, Nullable
from telemetry.segment import Record
from tests.telemetry.samples import NOON, event, labels, record

NAMES = ("model", "type", "encoding", "os", "os_version", "device_model", "app_version", "locale")
TEXT = st.none() | st.sampled_from(["", "a", "b", "ü"]) | st.text(max_size=100)
MOMENTS = (
    st.datetimes(datetime(1960, 1, 1), datetime(2120, 1, 1)).map(lambda at: at.isoformat() + "Z")
    | st.sampled_from(["2026-05-14T11:59:58+02:00", "2026-05-14T11:59:58", "2026-05-14 11:59:58.999Z"])
    | st.floats(-1e12, 1e12)
    | st.integers(0, 2**33)
)
EVENTS = st.fixed_dictionaries(
    {
        "event_id": st.uuids().map(str) | st.uuids().map(lambda one: one.hex),
        "type": st.sampled_from(["check", "activate", "error"]),
        "occurred_at": MOMENTS,
        "device_id": st.sampled_from(["d-1", "d-2", "another"]),
    },
    optional={
        "model": TEXT,
        "version": st.none() | st.integers(0, MAX_VERSION),
        "from_version": st.none() | st.integers(0, MAX_VERSION),
        "bytes": st.none() | st.integers(0, MAX_BYTES),
        "full_bytes": st.none() | st.integers(0, MAX_BYTES),
        "duration_ms": st.none() | st.floats(0, MAX_DURATION_MS),
        "error": st.none() | st.text(max_size=MAX_ERROR_KEPT + 10),
        "os": TEXT,
        "locale": TEXT,
    },
)


def rows(columns: EventColumns) -> list[dict[str, Any]]:
    """The events as rows, as ClickHouse would hold them."""
    texts: dict[str, list[Any]] = {}
    for name, column in columns.by_name().items():
        if isinstance(column, Coded):
            texts[name] = column.rows()
        elif isinstance(column, Nullable):
            pairs = zip(column.numbers.tolist(), column.missing.tolist(), strict=True)
            texts[name] = [None if missing else number for number, missing in pairs]
        else:
            texts[name] = column.tolist()
    return [dict(zip(COLUMNS, row, strict=True)) for row in zip(*texts.values(), strict=True)]


def one_by_one(records: list[Record]) -> list[dict[str, Any]]:
    """The same rows, made of the events as they are decoded at acceptance."""
    return [
        {
            "organization_id": one.labels.organization_id,
            "application_id": one.labels.application_id,
            "environment": one.labels.environment,
            "organization": one.labels.organization,
            "application": one.labels.application,
            "device_id": each.device_id,
            "event_id": list(divmod(each.event_id.int, 2**64)),
            "day": one.received_ms // 86_400_000,
            "received_at": one.received_ms // 1000,
            "arrival": one.received_ms * 1000 + place,
            "occurred_at": each.occurred_unix(),
            "version": each.version,
            "from_version": each.from_version,
            "bytes": each.bytes,
            "full_bytes": each.full_bytes,
            "duration_ms": None if each.duration_ms is None else round(each.duration_ms),
            "error": (each.error or "")[:MAX_ERROR_KEPT],
            **{name: getattr(each, name) or "" for name in NAMES},
        }
        for one in records
        for place, each in enumerate(decode_events(one.events))
    ]


def sorting_key(row: dict[str, Any]) -> tuple[Any, ...]:
    keys = ("organization_id", "application_id", "environment", "model", "type", "device_id")
    return (*(row[name].encode() for name in keys), row["event_id"][1])


@settings(deadline=None)
@given(st.lists(st.lists(EVENTS, max_size=4), max_size=6), st.integers(1, 5))
def test_every_way_ends_in_the_rows_that_acceptance_saw(batches: list[list[dict[str, Any]]], chunk: int) -> None:
    records = [
        record(*batch, at=NOON + timedelta(seconds=n), sender=labels(f"org-{n % 2}")) for n, batch in enumerate(batches)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_EVENTS", chunk)
        made = event_columns(records)

    expected = sorted(one_by_one(records), key=lambda row: row["arrival"])
    assert sorted(rows(made), key=lambda row: row["arrival"]) == expected
    assert made.count == len(expected)


def test_rows_are_sorted_by_the_tables_key_so_that_the_server_need_not() -> None:
    records = [
        record(
            *(event(kind, device=f"d-{n * 7 % 5}", model=model) for kind in ("check", "activate")), sender=labels(org)
        )
        for n in range(10)
        for model in ("b", "a", "")
        for org in ("org-2", "org-10")
    ]
    made = rows(event_columns(records))

    assert made == sorted(made, key=sorting_key)


def test_keys_beyond_any_number_are_sorted_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGEST_KEY", 4)
    made = rows(event_columns([record(*(event(device=f"d-{n % 7}", model=f"m-{n % 3}") for n in range(50)))]))

    assert made == sorted(made, key=sorting_key)


@pytest.mark.parametrize(
    "events",
    [
        b"[{}]",
        b"nothing",
        b'[{"event_id": "x", "type": "check", "occurred_at": 0, "device_id": "d"}]',
        b'[{"event_id": "0b8b9a2e6a864bd58f9b0d1f1e1b2a01", "type": "check", "occurred_at": "now", "device_id": "d"}]',
    ],
)
def test_what_is_no_event_is_refused(events: bytes) -> None:
    with pytest.raises(InvalidBatch):
        event_columns([Record(labels(), int(datetime.now(UTC).timestamp()), events)])


def test_a_time_of_arrival_beyond_any_clock_is_refused() -> None:
    with pytest.raises(InvalidBatch):
        event_columns([Record(labels(), 2**64 - 1, record(event()).events)])


def test_the_first_arrival_is_that_of_the_record_that_was_received_first() -> None:
    records = [record(event(), at=NOON + timedelta(seconds=7)), record(event(), at=NOON), record(event(), at=NOON)]

    assert event_columns(records).first_arrival() == NOON.timestamp()
