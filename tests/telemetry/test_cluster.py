"""The same tables and questions on a cluster: two shards of two replicas of Debian's server, with a ZooKeeper."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from clickhouse_driver import Client

from telemetry import queries
from telemetry.adoption import AdoptionReport, ModelName, adoption
from telemetry.columns import EventColumns, event_columns
from telemetry.erasure import Erasure, device_subject
from telemetry.migrate import SchemaConflict, load_migrations
from telemetry.server_warehouse import ServerWarehouse
from telemetry.warehouse import Warehouse, WarehouseUnavailable, open_warehouse
from tests.servers.clickhouse import PASSWORD, ClickHouseServer
from tests.servers.clickhouse_cluster import NAME, clickhouse_cluster
from tests.telemetry.samples import NOON, event, record
from tests.telemetry.waiting import PATIENCE_SECONDS

Cluster = dict[str, ClickHouseServer]

long_form = pytest.mark.skipif(
    not os.environ.get("SKAFOS_LONG_TESTS"), reason="SKAFOS_LONG_TESTS: 18.16 begins to fetch parts after 10 s only"
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with clickhouse_cluster(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


@pytest.fixture
async def first(cluster: Cluster) -> AsyncIterator[ServerWarehouse]:
    """A warehouse over one server; what it holds is shared by the module's tests."""
    warehouse = ServerWarehouse(cluster["a1"].url, NAME)
    await warehouse.migrate()
    yield warehouse
    await warehouse.close()


def ask(server: ClickHouseServer, sql: str, database: str = "skafos") -> list[tuple[Any, ...]]:
    """Ask one server, past the warehouse."""
    client = Client("127.0.0.1", server.port, password=PASSWORD, database=database)
    try:
        return list(client.execute(sql))
    finally:
        client.disconnect()


def count(server: ClickHouseServer, table: str) -> int:
    return int(ask(server, f"SELECT count() FROM {table}")[0][0])


def events_of(devices: range, kind: str = "check", version: int = 1, minute: int = 0, **fields: Any) -> EventColumns:
    events = (event(kind, f"device-{n}", version=version, **fields) for n in devices)
    return event_columns([record(*events, at=NOON + timedelta(minutes=minute))])


async def report_of(warehouse: Warehouse, *names: ModelName) -> AdoptionReport:
    asked = names or (ModelName("faces"),)
    return await adoption(warehouse, "org-1", "app-1", "prod", asked, 30, datetime.now(UTC))


async def insert_all(batches: list[EventColumns], *warehouses: Warehouse) -> None:
    """Insert each batch twice under one id, as a shipper that missed the answer; in turn through the warehouses."""
    for number, columns in enumerate(batches):
        for attempt in range(2):
            await warehouses[(number + attempt) % len(warehouses)].insert_events(columns, f"insert-{number}")


BATCHES = [
    events_of(range(60)),
    events_of(range(40), "download", version=2, minute=1, from_version=1),
    events_of(range(30), "activate", version=2, minute=2, from_version=1),
    events_of(range(30, 40), "error", version=2, minute=3, from_version=1, error="disk full"),
    events_of(range(60, 70), "activate", version=9, model="old name"),
]


async def eventually(ask_again: Callable[[], Awaitable[Any]], expected: Any) -> None:
    """Ask until the answer is as expected: a replica may be a moment behind the one that took the events."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        answer = await ask_again()
        if answer == expected or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.1)
    assert answer == expected


async def devices_of(warehouse: Warehouse, name: str = "faces") -> int:
    return sum(share.devices for share in (await report_of(warehouse, ModelName(name))).now)


async def replicated(server: ClickHouseServer) -> None:
    """Wait until a server has what its replica has."""
    tables = [row[0] for row in ask(server, "SHOW TABLES") if str(row[0]).endswith("_local")]
    for table in tables:
        await asyncio.to_thread(ask, server, f"SYSTEM SYNC REPLICA {table}")


async def test_what_is_inserted_anywhere_is_answered_once_and_as_by_one_server(
    cluster: Cluster, tmp_path: Path
) -> None:
    one, many = open_warehouse(None, tmp_path / "clickhouse"), ServerWarehouse(cluster["a1"].url, NAME)
    other = ServerWarehouse(cluster["b2"].url, NAME)
    try:
        for warehouse in (one, many):
            await warehouse.migrate()
        story = a_story("asked")
        await insert_all(story, one)
        await insert_all(story, many, other)

        expected = await answers(one, "asked")
        assert (expected[-1].installations, expected[-2].total) == (40, 20)
        for server in cluster.values():
            await replicated(server)
        for _ in range(2):  # the second time from figures that were kept
            assert await answers(many, "asked") == expected
            assert await answers(other, "asked") == expected
        views = ("adoption_by_day", "unfinished_updates", "current_devices", "update_failures_by_day", "downloads")
        for view in views:
            (rows,) = await one.query(f"SELECT count() AS n FROM {view} WHERE model = 'asked'")
            assert rows["n"] > 0
            assert await other.query(f"SELECT count() AS n FROM {view} WHERE model = 'asked'") == [rows]
    finally:
        for opened in (one, many, other):
            await opened.close()


def a_story(model: str) -> list[EventColumns]:
    """Three days of eighty devices: updates that succeed, fail, and stop halfway."""
    batches = []
    for day in (3, 2, 1):
        at = NOON - timedelta(days=day)
        facts: dict[str, Any] = {"model": model, "os": "iOS", "os_version": f"18.{day}", "app_version": "4.2"}
        checks = [event("check", f"asked-{n}", version=1, locale=f"l{n % 7}", **facts) for n in range(80)]
        tried = range((3 - day) * 20, (3 - day) * 20 + 20)
        update: dict[str, Any] = {"version": 2, "from_version": 1, **facts}
        sizes: dict[str, Any] = {"bytes": 10, "full_bytes": 40, "duration_ms": 100, "encoding": "zstd-prefix"}
        begun = [event("download", f"asked-{n}", **update, **sizes) for n in tried]
        verified = [event("verify", f"asked-{n}", **update) for n in tried[:15]]
        done = [event("activate", f"asked-{n}", **update) for n in tried[:10]]
        failed = [event("error", f"asked-{n}", error=f"reason {n % 3}", **update) for n in tried[10:14]]
        steps = enumerate((checks, begun, verified, done, failed))
        records = [record(*events, at=at + timedelta(minutes=place)) for place, events in steps]
        batches.append(event_columns(records))
    return [*batches, events_of(range(60, 70), "activate", version=9, model=f"old {model}")]


async def answers(warehouse: Warehouse, model: str) -> list[Any]:
    """Answer every question about a model; an answer without rows would compare nothing."""
    subject = queries.Subject("org-1", "app-1", "prod", [ModelName(model)])
    now, deployed = NOON, NOON - timedelta(days=3)
    days = queries.last_days(7, now)
    found: list[Any] = [
        await queries.adoption_curve(warehouse, subject, days),
        await queries.adoption_curve_by_hour(warehouse, subject, deployed, now),
        await queries.active_devices(warehouse, subject, days, "locale"),
        await queries.installations(warehouse, subject),
        await queries.version_mix(warehouse, subject, days),
        await queries.funnel(warehouse, subject, days),
        await queries.failure_rates(warehouse, subject, days),
        await queries.download_times(warehouse, subject, days),
        await queries.bytes_sent(warehouse, subject, days),
        await queries.time_to_adopt(warehouse, subject, 2, deployed, now),
        await queries.stuck_devices(warehouse, subject, 2, now),
    ]
    assert all(found)
    # The name was another model's before: who holds a version of this one is asked by a subquery.
    found.append(await report_of(warehouse, ModelName(model, last=1), ModelName(f"old {model}", first=5)))
    return found


async def test_a_device_is_whole_on_one_shard_and_each_shard_has_a_part(cluster: Cluster, first: Warehouse) -> None:
    await insert_all(BATCHES, first)

    for table in ("raw_events_local", "device_days_local", "devices_local"):
        devices = f"SELECT DISTINCT device_id FROM {table} WHERE device_id LIKE 'device-%'"
        shards = [{row[0] for row in ask(cluster[name], devices)} for name in ("a1", "b1")]
        assert len(shards[0]) > 10 < len(shards[1])
        assert len(shards[0] | shards[1]) == len(shards[0]) + len(shards[1]) == 70


async def rows_of(server: ClickHouseServer) -> int:
    return await asyncio.to_thread(count, server, "raw_events_local FINAL")


async def test_an_insert_that_stopped_before_the_rollups_reaches_them_when_it_is_repeated(
    cluster: Cluster, first: Warehouse
) -> None:
    columns = events_of(range(300, 320), model="half")
    # Views are fed in the order of their names, once the events are stored.
    failing = "CREATE MATERIALIZED VIEW skafos.a_feed_that_fails ON CLUSTER {} TO skafos.device_days_local AS {}"
    select = "SELECT device_id FROM skafos.raw_events_local WHERE throwIf(model = 'half') = 0"
    ask(cluster["a1"], failing.format(NAME, select))
    try:
        with pytest.raises(WarehouseUnavailable):
            await first.insert_events(columns, "half")
        assert count(cluster["a1"], "raw_events WHERE model = 'half'") > 0
        assert await devices_of(first, "half") == 0
    finally:
        ask(cluster["a1"], f"DROP TABLE skafos.a_feed_that_fails ON CLUSTER {NAME}")
    await first.insert_events(columns, "half")

    await eventually(lambda: devices_of(first, "half"), 20)
    await eventually(lambda: first.query("SELECT count() AS n FROM events WHERE model = 'half'"), [{"n": 20}])


async def test_migrating_again_sends_no_statement_to_the_cluster(cluster: Cluster, first: Warehouse) -> None:
    sent = "SELECT count() FROM system.zookeeper WHERE path = '/clickhouse/task_queue/ddl'"
    before = ask(cluster["a1"], sent)
    for server in cluster.values():
        warehouse = ServerWarehouse(server.url, NAME)
        await warehouse.migrate()
        await warehouse.close()

    assert ask(cluster["a1"], sent) == before


async def test_of_two_that_migrate_at_once_one_applies_each_file(cluster: Cluster) -> None:
    urls = [cluster[name].url.replace("/skafos", "/at_once") for name in ("a1", "b2")]
    warehouses = [ServerWarehouse(url, NAME) for url in urls]
    await asyncio.gather(*(warehouse.migrate() for warehouse in warehouses))
    for warehouse in warehouses:
        await warehouse.close()

    applied = ask(cluster["a1"], "SELECT number FROM schema_migrations ORDER BY number", "at_once")
    assert applied == [(migration.number,) for migration in load_migrations()]
    assert ask(cluster["b2"], "SHOW TABLES LIKE 'migration_lock%'", "at_once") == []


async def test_a_device_is_erased_on_every_server(cluster: Cluster, first: Warehouse) -> None:
    await insert_all([events_of(range(500, 510), model="private")], first)
    await eventually(lambda: devices_of(first, "private"), 10)
    await eventually(partial(first.erase, Erasure("org-1", "device-500", NOON.date())), True)

    named = "database = 'skafos' AND name = 'device_id' AND table LIKE '%_local'"
    tables = [row[0] for row in ask(cluster["a1"], f"SELECT table FROM system.columns WHERE {named}")]
    assert {"raw_events_local", "device_hours_local", "device_states_local"} <= set(tables)
    for server in cluster.values():
        for table in tables:
            gone = f"{table} WHERE device_id = 'device-500'"
            await eventually(partial(asyncio.to_thread, count, server, gone), 0)
    await eventually(lambda: devices_of(first, "private"), 9)
    other = ServerWarehouse(cluster["b2"].url, NAME)
    try:  # whichever server a shipper asks
        known = device_subject("org-1", "device-500")
        await eventually(lambda: other.erased(), await first.erased())
        assert known in (await first.erased()).subjects("org-1")
    finally:
        await other.close()


async def test_months_that_are_over_are_dropped_on_every_server(cluster: Cluster, first: Warehouse) -> None:
    old = record(
        *(event("check", f"device-{n}", version=1, model="old") for n in range(20)), at=NOON - timedelta(days=200)
    )
    await first.insert_events(event_columns([old]), "old")
    await eventually(lambda: first.query("SELECT count() AS n FROM events WHERE model = 'old'"), [{"n": 20}])

    (done,) = await first.enforce_retention(NOON.date())

    assert done.startswith("raw_events: ")
    for server in cluster.values():
        left = "raw_events_local WHERE model = 'old'"
        await eventually(partial(asyncio.to_thread, count, server, left), 0)
    await eventually(lambda: first.enforce_retention(NOON.date()), [])


# From here on servers are away for a while, and 18.16 takes ten seconds to come back.
async def test_a_replica_answers_and_takes_events_while_the_other_is_away(cluster: Cluster, first: Warehouse) -> None:
    await insert_all(BATCHES, first)
    before = await report_of(first)
    await replicated(cluster["a2"])
    other = ServerWarehouse(cluster["a2"].url, NAME)
    cluster["a1"].kill()
    try:
        await other.migrate()  # there is nothing to do, so nobody is missed
        assert await report_of(other) == before
        await other.insert_events(events_of(range(200, 240)), "meanwhile")
        await eventually(lambda: devices_of(other), 100)
    finally:
        cluster["a1"].start()
        await other.close()


@long_form
async def test_a_server_that_joins_later_gets_the_tables_and_what_its_replica_has(
    cluster: Cluster, first: Warehouse
) -> None:
    await insert_all(BATCHES, first)
    for (table,) in ask(cluster["b2"], "SHOW TABLES"):
        ask(cluster["b2"], f"DROP TABLE {table}")
    joining = ServerWarehouse(cluster["b2"].url, NAME)
    try:
        await joining.migrate()
        await eventually(lambda: rows_of(cluster["b2"]), await rows_of(cluster["b1"]))
        assert await rows_of(cluster["b2"]) > 0
    finally:
        await joining.close()


@long_form
async def test_a_server_that_was_away_catches_up(cluster: Cluster, first: Warehouse) -> None:
    cluster["b2"].kill()
    try:
        await first.insert_events(events_of(range(400, 440), model="meanwhile"), "meanwhile")
    finally:
        cluster["b2"].start()

    await eventually(lambda: rows_of(cluster["b2"]), await rows_of(cluster["b1"]))


async def test_tables_of_a_cluster_and_of_one_server_are_not_mixed_up(cluster: Cluster, first: Warehouse) -> None:
    alone = ServerWarehouse(cluster["a1"].url)
    with pytest.raises(SchemaConflict, match="SKAFOS_CLICKHOUSE_CLUSTER"):
        await alone.migrate()
    await alone.close()
    alone = ServerWarehouse(cluster["a1"].url.replace("/skafos", "/alone"))
    await alone.migrate()
    await alone.close()
    clustered = ServerWarehouse(cluster["a1"].url.replace("/skafos", "/alone"), NAME)
    with pytest.raises(SchemaConflict, match="one server"):
        await clustered.migrate()
    await clustered.close()
