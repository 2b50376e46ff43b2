"""Erasing a device or an organization: looked for in every table, on each engine, and in what is shipped later."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from telemetry.columns import EventColumns, event_columns
from telemetry.erasure import WHOLE_ORGANIZATION, Erased, Erasure, device_subject, without_erased
from telemetry.native import Coded
from telemetry.shipper import Shipper
from telemetry.warehouse import Warehouse
from tests.telemetry.samples import NOON, event, labels, record
from tests.telemetry.test_shipper import put
from tests.telemetry.waiting import PATIENCE_SECONDS
from tests.telemetry.warehouses import server, warehouse

__all__ = ["server", "warehouse"]  # fixtures

TODAY = NOON.date()
"""The list of what was erased expires too."""
OTHERS = labels("org-2")


def device(device_id: str, organization_id: str = "org-1") -> Erasure:
    return Erasure(organization_id, device_id, TODAY)


def organization(organization_id: str) -> Erasure:
    return Erasure(organization_id, None, TODAY)


def a_life(device_id: str) -> list[dict[str, object]]:
    """One event of each kind."""
    return [
        event("check", device_id, version=1, os="iOS", locale="de-AT", app_version="4.2"),
        event("download", device_id, version=2, from_version=1, bytes=10, full_bytes=20, duration_ms=5),
        event("verify", device_id, version=2, from_version=1),
        event("activate", device_id, version=2, from_version=1),
        event("error", device_id, version=3, from_version=2, error=f"{device_id} failed"),
        event("register", device_id),
    ]


async def forget(warehouse: Warehouse, erasure: Erasure) -> None:
    """Erase until nothing is left."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    for _ in range(1000):
        if await warehouse.erase(erasure):
            return
        assert time.monotonic() < deadline, "it was never forgotten"
        await asyncio.sleep(0.05)


async def rows_with(warehouse: Warehouse, column: str, value: str) -> dict[str, int]:
    """Count, in every table and view that has the column, the rows with the value."""
    found = await warehouse.query(
        "SELECT table, name FROM system.columns WHERE database = currentDatabase() AND name = {column}",
        {"column": column},
    )
    tables = [str(row["table"]) for row in found if not str(row["table"]).endswith("_feed")]
    return {
        table: (
            await warehouse.query(f"SELECT count() AS n FROM {table} WHERE {column} = {{value}}", {"value": value})
        )[0]["n"]
        for table in tables
    }


async def anywhere(warehouse: Warehouse, text: str) -> list[str]:
    """Return the tables in which a text stands, in whichever column of text."""
    found = await warehouse.query(
        "SELECT table, name FROM system.columns WHERE database = currentDatabase() "
        "AND type LIKE '%String%' AND type NOT LIKE 'AggregateFunction%'"
    )
    hits = []
    for row in found:
        if str(row["table"]).endswith("_feed"):
            continue
        sql = f"SELECT count() AS n FROM {row['table']} WHERE position(toString({row['name']}), {{text}}) > 0"
        (answer,) = await warehouse.query(sql, {"text": text})
        hits += [str(row["table"])] * (answer["n"] > 0)
    return hits


async def test_an_erased_device_is_in_no_table_and_the_others_are(warehouse: Warehouse) -> None:
    await warehouse.insert_events(event_columns([record(*a_life("gone"), *a_life("stays"))]), "one")
    await warehouse.insert_events(event_columns([record(*a_life("gone"), sender=OTHERS)]), "two")
    before = await rows_with(warehouse, "device_id", "stays")
    assert {"raw_events", "events", "device_days", "devices"} <= before.keys()
    assert await anywhere(warehouse, "gone")

    await forget(warehouse, device("gone"))

    # Another organization's device of the same id is another device.
    assert await rows_with(warehouse, "device_id", "stays") == before
    assert await rows_with(warehouse, "device_id", "gone") == before
    await forget(warehouse, device("gone", "org-2"))
    assert set((await rows_with(warehouse, "device_id", "gone")).values()) == {0}
    assert await anywhere(warehouse, "gone") == []
    assert await rows_with(warehouse, "device_id", "stays") == before


async def test_an_erased_organization_is_in_no_table_but_in_the_list_of_those(warehouse: Warehouse) -> None:
    await warehouse.insert_events(event_columns([record(*a_life("a")), record(*a_life("b"), sender=OTHERS)]), "one")
    before = await rows_with(warehouse, "organization_id", "org-1")

    await forget(warehouse, organization("org-2"))

    left = await rows_with(warehouse, "organization_id", "org-2")
    assert {table for table, rows in left.items() if rows} == {"erasures"}
    assert await anywhere(warehouse, "name of org-2") == []
    assert await rows_with(warehouse, "organization_id", "org-1") == before


async def test_what_is_shipped_later_does_not_bring_them_back(tmp_path: Path, warehouse: Warehouse) -> None:
    await forget(warehouse, device("gone"))
    await forget(warehouse, organization("org-2"))
    put(tmp_path, "0001-a", record(*a_life("gone"), *a_life("stays")), record(*a_life("gone")))
    put(tmp_path, "0002-a", record(*a_life("stays"), sender=OTHERS))

    assert await Shipper(tmp_path, warehouse).drain(30)

    found = await warehouse.query(
        "SELECT organization_id, device_id, count() AS n FROM events GROUP BY organization_id, device_id"
    )
    assert found == [{"organization_id": "org-1", "device_id": "stays", "n": 6}]
    assert not list(tmp_path.rglob("*.ready"))


async def test_erasing_again_adds_nothing_and_the_list_does_not_name_the_device(warehouse: Warehouse) -> None:
    await forget(warehouse, device("gone"))
    await forget(warehouse, device("gone"))

    assert await warehouse.query("SELECT organization_id, subject FROM erasures") == [
        {"organization_id": "org-1", "subject": device_subject("org-1", "gone")}
    ]


def erased(**organizations: set[str]) -> Erased:
    return Erased({name.replace("_", "-"): frozenset(subjects) for name, subjects in organizations.items()})


def devices_in(columns: EventColumns) -> list[tuple[str, str]]:
    found = {name: column for name, column in columns.by_name().items() if isinstance(column, Coded)}
    return sorted(zip(found["organization_id"].rows(), found["device_id"].rows(), strict=True))


def test_only_the_events_of_the_erased_are_left_out() -> None:
    sent = [event(device="a"), event(device="b"), event(device="a")]
    columns = event_columns([record(*sent), record(event(device="a"), sender=OTHERS)])

    some = without_erased(columns, erased(org_1={device_subject("org-1", "a")}))
    assert (some.count, devices_in(some)) == (2, [("org-1", "b"), ("org-2", "a")])
    whole = without_erased(columns, erased(org_1={WHOLE_ORGANIZATION}))
    assert devices_in(whole) == [("org-2", "a")]
    assert without_erased(columns, erased(org_1={"x"}, org_3={WHOLE_ORGANIZATION})) is columns
    assert without_erased(columns, Erased()) is columns
    nothing = without_erased(columns, erased(org_1={WHOLE_ORGANIZATION}, org_2={WHOLE_ORGANIZATION}))
    assert nothing.count == 0


def test_no_text_of_the_erased_is_sent() -> None:
    columns = event_columns([record(event("error", "a", error="private")), record(event(device="b"), sender=OTHERS)])
    left = without_erased(columns, erased(org_1={WHOLE_ORGANIZATION}))

    texts = {text for column in left.values if isinstance(column, Coded) for text in column.texts}
    assert not texts & {"org-1", "a", "private", "name of org-1"}
    assert {"org-2", "b"} <= texts


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from("abc")), max_size=20), st.sets(st.sampled_from("abc")))
def test_what_stays_is_what_was_not_erased(sent: list[tuple[int, str]], gone: set[str]) -> None:
    records = [record(event(device=device_id), sender=labels(f"org-{number}")) for number, device_id in sent]
    left = without_erased(event_columns(records), erased(org_1={device_subject("org-1", each) for each in gone}))

    assert devices_in(left) == sorted((f"org-{n}", each) for n, each in sent if n != 1 or each not in gone)
