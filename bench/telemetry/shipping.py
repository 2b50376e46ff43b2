"""Measure the way from spool to ClickHouse: ``python -m bench.telemetry.shipping``.

It writes varied events into a spool by the spool's own code, and has the real shipper bring them into Debian's server,
over TCP, and into the embedded engine:

* how many events a second, and the CPU time of an event by stage;
* how soon an event that was accepted is seen in an answer;
* after ClickHouse was away: how much faster than they arrive events are shipped.

Batches are a device's own, as devices send them; ``--scattered`` has another device in each event, the worst case for
whatever groups by device.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec
import psutil  # type: ignore[import-untyped]

from bench.edge.machine import machine
from telemetry.columns import COLUMN_TYPES, COLUMNS, _chunks, event_columns
from telemetry.native import encode_block
from telemetry.segment import EventLabels, decode_segment
from telemetry.shipper import Shipper
from telemetry.spool import Spool
from telemetry.warehouse import Warehouse, open_warehouse
from tests.servers.clickhouse import clickhouse_server

BATCH_EVENTS: Final = 20
DEVICES: Final = 200_000
APPLICATIONS: Final = 12
MAX_SPOOL_BYTES: Final = 1 << 40
WAITING_BATCHES: Final = 64
MOST_AT_ONCE: Final = 1_000
"""Batches, 6 MB: what a writer that was held up makes good in one go."""
LARGEST_DEADLINE: Final = 3600.0
PROBES: Final = 200
PROBE_SECONDS: Final = 0.05
MODELS: Final = ("faces", "voices", "texts")
SYSTEMS: Final = (*(("iOS", f"19.{n}") for n in range(6)), *(("Android", str(n)) for n in range(12, 17)))
HARDWARE: Final = (*(f"iPhone{a},{b}" for a in range(13, 19) for b in range(1, 5)), *(f"Pixel {n}" for n in range(12)))
LOCALES: Final = ("de-AT", "en-US", "en-GB", "fr-FR", "ja-JP", "pt-BR", "es-ES", "it-IT")
DAY: Final = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
LABELS: Final = tuple(
    EventLabels(f"org-{n % 4}", f"Organization {n % 4}", f"app-{n}", f"App {n}", "prod" if n % 3 else "dev")
    for n in range(APPLICATIONS)
)


def batch(rng: random.Random, *, scattered: bool = False) -> bytes:
    """Return a batch of events as a device sends it: mostly checks, now and then an update, or what failed."""
    (system, system_version), hardware, device = rng.choice(SYSTEMS), rng.choice(HARDWARE), rng.randrange(DEVICES)
    events = []
    for _ in range(BATCH_EVENTS):
        kind = rng.choices(("check", "download", "verify", "activate", "error"), (80, 6, 6, 6, 2))[0]
        version = rng.randrange(1, 40)
        at = DAY + timedelta(milliseconds=rng.randrange(86_400_000))
        made: dict[str, Any] = {
            "event_id": str(UUID(int=rng.getrandbits(128), version=4)),
            "type": kind,
            "occurred_at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "device_id": str(UUID(int=rng.getrandbits(128) if scattered else device * 7919 << 64, version=4)),
            "model": rng.choice(MODELS),
            "version": version,
            "os": system,
            "os_version": system_version,
            "device_model": hardware,
            "app_version": f"4.{rng.randrange(20)}.{rng.randrange(5)}",
            "locale": rng.choice(LOCALES),
        }
        if kind != "check":
            made |= {"from_version": version - 1, "bytes": rng.randrange(10**6), "full_bytes": rng.randrange(10**7)}
            made |= {"duration_ms": rng.randrange(300_000) / 10, "encoding": rng.choice(("identity", "skafos-delta"))}
        if kind == "error":
            made["error"] = rng.choice(("disk full", "checksum mismatch", f"no answer in {rng.randrange(30_000)} ms"))
        events.append(made)
    return msgspec.json.encode(events)


async def fill(directory: Path, events: int, *, scattered: bool) -> int:
    """Write so many events, or a few more, into a writer's directory; return how many."""
    rng = random.Random(1)
    written = 0
    async with Spool(directory, MAX_SPOOL_BYTES, durability="os") as spool:
        while written < events:
            made = [batch(rng, scattered=scattered) for _ in range(WAITING_BATCHES)]
            await asyncio.gather(*(spool.append(rng.choice(LABELS), one, datetime.now(UTC)) for one in made))
            written += WAITING_BATCHES * BATCH_EVENTS
    return written


async def arrive(directory: Path, rate: float, seconds: float) -> None:
    """Write events at a rate, as an edge worker would; batches are made beforehand and come again with new ids."""
    rng = random.Random(2)
    bodies = [batch(rng) for _ in range(1_000)]
    begun, batches = time.monotonic(), 0
    async with Spool(directory, MAX_SPOOL_BYTES, durability="os") as spool:
        while (passed := time.monotonic() - begun) < seconds:
            due = min(int(passed * rate / BATCH_EVENTS) - batches, MOST_AT_ONCE)
            body = bodies[batches % len(bodies)]
            await asyncio.gather(*(spool.append(rng.choice(LABELS), body, datetime.now(UTC)) for _ in range(due)))
            batches += due
            await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Stages:
    """CPU microseconds of an event in this process, one after the other and alone."""

    segment: float
    decode: float
    columns: float
    block: float


def stages(segments: Sequence[bytes]) -> Stages:
    """Measure the stages before the insert, each the best of three."""
    contents, segment = timed(lambda: [decode_segment(data) for data in segments])
    records = [record for content in contents for record in content.records]
    _, decode = timed(lambda: [None for _ in _chunks(records)])
    made, columns = timed(lambda: event_columns(records))
    _, block = timed(lambda: encode_block(COLUMNS, COLUMN_TYPES.values(), made.values, made.count))
    per_event = 1e6 / made.count
    return Stages(segment * per_event, decode * per_event, (columns - decode) * per_event, block * per_event)


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return a call's result and the least CPU seconds of three."""
    least = float("inf")
    for _ in range(3):
        begun = time.process_time()
        result = call()
        least = min(least, time.process_time() - begun)
    return result, least


@contextmanager
def engine(kind: str, folder: Path) -> Iterator[tuple[Warehouse, psutil.Process | None]]:
    """Open a warehouse of its own: ``server`` or ``chdb``; the process of the first comes with it."""
    with ExitStack() as stack:
        if kind == "chdb":
            yield open_warehouse(None, folder / "chdb"), None
        else:
            server = stack.enter_context(clickhouse_server(folder / "server"))
            assert server.process is not None
            yield open_warehouse(server.url, folder), psutil.Process(server.process.pid)


async def ship_all(kind: str, spool: Path, folder: Path, events: int) -> str:
    """Ship a copy of the spool; return what that took, in a line."""
    shutil.copytree(spool, folder / "spool")
    with engine(kind, folder) as (warehouse, server):
        await warehouse.migrate()
        shipper = Shipper(folder / "spool", warehouse)
        begun, own, theirs = time.perf_counter(), time.process_time(), cpu(server)
        assert await shipper.drain(LARGEST_DEADLINE)
        seconds, own, theirs = time.perf_counter() - begun, time.process_time() - own, cpu(server) - theirs
        assert await warehouse.query("SELECT count() AS n FROM raw_events") == [{"n": events}]
        await warehouse.close()
    line = f"{kind}: {events / seconds:,.0f} events/s; CPU {own / events * 1e6:.2f} µs an event in this process"
    return line + (f", {theirs / events * 1e6:.2f} in the server" if server else ", the engine included")


def cpu(process: psutil.Process | None) -> float:
    """Return the CPU seconds of another process, 0 without one."""
    if process is None:
        return 0.0
    times = process.cpu_times()
    return float(times.user + times.system)


async def after_an_outage(kind: str, spool: Path, folder: Path, events: int, rate: float) -> str:
    """Let events go on arriving while what waited is shipped; return how much faster that is, in a line."""
    shutil.copytree(spool, folder / "spool")
    with engine(kind, folder) as (warehouse, _):
        await warehouse.migrate()
        async with arriving(folder / "spool" / "arriving", rate), shipping(folder / "spool", warehouse):
            begun = time.monotonic()
            await emptied(folder / "spool" / "edge-0")
            seconds = time.monotonic() - begun
            shipped = int((await warehouse.query("SELECT count() AS n FROM raw_events"))[0]["n"])
        await warehouse.close()
    return (
        f"{kind}: {events:,} events that waited were shipped in {seconds:.1f} s while {rate:,.0f} a second arrived: "
        f"{shipped / seconds / rate:.1f} times the arrival rate"
    )


async def emptied(directory: Path) -> None:
    """Return when no segment of a writer waits any more."""
    deadline = time.monotonic() + LARGEST_DEADLINE
    while list(directory.glob("*.ready")):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def time_to_see(kind: str, folder: Path, rate: float) -> str:
    """Return how soon events are seen in the tables that adoption is answered from, while others arrive, in a line."""
    with engine(kind, folder) as (warehouse, _):
        await warehouse.migrate()
        async with (
            arriving(folder / "spool" / "edge-0", rate),
            shipping(folder / "spool", warehouse),
            Spool(folder / "spool" / "probes") as spool,
        ):
            probing = asyncio.create_task(probe(spool))
            seen: dict[str, float] = {}
            while len(seen) < PROBES:
                rows = await warehouse.query("SELECT device_id FROM devices WHERE model = 'probe'")
                now = time.monotonic()
                for row in rows:
                    seen.setdefault(row["device_id"], now)
                await asyncio.sleep(PROBE_SECONDS)
            accepted = await probing
        await warehouse.close()
    waits = sorted(seen[device] - at for device, at in accepted.items())
    cuts = statistics.quantiles(waits, n=20)
    return f"{kind}: accepted to visible, {rate:,.0f} events/s arriving: median {cuts[9]:.2f} s, p95 {cuts[18]:.2f} s"


async def probe(spool: Spool) -> dict[str, float]:
    """Hand in an event of a new device now and then; return when each was accepted."""
    rng, accepted = random.Random(3), {}
    for number in range(PROBES):
        (made, *_) = msgspec.json.decode(batch(rng))
        made |= {"device_id": f"probe-{number}", "model": "probe"}
        await spool.append(LABELS[0], msgspec.json.encode([made]), datetime.now(UTC))
        accepted[f"probe-{number}"] = time.monotonic()
        await asyncio.sleep(PROBE_SECONDS * rng.random() * 2)
    return accepted


@asynccontextmanager
async def shipping(spool: Path, warehouse: Warehouse) -> AsyncIterator[None]:
    """Run a shipper while the block lasts."""
    running = asyncio.create_task(Shipper(spool, warehouse).run())
    try:
        yield
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@asynccontextmanager
async def arriving(directory: Path, rate: float) -> AsyncIterator[None]:
    """Have events arrive at a rate while the block lasts, from a process of its own."""
    words = [sys.executable, "-m", "bench.telemetry.shipping", "--arrive", str(directory), "--rate", str(rate)]
    writer = await asyncio.create_subprocess_exec(*words)
    try:
        while not directory.exists():
            assert writer.returncode is None
            await asyncio.sleep(0.05)
        yield
    finally:
        writer.terminate()
        await writer.wait()


def main() -> int:
    """Measure and print; return the exit code."""
    options = arguments()
    if options.arrive:
        asyncio.run(arrive(options.arrive, options.rate, LARGEST_DEADLINE))
        return 0
    with tempfile.TemporaryDirectory(prefix="skafos-bench-") as name:
        asyncio.run(measure(Path(name), options))
    return 0


async def measure(folder: Path, options: argparse.Namespace) -> None:
    """Print all that was asked for."""
    print(f"{machine(folder)}.")
    spool = folder / "full"
    events = await fill(spool / "edge-0", options.events, scattered=options.scattered)
    segments = [path.read_bytes() for path in sorted((spool / "edge-0").glob("*.ready"))]
    size = sum(map(len, segments))
    print(f"{events:,} events in {len(segments)} segments, {size / events:.0f} bytes each")
    alone = stages(segments[:6])
    print(
        f"CPU µs an event: segment {alone.segment:.2f}, decode {alone.decode:.2f}, columns {alone.columns:.2f}, "
        f"block {alone.block:.2f}"
    )
    for kind in options.into:
        for number in range(options.rounds):
            print(await ship_all(kind, spool, new_folder(folder, f"{kind}-{number}"), events))
        print(await after_an_outage(kind, spool, new_folder(folder, f"{kind}-away"), events, options.rate))
        print(await time_to_see(kind, new_folder(folder, f"{kind}-seen"), options.rate / 10))


def new_folder(folder: Path, name: str) -> Path:
    """Make and return a folder."""
    made = folder / name
    made.mkdir()
    return made


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=400_000, help="that wait in the spool")
    parser.add_argument("--scattered", action="store_true", help="another device in each event")
    parser.add_argument("--into", nargs="+", choices=("server", "chdb"), default=("server", "chdb"))
    parser.add_argument("--rounds", type=int, default=3, help="of shipping it all")
    parser.add_argument("--rate", type=float, default=40_000, help="events a second that arrive meanwhile")
    parser.add_argument("--arrive", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
