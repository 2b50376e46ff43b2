"""The edge's wiring: every part, in the order in which it comes to life; it ends in the reverse order.

snapshot and notices → manifests in memory → checks
object store → blobs on disk → downloads
spool and registrations ← intake
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from artifacts.store import open_store
from edge import metrics
from edge.batches import Batches
from edge.blob_cache import BlobCache
from edge.blob_directory import BlobDirectory
from edge.blob_lane import BlobLane
from edge.blob_scrub import Scrub
from edge.body import BodyLimits
from edge.certificates import Certificates
from edge.check import Checks, fresh_for
from edge.clients import Clients
from edge.connections import ConnectionLimits
from edge.download import Downloads
from edge.entrance import Introduction
from edge.intake import Intake
from edge.lane import Answering
from edge.listening import address_of, listen, serve_devices, serve_operations
from edge.manifest_cache import ManifestCache
from edge.manifest_feed import ManifestFeed
from edge.manifest_snapshot import ManifestSnapshot
from edge.operations import Readiness, operations_app
from edge.prepared import PreparedManifests
from edge.refusals import Refusals
from edge.reporting import Reporter
from edge.routes import device_app
from edge.sendfile import FileSender
from edge.settings import EdgeSettings
from manifests.edge_reports import EdgeReports
from manifests.redis_client import connect_redis
from manifests.redis_store import RedisManifestStore
from telemetry.metrics import SPOOL_LIMIT
from telemetry.registrations import Registrations
from telemetry.spool import Spool

# Before it serves, the edge waits this long for a first picture from Redis; without one it serves its snapshot.
FIRST_PICTURE_SECONDS = 5.0
CANCEL_AGAIN_SECONDS = 0.1

log = structlog.get_logger(__name__)


class WorkerNameTaken(Exception):
    """Another edge of this name works in the same directory."""


@dataclass(frozen=True, slots=True)
class RunningEdge:
    """An edge that serves.

    Args:
        listen: address of the device API.
        metrics: address of health, readiness and metrics.
        failed: done with the error when a part that should run for ever has ended.
    """

    listen: str
    metrics: str
    failed: asyncio.Future[None]


@asynccontextmanager
async def create_edge(settings: EdgeSettings) -> AsyncIterator[RunningEdge]:
    """Run an edge within the block.

    Raises:
        WorkerNameTaken: another edge of this name works in the same directory.
        CertificateUnusable: the TLS certificate or its key.
        OSError: an address is taken, or a directory cannot be used.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(_only_worker(settings.directory))

        manifests = ManifestCache()
        cache_control = fresh_for(settings.manifest_max_age_seconds, settings.manifest_stale_seconds)
        spool = Spool(
            settings.spool_dir / settings.worker, settings.spool_max_bytes, durability=settings.spool_durability
        )
        SPOOL_LIMIT.set(settings.spool_max_bytes)
        # Both follow the cache, so they are there before anything is in it.
        # Lines about refusals name the client, whom only aiohttp's route finds out.
        prepared = PreparedManifests(manifests, cache_control, refuse=not settings.edge_log_refusals)
        batches = Batches(manifests, spool, settings.edge_max_body_bytes)
        snapshot = ManifestSnapshot(settings.directory / "manifests", manifests)
        restored = snapshot.restore()
        redis: Any = connect_redis(settings.redis_url)  # a server's client or a cluster's: the same commands
        stack.push_async_callback(redis.aclose)
        feed = ManifestFeed(RedisManifestStore(redis), manifests, settings.manifest_poll_seconds)

        directory = BlobDirectory(settings.directory, settings.blob_cache_bytes, metrics.BLOB_EVICTED_BYTES.inc)
        directory.recover()
        blobs = BlobCache(
            directory,
            open_store(settings.objects_url),
            fills=settings.blob_fills,
            fill_timeout=settings.blob_fill_timeout_seconds,
            wait=settings.blob_wait_seconds,
        )
        stack.push_async_callback(blobs.close)
        sender = FileSender()
        stack.callback(sender.close)

        await stack.enter_async_context(spool)

        answering = Answering(prepared, batches, BlobLane(blobs, sender, settings.edge_stall_seconds))
        clients = Clients(settings.edge_trusted_proxies)
        refusals = Refusals(clients, told=settings.edge_log_refusals)
        certificates = _certificates(settings)

        app = device_app(
            Checks(manifests, cache_control),
            Downloads(blobs, manifests, sender, settings.edge_stall_seconds),
            Intake(
                manifests,
                spool,
                Registrations(redis),
                limits=BodyLimits(settings.edge_max_body_bytes, settings.edge_body_seconds),
                max_posts=settings.edge_max_posts,
                redis_seconds=settings.redis_timeout_seconds,
            ),
            refusals,
        )
        readiness = Readiness(manifests)
        devices = listen(settings.edge_listen, shared=True)
        operations = listen(settings.edge_metrics_listen, shared=False)
        stack.callback(devices.close)
        stack.callback(operations.close)
        running = RunningEdge(address_of(devices), address_of(operations), asyncio.get_running_loop().create_future())

        await stack.enter_async_context(serve_operations(operations_app(readiness, manifests), operations))
        stack.push_async_callback(snapshot.flush)
        await _first_picture(feed)
        scrub = Scrub(directory, settings.blob_scrub_seconds)
        reporter = Reporter(EdgeReports(redis), manifests, settings.worker)
        stack.push_async_callback(reporter.withdraw)
        lasting = [feed.follow, feed.poll, snapshot.run, scrub.run, reporter.run]
        lasting += [certificates.watch] if certificates else []
        await stack.enter_async_context(_background(running.failed, *lasting))
        limits = ConnectionLimits(
            open=settings.edge_max_connections, idle=settings.edge_keepalive_seconds, stall=settings.edge_stall_seconds
        )
        introduction = Introduction(
            clients=clients,
            proxy_protocol=settings.edge_proxy_protocol,
            certificates=certificates,
            seconds=settings.edge_handshake_seconds,
            at_once=settings.edge_max_connections,
            refusals=refusals,
        )
        await stack.enter_async_context(
            serve_devices(app, answering, devices, limits, introduction, settings.edge_shutdown_seconds)
        )
        stack.callback(readiness.drain)
        log.info(
            "edge_serving", listen=running.listen, metrics=running.metrics, restored=restored, blobs=len(directory)
        )
        yield running


def _certificates(settings: EdgeSettings) -> Certificates | None:
    if settings.edge_tls_certificate is None or settings.edge_tls_key is None:
        return None
    return Certificates(settings.edge_tls_certificate, settings.edge_tls_key)


async def _first_picture(feed: ManifestFeed) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(FIRST_PICTURE_SECONDS):
            await feed.synchronize()


@contextmanager
def _only_worker(directory: Path) -> Iterator[None]:
    """Hold the worker's directory: two processes with one name would remove each other's blobs."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkerNameTaken(f"another edge named {directory.name} is at work; set SKAFOS_EDGE_NAME") from None
        yield
    finally:
        os.close(descriptor)


@asynccontextmanager
async def _background(
    failed: asyncio.Future[None], *works: Callable[[], Coroutine[Any, Any, None]]
) -> AsyncIterator[None]:
    """Run work that should not end before the block does; tell ``failed`` when one ends by itself."""

    def ended(task: asyncio.Task[None]) -> None:
        if task.cancelled() or failed.done():
            return
        failed.set_exception(task.exception() or RuntimeError(f"{task.get_name()} ended by itself"))

    tasks = [asyncio.create_task(work(), name=work.__qualname__) for work in works]
    for task in tasks:
        task.add_done_callback(ended)
    try:
        yield
    finally:
        await _cancel(tasks)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel until all have ended: Python 3.11's `wait_for`, which redis-py uses, can swallow a cancellation (seen)."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_SECONDS)
