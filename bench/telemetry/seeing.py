"""How long it takes until an accepted event is seen in adoption: edge, spool, shipper, ClickHouse, question."""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from datetime import UTC, datetime
from typing import Final

from bench.edge.cores import on
from bench.edge.probe import WrongAnswer, ask, request
from bench.edge.worker import edge_worker
from bench.telemetry.settings import PROBES, Run
from bench.telemetry.shipper_process import SUBJECT, shipper_process
from telemetry.queries import last_days, version_mix
from telemetry.warehouse import Warehouse, open_warehouse
from tests.servers.clickhouse import clickhouse_server

POLL_SECONDS: Final = 0.01
PATIENCE_SECONDS: Final = 60.0


def measure_seeing(run: Run) -> list[float]:
    """Return the seconds from an answer 202 until the version mix counts the device, once for each of some devices."""
    folder = run.new_folder("seeing")
    with (
        on(*run.bench.cores.both),
        clickhouse_server(run.new_folder("clickhouse")) as clickhouse,
        edge_worker(run.bench.site, folder) as edge,
        shipper_process(folder / "spool", clickhouse.url, folder),
    ):
        times = asyncio.run(_seen(run, edge.address, clickhouse.url))
    run.bench.say(f"accepted to visible: slowest of {len(times)} {max(times):.2f} s")
    return times


async def _seen(run: Run, address: tuple[str, int], url: str) -> list[float]:
    warehouse = open_warehouse(url, run.bench.folder)
    chance = random.Random(1)
    path = f"{run.bench.site.environment_path}/events"
    times = []
    try:
        await warehouse.migrate()
        for number in range(PROBES):
            answer = ask(address, request("POST", path, {"Content-Type": "application/json"}, _body()))
            accepted = time.monotonic()
            if answer.status != 202:
                raise WrongAnswer(f"the edge answers {answer.status} instead of 202")
            await _counted(warehouse, number + 1, accepted)
            times.append(time.monotonic() - accepted)
            await asyncio.sleep(chance.random())  # so that probes meet the half seconds of spool and shipper anywhere
    finally:
        await warehouse.close()
    return times


async def _counted(warehouse: Warehouse, devices: int, since: float) -> None:
    while True:
        mix = await version_mix(warehouse, SUBJECT, last_days(2, datetime.now(UTC)))
        if sum(share.devices for share in mix) >= devices:
            return
        if time.monotonic() - since > PATIENCE_SECONDS:
            raise WrongAnswer("an accepted event is not seen")
        await asyncio.sleep(POLL_SECONDS)


def _body() -> bytes:
    event = {
        "event_id": str(uuid.uuid4()),
        "type": "check",
        "occurred_at": time.time(),
        "device_id": str(uuid.uuid4()),
        "model": SUBJECT.names[0].name,
        "version": 1,
    }
    return json.dumps([event]).encode()
