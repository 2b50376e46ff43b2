"""``python -m edge``: one edge worker, from ``SKAFOS_*`` settings, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import structlog
import uvloop
from pydantic import ValidationError

from edge.app import RunningEdge, WorkerNameTaken, create_edge
from edge.certificates import CertificateUnusable
from edge.logs import log_as_json
from edge.settings import EdgeSettings, read_settings
from manifests.redis_client import InvalidRedisUrl
from telemetry.spool import SpoolLocked

# The oldest generation is looked through when a quarter more is in it; what is there from the start, all modules, only
# makes that slow, and is taken out. Requests make few objects in cycles, so new ones are looked at in larger lots;
# freeing a lot of them keeps everybody waiting for less than a millisecond.
NEW_OBJECTS = 2_000
# A thread that has written to the disk waits this long, in seconds, before a busy loop is made to let it go on: about
# as long as two batches of events take. Until then it is woken in vain after each of them. With 0.5 ms in place of
# this, that was a fifth of the processor's time for a batch.
SWITCH_SECONDS = 0.00005
# Beside connections and their blobs: Redis, the spool, fetches from the object store, libraries.
OTHER_FILES = 512

log = structlog.get_logger("edge")


def main() -> int:
    """Run the worker; return 0 after an orderly end, 1 when a part failed, 2 when it cannot start as it is set."""
    log_as_json()
    try:
        return uvloop.run(_serve(read_settings()))
    except ValidationError as error:
        reasons = "; ".join(f"{_variable(one['loc'])}: {one['msg']}" for one in error.errors(include_input=False))
        print(f"The settings are wrong. {reasons}", file=sys.stderr)
    except (WorkerNameTaken, CertificateUnusable, SpoolLocked, InvalidRedisUrl, ValueError, OSError) as error:
        print(f"The edge cannot start: {error}", file=sys.stderr)
    return 2


def _variable(location: tuple[int | str, ...]) -> str:
    return "SKAFOS_" + "_".join(map(str, location)).upper() if location else "SKAFOS_*"


def _allow_open_files(connections: int) -> None:
    """Raise the soft limit on open files to what connections may need: a socket, its duplicate and a blob each."""
    needed = 3 * connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if max(soft, allowed) < needed:
        log.warning("open_files_limited", allowed=max(soft, allowed), needed=needed)


async def _serve(settings: EdgeSettings) -> int:
    _allow_open_files(settings.edge_max_connections)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with create_edge(settings) as edge:
        _settle_in()
        if settings.edge_ready_file is not None:
            _write_ready_file(settings.edge_ready_file, edge)
        code = await _until_stopped(stop, edge)
        log.info("edge_stopping")
    log.info("edge_stopped", code=code)
    return code


def _settle_in() -> None:
    """Have Python spend its time on requests, now that everything is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])
    sys.setswitchinterval(SWITCH_SECONDS)


async def _until_stopped(stop: asyncio.Event, edge: RunningEdge) -> int:
    stopped = asyncio.ensure_future(stop.wait())
    ends: list[asyncio.Future[Any]] = [stopped, edge.failed]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if not edge.failed.done():
        return 0
    stopped.cancel()
    log.critical("edge_part_failed", exc_info=edge.failed.exception())
    return 1


def _write_ready_file(path: Path, edge: RunningEdge) -> None:
    """Tell who waits for us; written aside and renamed, so that nobody reads half of it."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    aside.write_text(json.dumps({"pid": os.getpid(), "listen": edge.listen, "metrics": edge.metrics}))
    aside.replace(path)


if __name__ == "__main__":
    sys.exit(main())
