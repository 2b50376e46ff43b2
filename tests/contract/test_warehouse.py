"""What every warehouse does, shown on each: the embedded engine and Debian's server."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from telemetry.columns import event_columns
from telemetry.warehouse import QueryFailed, QueryLimits, Warehouse
from tests.telemetry.samples import NOON, event, labels, record
from tests.telemetry.warehouses import server, warehouse

__all__ = ["server", "warehouse"]  # fixtures

EVENT_ID = UUID("0b8b9a2e-6a86-4bd5-8f9b-0d1f1e1b2a01")


async def test_an_event_is_found_with_every_field_as_it_was_sent(warehouse: Warehouse) -> None:
    sent = event(
        "download",
        event_id=EVENT_ID,
        version=3,
        from_version=2,
        bytes=1000,
        full_bytes=5000,
        duration_ms=12.6,
        encoding="zstd-prefix",
        error='it\'s a \\ "test"\n\ttab é 🦊',
        os="iOS",
        os_version="19.1",
        device_model="iPhone17,2",
        app_version="4.2",
        locale="de-AT",
    )
    await warehouse.insert_events(event_columns([record(sent)]), "one")

    (row,) = await warehouse.query("SELECT * FROM events")

    assert row == {
        **sent,
        "duration_ms": 13,
        "occurred_at": "2026-05-14 11:59:58",
        "received_at": f"{NOON:%Y-%m-%d} 12:00:00",
        "organization_id": "org-1",
        "organization": "name of org-1",
        "application_id": "app-1",
        "application": "name of app-1",
        "environment": "prod",
    }


async def test_what_a_device_left_out_is_null_or_empty(warehouse: Warehouse) -> None:
    await warehouse.insert_events(event_columns([record(event("check"))]), "one")

    (row,) = await warehouse.query("SELECT version, from_version, bytes, duration_ms, error, locale FROM events")

    assert row == {
        "version": None,
        "from_version": None,
        "bytes": None,
        "duration_ms": None,
        "error": "",
        "locale": "",
    }


@pytest.mark.parametrize("second_id", ["one", "two"], ids=["the same insert", "another insert"])
async def test_an_event_inserted_twice_counts_once_everywhere(warehouse: Warehouse, second_id: str) -> None:
    columns = event_columns([record(event("activate", version=2), event("check", device="device-2", version=1))])
    await warehouse.insert_events(columns, "one")
    await warehouse.insert_events(columns, second_id)

    assert await warehouse.query("SELECT count() AS n FROM events") == [{"n": 2}]
    held = "SELECT device_id, argMaxMerge(version) AS held FROM devices GROUP BY device_id ORDER BY device_id"
    assert await warehouse.query(held) == [{"device_id": "device-1", "held": 2}, {"device_id": "device-2", "held": 1}]


async def test_a_duplicate_that_comes_in_another_month_counts_once(warehouse: Warehouse) -> None:
    again = event("check", version=1)
    await warehouse.insert_events(event_columns([record(again, at=NOON - timedelta(days=40))]), "one")
    await warehouse.insert_events(event_columns([record(again)]), "two")

    assert await warehouse.query("SELECT count() AS n FROM events") == [{"n": 1}]


async def test_the_last_event_that_tells_decides_which_version_is_held(warehouse: Warehouse) -> None:
    sent = [
        event("check", version=1),
        event("download", version=2, from_version=1),
        event("activate", version=2, from_version=1),
        event("download", version=3),  # tells nothing of what is held
        event("error", version=3, from_version=2, error="disk full"),
    ]
    await warehouse.insert_events(event_columns([record(*sent)]), "one")
    await warehouse.insert_events(
        event_columns([record(event("check", version=1), at=NOON - timedelta(hours=1))]), "two"
    )

    assert await warehouse.query("SELECT argMaxMerge(version) AS held FROM devices GROUP BY device_id") == [{"held": 2}]


async def test_migrating_again_changes_nothing(warehouse: Warehouse) -> None:
    await warehouse.insert_events(event_columns([record(event())]), "one")
    await warehouse.migrate()

    assert await warehouse.query("SELECT count() AS n FROM events") == [{"n": 1}]


async def test_parameters_are_values_and_never_sql(warehouse: Warehouse) -> None:
    hostile = "x' OR 1 = 1 -- \\' {b}"
    sender = labels(organization_id=hostile)
    await warehouse.insert_events(event_columns([record(event(), sender=sender), record(event())]), "one")

    rows = await warehouse.query(
        "SELECT organization_id FROM events WHERE organization_id = {a} AND organization_id IN {b}",
        {"a": hostile, "b": [hostile, "other"]},
    )

    assert rows == [{"organization_id": hostile}]


async def test_a_read_only_question_cannot_write(warehouse: Warehouse) -> None:
    for statement in ("DROP TABLE raw_events", "INSERT INTO schema_migrations SELECT 9, '', '', now()"):
        with pytest.raises(QueryFailed):
            await warehouse.query_readonly(statement)


async def test_a_read_only_question_stops_at_its_time_limit(warehouse: Warehouse) -> None:
    slow = "SELECT count() AS n FROM system.numbers WHERE sipHash64(number) = 1"
    with pytest.raises(QueryFailed) as caught:
        await warehouse.query_readonly(slow, QueryLimits(seconds=1))

    assert caught.value.code == "query_too_slow"


async def test_a_read_only_question_is_bounded_in_memory_and_in_size(warehouse: Warehouse) -> None:
    for greedy in (
        "SELECT groupArray(number) AS n FROM (SELECT number FROM system.numbers LIMIT 100000000)",
        "SELECT number, toString(number) AS t FROM system.numbers LIMIT 10000000",
    ):
        with pytest.raises(QueryFailed) as caught:
            await warehouse.query_readonly(greedy)
        assert caught.value.code == "query_too_large"


async def test_a_read_only_question_returns_at_most_its_rows(warehouse: Warehouse) -> None:
    rows = await warehouse.query_readonly("SELECT number AS n FROM system.numbers LIMIT 50", QueryLimits(rows=3))

    assert rows == [{"n": 0}, {"n": 1}, {"n": 2}]


@pytest.mark.parametrize("readonly", [False, True], ids=["our own", "typed"])
async def test_rows_of_a_question_that_failed_midway_are_not_in_the_next_answer(
    warehouse: Warehouse, readonly: bool
) -> None:
    ask = warehouse.query_readonly if readonly else warehouse.query
    numbers = "SELECT number FROM system.numbers LIMIT 1000000"
    with pytest.raises(QueryFailed):
        await ask(f"SELECT toUInt64(if(number = 999999, 'x', '7')) AS theirs FROM ({numbers})")

    assert await ask("SELECT 1 AS mine") == [{"mine": 1}]


async def test_answers_are_safe_to_write_as_json(warehouse: Warehouse) -> None:
    (row,) = await warehouse.query(
        "SELECT toUUID('0b8b9a2e-6a86-4bd5-8f9b-0d1f1e1b2a01') AS id, toDate('2026-05-14') AS d, "
        "toDateTime(0, 'UTC') AS t, 0 / 0 AS nan, 1 / 0 AS inf, [1, 2] AS list, ('a', 1) AS pair, "
        "toUInt64(18446744073709551615) AS big, unhex('ff41') AS bytes, NULL AS nothing"
    )

    assert row == {
        "id": "0b8b9a2e-6a86-4bd5-8f9b-0d1f1e1b2a01",
        "d": "2026-05-14",
        "t": "1970-01-01 00:00:00",
        "nan": None,
        "inf": None,
        "list": [1, 2],
        "pair": ["a", 1],
        "big": 18446744073709551615,
        "bytes": "�A",
        "nothing": None,
    }


async def test_a_conversion_of_nothing_is_the_questions_fault(warehouse: Warehouse) -> None:
    for question in ("SELECT toUInt64('') AS n", "SELECT toUUID('') AS id", "SELECT toDate('') AS day"):
        with pytest.raises(QueryFailed):
            await warehouse.query_readonly(question)


async def test_a_wrong_question_is_told_in_one_line_without_a_stack_trace(warehouse: Warehouse) -> None:
    with pytest.raises(QueryFailed) as caught:
        await warehouse.query_readonly("SELECT no_such_column FROM events")

    assert "no_such_column" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "StackTrace" not in str(caught.value)
