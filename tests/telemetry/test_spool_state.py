"""What waits in a spool is told from outside, whoever is at work in it."""

from __future__ import annotations

from pathlib import Path

from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import REGISTRY

from telemetry.__main__ import operations_app
from telemetry.spool import Spool
from telemetry.spool_state import SpoolState, look
from telemetry.warehouse import open_warehouse
from telemetry.writers import DEAD_LETTER
from tests.telemetry.samples import NOON, body, event, labels

NOTHING = SpoolState(0, 0, 0.0, 0, 0)


def segment(root: Path, writer: str, begun: float, size: int) -> None:
    (root / writer).mkdir(parents=True, exist_ok=True)
    (root / writer / f"{int(begun * 1e9):020d}-abcd.ready").write_bytes(bytes(size))


def test_a_spool_that_is_not_there_yet_is_an_empty_one(tmp_path: Path) -> None:
    assert look(tmp_path / "spool", 1000.0) == NOTHING


def test_waiting_and_dead_segments_of_all_writers_are_told(tmp_path: Path) -> None:
    segment(tmp_path, "0", 900.0, 10)
    segment(tmp_path, "1", 700.0, 20)
    (tmp_path / "1" / "00000000000000000001-abcd.open").write_bytes(bytes(400))
    grave = tmp_path / DEAD_LETTER
    grave.mkdir()
    (grave / "0-x.segment").write_bytes(bytes(5))
    (grave / "0-x.reason.json").write_text("{}")
    assert look(tmp_path, 1000.0) == SpoolState(2, 30, 300.0, 1, 5)


def test_a_clock_that_was_set_back_gives_no_negative_age(tmp_path: Path) -> None:
    segment(tmp_path, "0", 2000.0, 1)
    assert look(tmp_path, 1000.0).oldest_seconds == 0.0


async def test_the_metrics_port_tells_what_waits_while_nobody_ships(tmp_path: Path) -> None:
    warehouse = open_warehouse("clickhouse://127.0.0.1:1/skafos", tmp_path)  # nobody is there
    async with Spool(tmp_path / "spool" / "0") as spool:
        await spool.append(labels(), body(event()), NOON)
    async with TestClient(TestServer(operations_app(warehouse, tmp_path / "spool"))) as client:
        text = await (await client.get("/metrics")).text()
    await warehouse.close()
    assert "skafos_shipper_waiting_segments 1.0" in text
    assert REGISTRY.get_sample_value("skafos_shipper_waiting_bytes") == look(tmp_path / "spool", 0).waiting_bytes > 0
