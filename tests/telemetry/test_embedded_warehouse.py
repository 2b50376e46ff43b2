"""The embedded engine as a guest in our process: its directory, its memory, its configuration."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from telemetry.columns import event_columns
from telemetry.embedded_warehouse import EmbeddedWarehouse
from telemetry.migrate import load_migrations
from telemetry.warehouse import WarehouseUnavailable
from tests.telemetry.samples import event, record

MAX_RESIDENT_AT_REST_MB = 200
"""Of a whole Python process with the engine open; without care for it the same process takes 300."""

HOLDER = """
import asyncio, os, sys
from pathlib import Path
from telemetry.warehouse import open_warehouse
from telemetry.columns import event_columns
from tests.telemetry.samples import event, record

async def main():
    before = os.getcwd()
    warehouse = open_warehouse(None, Path(sys.argv[1]))
    await warehouse.migrate()
    await warehouse.insert_events(event_columns([record(event())]), "one")
    assert os.getcwd() == before
    assert "pyarrow" not in sys.modules
    await asyncio.sleep(1)
    resident = [line for line in open("/proc/self/status") if line.startswith("VmRSS")][0].split()[1]
    print("resident", int(resident) // 1024, flush=True)
    sys.stdin.readline()
    await warehouse.close()

asyncio.run(main())
"""


def holder(directory: Path, working_directory: Path | None = None) -> subprocess.Popen[str]:
    """A process that opens the warehouse and holds it until a line comes."""
    here = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {here!r})\n{HOLDER}", str(directory)],
        cwd=working_directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def resident_megabytes(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    for line in process.stdout:  # the log comes first
        word, _, megabytes = line.partition(" ")
        if word == "resident":
            return int(megabytes)
    raise AssertionError("the process ended")


def test_a_foreign_config_file_in_the_working_directory_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "config.xml").write_text("<clickhouse><broken")
    process = holder(tmp_path / "clickhouse", working_directory=tmp_path)

    assert resident_megabytes(process) > 0
    process.communicate("\n", timeout=30)
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in /proc")
def test_at_rest_the_engine_takes_little_memory(tmp_path: Path) -> None:
    process = holder(tmp_path / "clickhouse")
    megabytes = resident_megabytes(process)
    process.communicate("\n", timeout=30)

    assert megabytes < MAX_RESIDENT_AT_REST_MB


async def test_a_second_process_is_told_that_the_directory_is_in_use(tmp_path: Path) -> None:
    process = holder(tmp_path / "clickhouse")
    resident_megabytes(process)
    second = EmbeddedWarehouse(tmp_path / "clickhouse")
    with pytest.raises(WarehouseUnavailable, match="another process"):
        await second.migrate()
    process.communicate("\n", timeout=30)

    await second.migrate()  # and when the first is gone, it works

    assert await second.query("SELECT count() AS n FROM events") == [{"n": 1}]
    await second.close()


async def test_a_killed_process_leaves_every_inserted_event(tmp_path: Path) -> None:
    process = holder(tmp_path / "clickhouse")
    resident_megabytes(process)
    process.kill()
    process.communicate()

    warehouse = EmbeddedWarehouse(tmp_path / "clickhouse")
    assert await warehouse.query("SELECT count() AS n FROM events") == [{"n": 1}]
    await warehouse.close()


async def test_a_retry_reaches_the_tables_behind_even_when_the_raw_events_are_in_already(tmp_path: Path) -> None:
    warehouse = EmbeddedWarehouse(tmp_path / "clickhouse")
    await warehouse.migrate()
    ((lane, session),) = warehouse._lanes["insert"]
    (feed,) = [one.sql for one in load_migrations()[0].statements if "VIEW IF NOT EXISTS devices_feed" in one.sql]
    columns = event_columns([record(event("activate", version=1))])

    await lane.run(session.run, "DROP TABLE devices_feed")  # as if the process had died before this table got its rows
    await warehouse.insert_events(columns, "one")
    await lane.run(session.run, feed)
    await warehouse.insert_events(columns, "one")

    assert await warehouse.query("SELECT count() AS n FROM raw_events") == [{"n": 1}]
    assert await warehouse.query("SELECT count() AS n FROM devices") == [{"n": 1}]
    await warehouse.close()


async def test_an_insert_that_a_view_refuses_is_no_success(tmp_path: Path) -> None:
    warehouse = EmbeddedWarehouse(tmp_path / "clickhouse")
    await warehouse.migrate()
    ((lane, session),) = warehouse._lanes["insert"]
    columns = event_columns([record(event())])

    await lane.run(session.run, "CREATE TABLE more (n UInt8) ENGINE = Memory")
    await lane.run(session.run, "CREATE MATERIALIZED VIEW feed TO more AS SELECT throwIf(1) AS n FROM raw_events")
    with pytest.raises(WarehouseUnavailable):
        await warehouse.insert_events(columns, "one")
    await lane.run(session.run, "DROP TABLE feed")
    await warehouse.insert_events(columns, "one")

    assert await warehouse.query("SELECT count() AS n FROM events") == [{"n": 1}]
    await warehouse.close()


async def test_two_questions_at_once_do_not_wait_for_each_other(tmp_path: Path) -> None:
    warehouse = EmbeddedWarehouse(tmp_path / "clickhouse")
    await warehouse.migrate()
    asked = [asyncio.create_task(warehouse.query(f"SELECT {number} AS n, sleep(0.1)")) for number in range(4)]
    await asyncio.sleep(0)
    assert [lane.waiting for lane, _ in warehouse._lanes["query"]] == [2, 2]
    assert [rows[0]["n"] for rows in await asyncio.gather(*asked)] == [0, 1, 2, 3]
    await warehouse.close()


async def test_a_closed_warehouse_is_unavailable_and_may_be_closed_again(tmp_path: Path) -> None:
    warehouse = EmbeddedWarehouse(tmp_path / "clickhouse")
    await warehouse.migrate()
    await warehouse.close()
    await warehouse.close()

    with pytest.raises(WarehouseUnavailable):
        await warehouse.ping()
