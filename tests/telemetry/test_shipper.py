"""The shipper: everything acknowledged arrives, once, whatever dies in between."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from telemetry.__main__ import operations_app
from telemetry.claims import ClaimLost
from telemetry.columns import EventColumns
from telemetry.erasure import Erased, Erasure
from telemetry.literals import Value
from telemetry.native import Coded
from telemetry.segment import Record, encode_segment
from telemetry.shipper import LONGEST_PAUSE_SECONDS, Shipper, insert_id, pause_seconds
from telemetry.spool import Spool
from telemetry.spool_directory import held_lock
from telemetry.warehouse import (
    DEFAULT_LIMITS,
    InsertRejected,
    QueryLimits,
    Row,
    Warehouse,
    WarehouseUnavailable,
    open_warehouse,
)
from tests.environment import environment_with
from tests.servers.clickhouse import ClickHouseServer
from tests.telemetry.samples import NOON, body, event, labels, record
from tests.telemetry.waiting import until
from tests.telemetry.warehouses import embedded, server, url_of, warehouse

__all__ = ["embedded", "server", "warehouse"]  # fixtures

COUNT = "SELECT count() AS n FROM events"


def device_ids(columns: EventColumns) -> list[str]:
    """The devices of events, in order."""
    column = columns.by_name()["device_id"]
    assert isinstance(column, Coded)
    return column.rows()


class MemoryWarehouse:
    """Keeps what is inserted; refuses a device's events, or everything, when told to."""

    def __init__(self) -> None:
        self.inserted: dict[str, EventColumns] = {}
        self.poison = ""
        self.away = False
        self.attempts = 0

    @property
    def devices(self) -> list[str]:
        return [device for columns in self.inserted.values() for device in device_ids(columns)]

    async def migrate(self) -> None:
        if self.away:
            raise WarehouseUnavailable("away")

    async def insert_events(self, columns: EventColumns, insert_id: str) -> None:
        self.attempts += 1
        if self.away:
            raise WarehouseUnavailable("away")
        if self.poison in device_ids(columns):
            raise InsertRejected("no such thing")
        self.inserted[insert_id] = columns

    async def erased(self) -> Erased:
        return Erased()

    async def erase(self, erasure: Erasure) -> bool:
        return True

    async def enforce_retention(self, today: date) -> list[str]:
        return []

    async def query(self, sql: str, params: Mapping[str, Value] | None = None) -> list[Row]:
        return []

    async def query_readonly(self, sql: str, limits: QueryLimits = DEFAULT_LIMITS) -> list[Row]:
        return []

    async def ping(self) -> None: ...

    async def close(self) -> None: ...


def put(root: Path, name: str, *records: Record, writer: str = "edge-0", tail: bytes = b"") -> Path:
    """Put a closed segment into a writer's directory."""
    path = root / writer / f"{name}.ready"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_segment(name.encode().ljust(16, b"."), records) + tail)
    return path


def is_gone(path: Path) -> bool:
    """Whether a segment waits no more, under its own name or that of a batch."""
    return not list(path.parent.glob(f"{path.stem}*"))


def dead_letters(root: Path) -> dict[str, str]:
    """Names and reasons of what was put aside."""
    notes = (json.loads(path.read_text()) for path in (root / "dead-letter").glob("*.reason.json"))
    return {f"{note['writer']}/{note['segment']}": note["reason"] for note in notes}


async def test_segments_of_all_writers_arrive_and_are_removed(tmp_path: Path, warehouse: Warehouse) -> None:
    put(tmp_path, "0001-a", record(event(device="a")), record(event(device="b"), event(device="c")))
    put(tmp_path, "0002-a", record(event(device="d")), writer="edge-1")

    assert await Shipper(tmp_path, warehouse).drain(30)

    rows = await warehouse.query("SELECT device_id FROM events ORDER BY device_id")
    assert [row["device_id"] for row in rows] == ["a", "b", "c", "d"]
    assert not list(tmp_path.glob("edge-*/*.ready"))


async def test_what_is_accepted_while_it_runs_is_seen_soon(tmp_path: Path, embedded: Warehouse) -> None:
    shipping = asyncio.create_task(Shipper(tmp_path, embedded).run())
    async with Spool(tmp_path / "edge-0") as spool:
        await spool.append(labels(), body(event()), NOON)
        # In this order: a segment that is handed over between the two looks must not be missed by both.
        await until(lambda: not list(tmp_path.glob("*/*.open")) and not list(tmp_path.glob("*/*.ready")))
        assert await embedded.query(COUNT) == [{"n": 1}]
    shipping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await shipping


async def test_an_orderly_stop_loses_nothing(tmp_path: Path, embedded: Warehouse) -> None:
    shipper = Shipper(tmp_path, embedded, interval_seconds=0.05)
    shipping = asyncio.create_task(shipper.run())
    async with Spool(tmp_path / "edge-0", roll_seconds=0.05) as spool:
        for n in range(50):
            await asyncio.gather(*(spool.append(labels(), body(event(device=f"d-{n}-{m}")), NOON) for m in range(4)))
    shipping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await shipping

    assert await shipper.drain(30)

    assert await embedded.query(COUNT) == [{"n": 200}]


async def test_a_segment_sent_again_after_a_crash_counts_once(tmp_path: Path, warehouse: Warehouse) -> None:
    sent = [record(event("activate", device=f"device-{n}", version=1)) for n in range(3)]
    for name in ("0001-a", "0002-a"):
        put(tmp_path, name, *sent)
    await Shipper(tmp_path, warehouse).drain(30)
    put(tmp_path, "0001-a", *sent)  # inserted, but the shipper died before it could remove it
    await Shipper(tmp_path, warehouse).drain(30)

    assert await warehouse.query(COUNT) == [{"n": 3}]
    held = "SELECT count() AS n FROM (SELECT device_id FROM devices GROUP BY device_id) AS d"
    assert await warehouse.query(held) == [{"n": 3}]


async def test_while_clickhouse_is_away_segments_wait_and_then_arrive(tmp_path: Path) -> None:
    warehouse = MemoryWarehouse()
    warehouse.away = True
    path = put(tmp_path, "0001-a", record(event(device="a")))
    shipper = Shipper(tmp_path, warehouse)
    shipping = asyncio.create_task(shipper.run())
    await until(lambda: shipper.failing)
    assert not is_gone(path)

    warehouse.away = False
    await until(lambda: is_gone(path))

    assert warehouse.devices == ["a"]
    assert not shipper.failing
    shipping.cancel()


async def test_a_clickhouse_that_does_not_take_the_tables_is_asked_again_until_it_does(
    tmp_path: Path, warehouse: Warehouse
) -> None:
    path = put(tmp_path, "0001-a", record(event()))
    await warehouse.query("DROP TABLE schema_migrations")
    await warehouse.query("CREATE TABLE schema_migrations (something_else UInt8) ENGINE = Memory")
    shipper = Shipper(tmp_path, warehouse)
    shipping = asyncio.create_task(shipper.run())
    await until(lambda: shipper.failing or shipping.done())

    await warehouse.query("DROP TABLE schema_migrations")
    await until(lambda: is_gone(path) or shipping.done())

    assert not shipping.done()
    assert await warehouse.query(COUNT) == [{"n": 1}]
    shipping.cancel()


async def test_draining_gives_up_at_its_deadline_and_leaves_the_rest(tmp_path: Path) -> None:
    warehouse = MemoryWarehouse()
    warehouse.away = True
    path = put(tmp_path, "0001-a", record(event()))

    assert not await Shipper(tmp_path, warehouse).drain(0.2)

    assert not is_gone(path)


async def test_a_refused_segment_is_put_aside_alone_with_its_reason(tmp_path: Path) -> None:
    warehouse = MemoryWarehouse()
    warehouse.poison = "bad"
    for name in ("good-1", "bad", "good-2"):
        put(tmp_path, f"0001-{name}", record(event(device=name)))

    await Shipper(tmp_path, warehouse).drain(30)

    assert sorted(warehouse.devices) == ["good-1", "good-2"]
    assert dead_letters(tmp_path) == {"edge-0/0001-bad.ready": "no such thing"}
    assert (tmp_path / "dead-letter" / "edge-0-0001-bad.segment").exists()


async def test_a_damaged_segment_ships_its_whole_records_and_is_put_aside(tmp_path: Path) -> None:
    warehouse = MemoryWarehouse()
    put(tmp_path, "0001-a", record(event(device="whole")), tail=b"\x99\x00\x00\x00....damaged")
    (tmp_path / "edge-0" / "0002-a.ready").write_bytes(b"not a segment at all, but long enough for a header")
    undecodable = Record(labels(), 0, b'[{"type": 3}]')
    put(tmp_path, "0003-a", undecodable)

    await Shipper(tmp_path, warehouse).drain(30)

    assert warehouse.devices == ["whole"]
    assert sorted(dead_letters(tmp_path)) == ["edge-0/0001-a.ready", "edge-0/0002-a.ready", "edge-0/0003-a.ready"]


async def test_a_spool_on_a_volume_of_its_own_is_shipped(tmp_path: Path) -> None:
    warehouse = MemoryWarehouse()
    put(tmp_path, "0001-a", record(event(device="a")))
    for_root_alone = put(tmp_path, "0002-a", record(event(device="b")), writer="lost+found")

    assert await Shipper(tmp_path, warehouse).drain(30)

    assert warehouse.devices == ["a"]
    assert for_root_alone.exists()


async def test_events_that_clickhouse_itself_refuses_are_put_aside(tmp_path: Path, embedded: Warehouse) -> None:
    await embedded.query("ALTER TABLE raw_events ADD CONSTRAINT no_bad_ones CHECK device_id != 'bad'")
    put(tmp_path, "0001-a", record(event(device="good")))
    put(tmp_path, "0002-a", record(event(device="bad")))

    await Shipper(tmp_path, embedded).drain(30)

    assert await embedded.query("SELECT device_id FROM events") == [{"device_id": "good"}]
    assert list(dead_letters(tmp_path)) == ["edge-0/0002-a.ready"]


@pytest.mark.parametrize("suffix", [".open", ".next"])
async def test_the_open_segment_of_a_dead_writer_is_adopted_and_of_a_living_one_left(
    tmp_path: Path, suffix: str
) -> None:
    warehouse = MemoryWarehouse()
    for number, writer in enumerate(("dead", "alive"), 1):
        segment = put(tmp_path, f"000{number}-a", record(event(device=writer)), writer=writer)
        segment.rename(segment.with_suffix(suffix))

    with held_lock(tmp_path / "alive" / "lock"):
        await Shipper(tmp_path, warehouse).drain(30)
    assert warehouse.devices == ["dead"]

    await Shipper(tmp_path, warehouse).drain(30)
    assert warehouse.devices == ["dead", "alive"]


async def test_shippers_that_share_a_spool_ship_every_segment_once(tmp_path: Path) -> None:
    names = [f"{n:04}-a" for n in range(60)]
    paths = [put(tmp_path, name, record(event(device=name)), writer=f"edge-{name[3]}") for name in names]
    warehouses = [MemoryWarehouse() for _ in range(3)]
    shipping = [asyncio.create_task(Shipper(tmp_path, one, interval_seconds=0.01).run()) for one in warehouses]

    await until(lambda: all(map(is_gone, paths)))
    for task in shipping:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    assert sorted(device for one in warehouses for device in one.devices) == names
    assert not list((tmp_path / ".claims").iterdir())


async def test_what_a_shipper_left_in_the_middle_is_sent_again_under_the_same_id(tmp_path: Path) -> None:
    class Silent(MemoryWarehouse):
        async def insert_events(self, columns: EventColumns, insert_id: str) -> None:
            await super().insert_events(columns, insert_id)
            raise WarehouseUnavailable("the answer never came")

    first, second = Silent(), MemoryWarehouse()
    put(tmp_path, "0001-a", record(event(device="a")))
    put(tmp_path, "0002-a", record(event(device="b")))
    shipper = Shipper(tmp_path, first)
    shipping = asyncio.create_task(shipper.run())
    await until(lambda: shipper.failing)
    shipping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await shipping
    put(tmp_path, "0003-a", record(event(device="c")))

    assert await Shipper(tmp_path, second).drain(30)

    (sent,) = first.inserted
    assert second.inserted[sent].count == 2
    assert second.devices == ["a", "b", "c"]


async def test_a_shipper_that_was_taken_for_dead_removes_nothing(tmp_path: Path) -> None:
    class Slow(MemoryWarehouse):
        async def insert_events(self, columns: EventColumns, insert_id: str) -> None:
            await super().insert_events(columns, insert_id)
            if self.attempts == 1:
                for batch in (tmp_path / ".claims").glob("*.batch"):  # as another shipper takes it over
                    batch.rename(batch.with_name(f"{batch.name.partition('.')[0]}.another.batch"))

    warehouse = Slow()
    path = put(tmp_path, "0001-a", record(event(device="a")))
    shipper = Shipper(tmp_path, warehouse)
    with pytest.raises(ClaimLost):
        await shipper.ship_once()
    assert not is_gone(path)

    assert await shipper.drain(30)  # the other one is gone too, so it comes back

    assert is_gone(path)
    assert (warehouse.attempts, len(warehouse.inserted)) == (2, 1)


@pytest.mark.parametrize("step", ["rename", "touch", "write_bytes"])
async def test_a_full_disk_is_emptied_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    warehouse = MemoryWarehouse()
    for n in range(3):
        put(tmp_path, f"{n:04}-a", record(event(device=str(n))))
    with monkeypatch.context() as patch:
        patch.setattr(Path, step, full)
        assert await Shipper(tmp_path, warehouse).drain(30)

    assert warehouse.devices == ["0", "1", "2"]
    assert not list(tmp_path.glob("*/*.ready"))


async def test_an_insert_has_at_most_so_many_segments_and_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = put(tmp_path, "0000-a", record(event(device="device"))).stat().st_size
    for n in range(1, 9):
        put(tmp_path, f"{n:04}-a", record(event(device="device")))
    for bound, value, inserts in (("MAX_BATCH_SEGMENTS", 4, 3), ("MAX_BATCH_BYTES", size * 3, 3)):
        with monkeypatch.context() as patch:
            patch.setattr(f"telemetry.shipper.{bound}", value)
            warehouse = MemoryWarehouse()
            shutil.copytree(tmp_path / "edge-0", tmp_path / bound / "edge-0")
            await Shipper(tmp_path / bound, warehouse).drain(30)
        assert warehouse.attempts == inserts
        assert len(warehouse.devices) == 9


async def test_a_backlog_is_shipped_without_pauses_and_two_batches_are_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0

    class Watched(MemoryWarehouse):
        async def insert_events(self, columns: EventColumns, insert_id: str) -> None:
            nonlocal most
            await asyncio.sleep(0.02)
            most = max(most, len(list((tmp_path / ".claims").glob("*.batch"))))
            await super().insert_events(columns, insert_id)

    monkeypatch.setattr("telemetry.shipper.MAX_BATCH_SEGMENTS", 1)
    paths = [put(tmp_path, f"{n:04}-a", record(event())) for n in range(20)]
    shipping = asyncio.create_task(Shipper(tmp_path, Watched(), interval_seconds=600).run())
    await until(lambda: all(map(is_gone, paths)))
    shipping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await shipping

    assert most == 2


async def test_many_small_segments_are_merged_into_one_insert(tmp_path: Path) -> None:
    warehouse = MemoryWarehouse()
    for n in range(100):
        put(tmp_path, f"{n:04}-a", record(event(device=str(n))))

    await Shipper(tmp_path, warehouse).drain(30)

    assert warehouse.attempts == 1
    assert len(warehouse.devices) == 100


@given(st.integers(1, 10_000), st.randoms(use_true_random=False))
def test_pauses_grow_and_stay_bounded(failures: int, rng: random.Random) -> None:
    assert 0 < pause_seconds(failures, rng) <= LONGEST_PAUSE_SECONDS


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=5, unique=True), st.randoms())
def test_an_insert_is_named_after_its_segments_in_any_order(ids: list[bytes], rng: random.Random) -> None:
    shuffled = list(ids)
    rng.shuffle(shuffled)

    assert insert_id(ids) == insert_id(shuffled)
    assert insert_id(ids) != insert_id([*ids, b"x" * 16])


async def test_a_server_that_is_restarted_gets_everything_once(tmp_path: Path, server: ClickHouseServer) -> None:
    url = url_of(server, "restarted")
    warehouse = open_warehouse(url, tmp_path / "unused")
    shipper = Shipper(tmp_path / "spool", warehouse, interval_seconds=0.02)
    shipping = asyncio.create_task(shipper.run())
    async with Spool(tmp_path / "spool" / "edge-0", roll_seconds=0.05) as spool:
        for n in range(60):
            await spool.append(labels(), body(event(device=f"device-{n}")), NOON)
            await asyncio.sleep(0.02)
            if n == 20:
                await asyncio.to_thread(server.kill)
            if n == 40:
                await asyncio.to_thread(server.start)
    await until(lambda: not list((tmp_path / "spool").glob("*/*.ready")))
    shipping.cancel()

    assert await warehouse.query(COUNT) == [{"n": 60}]
    await warehouse.close()


def run_shipper(tmp_path: Path, **settings: str) -> subprocess.Popen[bytes]:
    own = {
        "SKAFOS_SPOOL_DIR": str(tmp_path / "spool"),
        "SKAFOS_DATA": str(tmp_path / "data"),
        "SKAFOS_SHIPPER_METRICS_LISTEN": "127.0.0.1:0",
        "SKAFOS_SHIPPER_INTERVAL_SECONDS": "0.02",
    }
    environment = environment_with(own | settings)
    return subprocess.Popen([sys.executable, "-m", "telemetry"], env=environment, stderr=subprocess.PIPE)


async def test_the_process_drains_when_it_is_asked_to_stop(tmp_path: Path, server: ClickHouseServer) -> None:
    url = url_of(server, "drained")
    for n in range(5):
        put(tmp_path / "spool", f"000{n}-a", record(event(device=f"device-{n}")))
    shipper = run_shipper(tmp_path, SKAFOS_CLICKHOUSE_URL=url)
    assert shipper.stderr is not None
    shipper.stderr.readline()

    shipper.send_signal(signal.SIGTERM)
    assert shipper.wait(30) == 0
    log = shipper.stderr.read()
    shipper.stderr.close()

    assert b'"drained": true' in log
    assert b"only-for-tests" not in log  # the password of the address
    warehouse = open_warehouse(url, tmp_path / "unused")
    assert await warehouse.query(COUNT) == [{"n": 5}]
    await warehouse.close()


async def test_operators_can_ask_for_health_readiness_and_metrics(tmp_path: Path) -> None:
    warehouse = open_warehouse("clickhouse://127.0.0.1:1/skafos", tmp_path)  # nobody is there
    async with TestClient(TestServer(operations_app(warehouse, tmp_path))) as client:
        statuses = {path: (await client.get(path)).status for path in ("/healthz", "/readyz", "/metrics")}
        text = await (await client.get("/metrics")).text()
    await warehouse.close()
    async with TestClient(TestServer(operations_app(MemoryWarehouse(), tmp_path))) as client:
        ready = (await client.get("/readyz")).status

    assert statuses == {"/healthz": 200, "/readyz": 503, "/metrics": 200}
    assert ready == 200
    assert "skafos_shipper_events_total" in text


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"SKAFOS_CLICKHOUSE_URL": "http://user:secret@host"}, "clickhouse://"),
        ({"SKAFOS_SHIPPER_METRICS_LISTEN": "nowhere"}, "SKAFOS_SHIPPER_METRICS_LISTEN"),
        ({"SKAFOS_SHIPPER_INTERVAL_SECONDS": "0"}, "SKAFOS_SHIPPER_INTERVAL_SECONDS"),
        ({"SKAFOS_CLICKHOUSE_CLUSTER": "c", "SKAFOS_DATA": "x"}, "SKAFOS_CLICKHOUSE_CLUSTER needs"),
    ],
)
def test_wrong_settings_are_named_and_secrets_are_not(tmp_path: Path, wrong: dict[str, str], said: str) -> None:
    shipper = run_shipper(tmp_path, **wrong)
    _, told = shipper.communicate(timeout=30)

    assert shipper.returncode == 2
    assert said in told.decode()
    assert "secret" not in told.decode()
