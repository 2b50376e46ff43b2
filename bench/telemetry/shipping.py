"""Measure the way from spool to ClickHouse: ``python -m bench.telemetry.shipping``.

It writes varied events into a spool by the spool's own code, and has the real shipper bring them into Debian's server,
over TCP, and into the embedded engine: how many events a second, and the CPU time of an event by stage.

Batches are a device's own, as devices send them; ``--scattered`` has another device in each event, the worst case for
whatever groups by device.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec

from bench.edge.cpu import tree_seconds
from bench.edge.machine import machine
from bench.edge.site import BATCH_EVENTS
from bench.telemetry.fleet import APPS, labels_of
from bench.telemetry.spooling import spool_bodies
from telemetry.columns import COLUMN_TYPES, COLUMNS, _chunks, event_columns
from telemetry.native import encode_block
from telemetry.segment import decode_segment
from telemetry.shipper import Shipper
from telemetry.warehouse import Warehouse, open_warehouse
from tests.servers.clickhouse import clickhouse_server

DEVICES: Final = 200_000
LARGEST_DEADLINE: Final = 3600.0
MODELS: Final = ("faces", "voices", "texts")
SYSTEMS: Final = (*(("iOS", f"19.{n}") for n in range(6)), *(("Android", str(n)) for n in range(12, 17)))
HARDWARE: Final = (*(f"iPhone{a},{b}" for a in range(13, 19) for b in range(1, 5)), *(f"Pixel {n}" for n in range(12)))
LOCALES: Final = ("de-AT", "en-US", "en-GB", "fr-FR", "ja-JP", "pt-BR", "es-ES", "it-IT")
DAY: Final = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


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
def engine(kind: str, folder: Path) -> Iterator[tuple[Warehouse, int | None]]:
    """Open a warehouse of its own: ``server`` or ``chdb``; the process id of the first comes with it."""
    if kind == "chdb":
        yield open_warehouse(None, folder / "chdb"), None
    else:
        with clickhouse_server(folder / "server") as server:
            assert server.process is not None
            yield open_warehouse(server.url, folder), server.process.pid


async def ship_all(kind: str, spool: Path, folder: Path, events: int) -> str:
    """Ship a copy of the spool; return what that took, in a line."""
    shutil.copytree(spool, folder / "spool")
    with engine(kind, folder) as (warehouse, server):
        await warehouse.migrate()
        shipper = Shipper(folder / "spool", warehouse)
        begun, own, theirs = time.perf_counter(), time.process_time(), tree_seconds(server) if server else 0.0
        assert await shipper.drain(LARGEST_DEADLINE)
        seconds, own = time.perf_counter() - begun, time.process_time() - own
        theirs = (tree_seconds(server) if server else 0.0) - theirs
        assert await warehouse.query("SELECT count() AS n FROM raw_events") == [{"n": events}]
        await warehouse.close()
    line = f"{kind}: {events / seconds:,.0f} events/s; CPU {own / events * 1e6:.2f} µs an event in this process"
    return line + (f", {theirs / events * 1e6:.2f} in the server" if server else ", the engine included")


def main() -> int:
    """Measure and print; return the exit code."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="skafos-bench-") as name:
        asyncio.run(measure(Path(name), options))
    return 0


async def measure(folder: Path, options: argparse.Namespace) -> None:
    """Print all that was asked for."""
    print(f"{machine(folder)}.")
    spool = folder / "full"
    rng = random.Random(1)
    bodies = (batch(rng, scattered=options.scattered) for _ in range(-(-options.events // BATCH_EVENTS)))
    events = BATCH_EVENTS * await spool_bodies(bodies, [labels_of(app) for app in range(APPS)], spool / "edge-0")
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
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
