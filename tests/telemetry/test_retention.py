"""How long rows are kept: TTL on newer engines, months that are dropped on 18.16."""

from __future__ import annotations

import asyncio
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

from telemetry.columns import event_columns
from telemetry.housekeeper import Housekeeper
from telemetry.migrate import all_statements
from telemetry.retention import KEPT_BY_SETTING, Limit, is_over, limits_of
from telemetry.warehouse import Warehouse, WarehouseUnavailable, open_warehouse
from tests.servers.clickhouse import ClickHouseServer
from tests.telemetry.samples import NOON, event, record
from tests.telemetry.test_shipper import MemoryWarehouse
from tests.telemetry.waiting import until
from tests.telemetry.warehouses import server, url_of, warehouse

__all__ = ["server", "warehouse"]  # fixtures

TODAY = NOON.date() + timedelta(days=1)


def test_a_month_is_over_when_its_last_day_is() -> None:
    limit = Limit("day", 90)

    assert is_over("202601", limit, date(2026, 2, 1) + timedelta(days=90))
    assert not is_over("202601", limit, date(2026, 1, 31) + timedelta(days=90))
    assert is_over("202512", limit, date(2026, 1, 1) + timedelta(days=90))
    assert not is_over("202512", limit, date(2025, 12, 31) + timedelta(days=90))
    assert not is_over("tuple()", limit, date(2100, 1, 1))


def test_the_migrations_tell_the_limits_and_the_setting_those_of_events() -> None:
    limits = limits_of(all_statements(), 30)

    assert {limits[table].days for table in KEPT_BY_SETTING} == {30}
    assert limits["device_days"] == Limit("day", 730)


def test_every_limited_table_is_partitioned_by_month_so_that_an_old_server_can_drop_what_is_over() -> None:
    made = {sql.split()[5]: sql for sql in all_statements() if sql.startswith("CREATE TABLE IF NOT EXISTS")}

    for table, limit in limits_of(all_statements(), 90).items():
        assert f"PARTITION BY toYYYYMM({limit.column})" in made[table]


async def test_a_server_without_ttl_drops_months_that_are_wholly_over(server: ClickHouseServer, tmp_path: Path) -> None:
    warehouse = open_warehouse(url_of(server), tmp_path, keep_days=40)
    await warehouse.migrate()
    ages = (0, 39, 100, 800)
    for age in ages:
        await warehouse.insert_events(
            event_columns([record(event(device=f"{age}"), at=NOON - timedelta(days=age))]), f"{age}"
        )

    done = await warehouse.enforce_retention(TODAY)

    assert {one.split(":")[0] for one in done} == {"raw_events", "device_days", "device_hours", "arrivals"}
    assert await devices_in(warehouse, "events") == ["0", "39"]
    assert await devices_in(warehouse, "device_days") == ["0", "100", "39"]  # two years
    assert await warehouse.enforce_retention(TODAY) == []
    await warehouse.close()


async def devices_in(warehouse: Warehouse, table: str) -> list[str]:
    rows = await warehouse.query(f"SELECT DISTINCT device_id FROM {table} ORDER BY device_id")
    return [str(row["device_id"]) for row in rows]


async def test_an_engine_with_ttl_gets_the_setting_once(tmp_path: Path) -> None:
    warehouse = open_warehouse(None, tmp_path / "clickhouse", keep_days=40)
    await warehouse.migrate()
    try:
        await warehouse.insert_events(event_columns([record(event(device="old"), at=NOON - timedelta(days=60))]), "one")

        assert await warehouse.enforce_retention(TODAY) == ["raw_events: 40 days", "erasures: 40 days"]
        assert await warehouse.enforce_retention(TODAY) == []
        await warehouse.query("OPTIMIZE TABLE raw_events FINAL")
        assert await devices_in(warehouse, "events") == []
    finally:
        await warehouse.close()


async def test_the_default_changes_nothing_that_the_migrations_made(warehouse: Warehouse) -> None:
    assert await warehouse.enforce_retention(TODAY) == []


class Sick(MemoryWarehouse):
    """Cannot do it the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[date] = []

    async def enforce_retention(self, today: date) -> list[str]:
        self.asked.append(today)
        if len(self.asked) == 1:
            raise WarehouseUnavailable("away")
        return []


async def test_the_housekeeper_comes_again_by_the_day_in_utc_and_after_failures() -> None:
    sick = Sick()
    late = datetime(2026, 5, 14, 23, 30, tzinfo=timezone(timedelta(hours=-2)))
    keeper = Housekeeper(sick, lambda: late, first_after_seconds=0, every_seconds=0, again_seconds=0)

    keeping = asyncio.create_task(keeper.run())
    await until(lambda: len(sick.asked) > 2)
    keeping.cancel()

    assert set(sick.asked) == {date(2026, 5, 15)}
