"""From the spool to ClickHouse: how many events a second one shipper brings in, with all views.

`bench.telemetry.shipping` looks closer: the CPU of each stage, and the worst case of a shipper.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.edge.cores import on
from bench.edge.probe import WrongAnswer
from bench.edge.site import BATCH_EVENTS
from bench.telemetry.bodies import varied_bodies
from bench.telemetry.fleet import APPS, labels_of
from bench.telemetry.settings import Run
from bench.telemetry.spooling import spool_bodies
from telemetry.shipper import Shipper
from telemetry.warehouse import open_warehouse
from tests.servers.clickhouse import clickhouse_server

BATCHES: Final = 20_000
"""400,000 events: some seconds at the rate that is the goal."""
PATIENCE_SECONDS: Final = 600.0


@dataclass
class Drained:
    """What one engine took.

    Args:
        engine: ``server`` or ``embedded``.
        events: each time.
        seconds: of each round, from the shipper's first look to the empty spool.
        cpu_seconds: of this process in each round: the shipper's, and an embedded engine's.
    """

    engine: str
    events: int
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)


def measure_draining(run: Run) -> list[Drained]:
    """Ship one and the same spool into new tables, round by round; everything shares both cores."""
    full = run.new_folder("spool")
    labels = [labels_of(app) for app in range(APPS)]
    with on(*run.bench.cores.both):
        asyncio.run(spool_bodies(varied_bodies(BATCHES, BATCH_EVENTS), labels, full / "edge-0"))
        results = [Drained(engine, BATCHES * BATCH_EVENTS) for engine in run.engines]
        for number in run.bench.turns("spool to ClickHouse"):
            for result in results:
                _drain(run, full, result)
                run.bench.say(
                    f"spool to ClickHouse, round {number + 1}: {result.engine} "
                    f"{result.events / result.seconds[-1]:,.0f} events/s"
                )
    return results


def _drain(run: Run, full: Path, result: Drained) -> None:
    with ExitStack() as stack:
        url = None
        if result.engine == "server":
            url = stack.enter_context(clickhouse_server(run.new_folder("clickhouse"))).url
        spool = run.new_folder("draining")
        shutil.copytree(full, spool, dirs_exist_ok=True)
        asyncio.run(_ship(url, spool, run.new_folder("embedded"), result))


async def _ship(url: str | None, spool: Path, folder: Path, result: Drained) -> None:
    warehouse = open_warehouse(url, folder)
    try:
        await warehouse.migrate()
        began, used = time.perf_counter(), time.process_time()
        if not await Shipper(spool, warehouse).drain(PATIENCE_SECONDS):
            raise WrongAnswer("the spool is not empty after ten minutes")
        result.seconds.append(time.perf_counter() - began)
        result.cpu_seconds.append(time.process_time() - used)
        events = int((await warehouse.query("SELECT count() AS events FROM raw_events"))[0]["events"])
        if events != result.events:
            raise WrongAnswer(f"{result.events:,} events were shipped, {events:,} are there")
    finally:
        await warehouse.close()
