"""ClickHouse goes away while events arrive, and comes back: what is lost, and how fast the shipper catches up."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from bench.edge.cores import on
from bench.edge.site import BATCH_EVENTS
from bench.edge.worker import edge_worker
from bench.telemetry.posting import Posting
from bench.telemetry.settings import Run
from bench.telemetry.shipper_process import shipper_process
from telemetry.warehouse import Warehouse, WarehouseUnavailable, open_warehouse
from tests.servers.clickhouse import ClickHouseServer, clickhouse_server

SETTLED_SECONDS: Final = 3.0
"""Events arrive for so long before ClickHouse goes."""
CAUGHT_UP_SECONDS: Final = 2.0
"""No further behind than the product is at rest."""
POLL_SECONDS: Final = 0.2
MAX_CATCH_UP: Final = 10.0
"""Times of the outage after which it counts as not caught up."""
LEAST_PATIENCE_SECONDS: Final = 120.0
SPOOL_BYTES: Final = 64 << 30
"""An hour at some 20,000 events per second is 24 GB."""


@dataclass(frozen=True)
class CaughtUp:
    """An outage.

    Args:
        away_seconds: until ClickHouse was started again.
        first_seconds: from then until the first rows were in it: the start, and the shipper's pause.
        catching_seconds: from then until it was no further behind than usual; None when it never was.
        arrivals: events per second that really arrived.
        accepted, found: events that were acknowledged, and different ones that are in the table in the end.
    """

    away_seconds: float
    first_seconds: float
    catching_seconds: float | None
    arrivals: float
    accepted: int
    found: int

    @property
    def ratio(self) -> float | None:
        """Return how fast the shipper was while it caught up, in arrival rates."""
        if self.catching_seconds is None:
            return None
        return (self.away_seconds + self.first_seconds + self.catching_seconds) / self.catching_seconds


def measure_outage(run: Run) -> CaughtUp:
    """Take ClickHouse away for a while and measure what follows; everything shares both cores."""
    folder = run.new_folder("outage")
    with (
        on(*run.bench.cores.both),
        clickhouse_server(run.new_folder("clickhouse")) as clickhouse,
        edge_worker(run.bench.site, folder, more={"SKAFOS_SPOOL_MAX_BYTES": str(SPOOL_BYTES)}) as edge,
        shipper_process(folder / "spool", clickhouse.url, folder),
    ):
        bodies = run.bench.site.events_varied.read_bytes().splitlines()
        path = f"{run.bench.site.environment_path}/events"
        posting = Posting(edge.address, path, bodies, run.arrivals / BATCH_EVENTS)
        told = asyncio.run(_outage(run, posting, clickhouse))
    ratio = "never" if told.ratio is None else f"{told.ratio:.1f} times the arrivals"
    run.bench.say(
        f"outage of {told.away_seconds:.0f} s: caught up at {ratio}; {told.found:,} of {told.accepted:,} events"
    )
    return told


async def _outage(run: Run, posting: Posting, clickhouse: ClickHouseServer) -> CaughtUp:
    warehouse = open_warehouse(clickhouse.url, run.bench.folder)
    loading = asyncio.create_task(posting.run())
    try:
        began = time.monotonic()
        await asyncio.sleep(SETTLED_SECONDS)
        await asyncio.to_thread(clickhouse.stop)
        gone, before = time.monotonic(), posting.accepted
        await asyncio.sleep(run.outage_seconds)
        back = time.monotonic()
        await asyncio.to_thread(clickhouse.start)
        first = await _first_rows(warehouse, loading)
        caught_up = await _catch_up(run, posting, warehouse, first, loading)
        arrivals = (posting.accepted - before) * BATCH_EVENTS / (time.monotonic() - gone)
        posting.stop()
        await loading
        found = await _found(warehouse, posting)
        run.bench.say(f"outage: load ran {time.monotonic() - began:.0f} s, at most {posting.behind:.2f} s late")
    finally:
        posting.stop()
        await warehouse.close()
    catching = None if caught_up is None else caught_up - first
    return CaughtUp(back - gone, first - back, catching, arrivals, posting.accepted * BATCH_EVENTS, found)


async def _first_rows(warehouse: Warehouse, loading: asyncio.Task[None]) -> float:
    """Return when there were more rows than ClickHouse came back with."""
    there = await _rows(warehouse)
    while True:
        if await _rows(warehouse) > there or loading.done():
            return time.monotonic()
        await asyncio.sleep(POLL_SECONDS)


async def _catch_up(
    run: Run, posting: Posting, warehouse: Warehouse, since: float, loading: asyncio.Task[None]
) -> float | None:
    """Return when no more was missing than is on its way at rest."""
    usual = run.arrivals * CAUGHT_UP_SECONDS
    patience = max(LEAST_PATIENCE_SECONDS, run.outage_seconds * MAX_CATCH_UP)
    while time.monotonic() - since < patience and not loading.done():
        accepted = posting.accepted * BATCH_EVENTS
        if await _rows(warehouse) >= accepted - usual:
            return time.monotonic()
        await asyncio.sleep(POLL_SECONDS)
    return None


async def _rows(warehouse: Warehouse) -> int:
    try:
        return int((await warehouse.query("SELECT count() AS rows FROM raw_events"))[0]["rows"])
    except WarehouseUnavailable:
        return 0


async def _found(warehouse: Warehouse, posting: Posting) -> int:
    """Return how many different events there are, once no more come."""
    accepted = posting.accepted * BATCH_EVENTS
    deadline = time.monotonic() + LEAST_PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if await _rows(warehouse) >= accepted:
            break
        await asyncio.sleep(POLL_SECONDS)
    # Rows may have come twice, so they are told apart now, which takes a minute for each fifty million on 18.16.
    found = await _different(warehouse)
    deadline = time.monotonic() + LEAST_PATIENCE_SECONDS
    while time.monotonic() < deadline and found < accepted:
        await asyncio.sleep(POLL_SECONDS)
        found = await _different(warehouse)
    return found


async def _different(warehouse: Warehouse) -> int:
    rows = await warehouse.query("SELECT count() AS events FROM (SELECT event_id FROM raw_events FINAL) AS event")
    return int(rows[0]["events"])
