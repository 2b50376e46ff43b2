"""Whatever is killed under load, at whatever moment: every acknowledged event is there once, and the answers are exact.

Devices hand in batches at a real edge, again and again until they are told 202, while a killer ends one process after
the other with SIGKILL: the edge worker, the shipper (with the embedded engine it is chdb's process too), ClickHouse.
``make test-kills`` does it 100 times to each; here it is a few times.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout

from telemetry.adoption import ModelName, adoption
from telemetry.warehouse import Warehouse, open_warehouse
from tests.edge.site import LABELS, EdgeProcess, Environment, Site, release_of
from tests.environment import environment_with
from tests.servers.clickhouse import ClickHouseServer, clickhouse_server
from tests.servers.redis import running_redis
from tests.telemetry.samples import event

KILLS = int(os.environ.get("SKAFOS_TEST_KILLS", "2"))
"""Of each process."""
LONGEST_LIFE_SECONDS = 0.8
"""A process that was started again is left alone for some part of this; inserts take some tens of milliseconds."""
LONGEST_ABSENCE_SECONDS = 0.5
MANY_KILLS = 50
"""So many find a shipper in the middle of an insert."""
OFTEN = {"SKAFOS_SHIPPER_METRICS_LISTEN": "127.0.0.1:0", "SKAFOS_SHIPPER_INTERVAL_SECONDS": "0.02"}
CLIENTS = 3
DEVICES = 20
"""Of each client."""
EVENTS = 20
PAUSE_SECONDS = 0.01
PATIENCE_SECONDS = 120.0
MODEL = "digits"

pytestmark = pytest.mark.timeout(300 + 20 * KILLS)


@dataclass
class Devices:
    """Those who report, and what they were told 202 for."""

    address: str = ""
    acknowledged: set[UUID] = field(default_factory=set)
    held: dict[str, int] = field(default_factory=dict)
    stopped: bool = False

    async def report(self, client: int, path: str, rng: random.Random) -> None:
        """Report until stopped: each device in turn has activated the next version; every batch until it is taken."""
        async with ClientSession(timeout=ClientTimeout(total=5)) as session:
            turn = 0
            while not self.stopped:
                device, version = f"{client}-{turn % DEVICES}", turn // DEVICES + 1
                turn += 1
                batch = [
                    event("check", device, model=MODEL, version=version - 1, locale=rng.choice(["de", "en"]))
                    for _ in range(EVENTS - 1)
                ]
                batch.append(event("activate", device, model=MODEL, version=version, from_version=version - 1))
                await self._hand_in(session, path, batch)
                self.acknowledged.update(UUID(one["event_id"]) for one in batch)
                self.held[device] = version
                await asyncio.sleep(PAUSE_SECONDS)

    async def _hand_in(self, session: ClientSession, path: str, batch: list[dict[str, object]]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not await self._accepted(session, path, batch):
            assert time.monotonic() < deadline, "the edge takes nothing"
            await asyncio.sleep(0.05)

    async def _accepted(self, session: ClientSession, path: str, batch: list[dict[str, object]]) -> bool:
        try:
            async with session.post(f"http://{self.address}{path}", json=batch) as answer:
                return answer.status == 202
        except (ClientError, OSError, TimeoutError):
            return False


@dataclass
class Victim:
    """A process that can be killed, and started again; both block."""

    name: str
    kill: Callable[[], object]
    start: Callable[[], object]


class ShipperProcess:
    """`python -m telemetry`, from settings."""

    def __init__(self, settings: dict[str, str], log: Path) -> None:
        self.killed_while_inserting = 0
        self._batches = Path(settings["SKAFOS_SPOOL_DIR"]) / ".claims"
        self._environment = environment_with(OFTEN | settings)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([sys.executable, "-m", "telemetry"], env=self._environment, stderr=log)
            begin = log.tell()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while b"shipper_started" not in self._log.read_bytes()[begin:]:
            assert time.monotonic() < deadline, self._log.read_text()[-2000:]
            time.sleep(0.01)

    def kill(self) -> None:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()[-2000:]
        self._process.kill()
        self._process.wait()
        self.killed_while_inserting += bool(list(self._batches.glob("*.batch")))

    def stop(self) -> int:
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(PATIENCE_SECONDS)

    def end(self) -> None:
        """See to it that none is left, whatever came of the test."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextlib.asynccontextmanager
async def under_load(site: Site, seed: int) -> AsyncIterator[tuple[Devices, Victim]]:
    """Run an edge process and devices that report to it."""
    environment = Environment([release_of(b"artifact")])
    await site.publish(environment)
    process: EdgeProcess = site.process()
    devices = Devices()

    loop = asyncio.get_running_loop()

    def start() -> None:
        devices.address = process.start(loop).listen

    start()
    path = f"/v2/environments/{environment.key}/events"
    reporting = [loop.create_task(devices.report(n, path, random.Random(seed + n))) for n in range(CLIENTS)]
    try:
        yield devices, Victim("edge", lambda: process.end(signal.SIGKILL), start)
    finally:
        devices.stopped = True
        await asyncio.gather(*reporting)
        process.end(signal.SIGTERM)


async def kill_each(victims: list[Victim], rng: random.Random) -> None:
    """Kill each of them ``KILLS`` times, in random order, at random moments, each for a random while."""
    order = [victim for victim in victims for _ in range(KILLS)]
    rng.shuffle(order)
    for victim in order:
        await asyncio.sleep(rng.random() * LONGEST_LIFE_SECONDS)
        await asyncio.to_thread(victim.kill)
        await asyncio.sleep(rng.random() * LONGEST_ABSENCE_SECONDS)
        await asyncio.to_thread(victim.start)


async def everything_is_shipped(spool: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while list(spool.glob("*/*.ready")) or list(spool.glob("*/*.open")):
        assert time.monotonic() < deadline, "segments are left"
        await asyncio.sleep(0.05)


async def expect_all_once(warehouse: Warehouse, devices: Devices) -> None:
    """Every acknowledged event once, no other, and adoption as the devices know it."""
    rows = await warehouse.query("SELECT event_id, count() AS n FROM events GROUP BY event_id")
    assert {UUID(str(row["event_id"])) for row in rows} == devices.acknowledged
    assert {int(row["n"]) for row in rows} == {1}
    counts: dict[int | None, int] = defaultdict(int)
    for version in devices.held.values():
        counts[version] += 1
    ids = (LABELS.organization_id, LABELS.application_id, LABELS.environment)
    report = await adoption(warehouse, *ids, [ModelName(MODEL)], 2, datetime.now(UTC))
    assert {share.version: share.devices for share in report.now} == counts
    assert report.installations == len(devices.held)
    assert not report.failures


@pytest.mark.parametrize("kind", ["server", "embedded"])
async def test_every_acknowledged_event_is_there_once_whatever_is_killed(tmp_path: Path, kind: str) -> None:
    seed = int(os.environ.get("SKAFOS_TEST_SEED", "1"))
    rng = random.Random(seed)
    settings = {"SKAFOS_SPOOL_DIR": str(tmp_path / "spool"), "SKAFOS_DATA": str(tmp_path / "data")}
    async with contextlib.AsyncExitStack() as stack:
        victims = []
        url = None
        if kind == "server":
            server: ClickHouseServer = stack.enter_context(clickhouse_server(tmp_path / "server"))
            url = settings["SKAFOS_CLICKHOUSE_URL"] = server.url
            victims.append(Victim("ClickHouse", server.kill, server.start))
        shipper = ShipperProcess(settings, tmp_path / "shipper.log")
        stack.callback(shipper.end)
        victims.append(Victim("shipper", shipper.kill, shipper.start))
        shipper.start()
        site = await stack.enter_async_context(Site(tmp_path, stack.enter_context(running_redis())))
        async with under_load(site, seed) as (devices, edge):
            await kill_each([*victims, edge], rng)
        await everything_is_shipped(tmp_path / "spool")
        assert shipper.stop() == 0

        warehouse = open_warehouse(url, tmp_path / "data" / "clickhouse")
        try:
            await expect_all_once(warehouse, devices)
        finally:
            await warehouse.close()
        assert not (tmp_path / "spool" / "dead-letter").exists()
        if KILLS >= MANY_KILLS:
            assert shipper.killed_while_inserting
        print(f"{len(devices.acknowledged)} events; {shipper.killed_while_inserting} kills within an insert")
