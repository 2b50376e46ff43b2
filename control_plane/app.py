"""The control plane, wired: this file tells what runs in the process and in which order it starts and ends.

Whatever is opened first is closed last. The API begins to answer when the database is migrated; ClickHouse is opened in
the background, because an embedded one takes a second.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from artifacts.errors import BlobMissing
from artifacts.store import ObjectStore, open_store
from control_plane.accounts import LAST_USE_SECONDS, LastUses
from control_plane.api.admission import SERVICES
from control_plane.api.call import Services
from control_plane.api.errors import answer_errors
from control_plane.api.observe import observe
from control_plane.api.serve import add_routes
from control_plane.api.table import ROUTES
from control_plane.dashboard.app import add_dashboard
from control_plane.database import Database
from control_plane.device_counts import DeviceCounts
from control_plane.eraser import Eraser
from control_plane.errors import Unavailable
from control_plane.garbage import GarbageCollector
from control_plane.health import Health
from control_plane.holdings import TelemetryCensus
from control_plane.listeners import address_of, bound
from control_plane.metrics_app import create_metrics_app
from control_plane.migrate import migrate
from control_plane.outbox import OutboxRelay
from control_plane.passwords import Passwords
from control_plane.patch_planner import PatchPlanner
from control_plane.patches import PatchBuilder
from control_plane.presign import Presigner, load_or_create_secret
from control_plane.publish import Publisher
from control_plane.push.effect import PushEffects
from control_plane.push.expiry import watch_expiry
from control_plane.push.vault import Vault
from control_plane.push.worker import PushWorker
from control_plane.registrations import RegistrationConsumer
from control_plane.repository import Signing
from control_plane.resign import Resigner
from control_plane.sealing import MasterKeys
from control_plane.second_factor import SecondFactors
from control_plane.settings import Settings
from control_plane.silent_connections import SilentConnections
from control_plane.status_page import add_status_page
from control_plane.supervise import Supervisor
from control_plane.tables import new_id
from control_plane.uploads import Uploads
from control_plane.warehouse import WarehouseGate
from manifests.edge_reports import EdgeReports
from manifests.key_pool import KeyPool
from manifests.redis_client import RedisClient, connect_redis
from manifests.redis_store import RedisManifestStore
from manifests.signing import FileKeyStore, KeyStore
from manifests.trust import Lifetimes
from telemetry.registrations import Registrations

# What requests under way get to finish when the process is told to end; what is left in an upload can be resumed.
SHUTDOWN_SECONDS = 10.0
# How long a connection without a request is kept: longer than the 60 s of common proxies, so that they close first.
KEEPALIVE_SECONDS = 75.0
NO_BLOB = "0" * 64

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Running:
    """A control plane that answers.

    Args:
        listen: the API's host and port, as bound.
        metrics: the same of the metrics port.
        services: the parts, for whoever runs it in their own process.
        health: which parts answer.
    """

    listen: str
    metrics: str
    services: Services
    health: Health

    @property
    def url(self) -> str:
        """The API's address."""
        return f"http://{self.listen}"


@asynccontextmanager
async def control_plane(settings: Settings) -> AsyncIterator[Running]:
    """Run a control plane while the block lasts.

    Raises:
        Unavailable: the database does not answer.
        NewerDatabase: a later release has migrated it.
        OSError: an address cannot be bound, or a folder cannot be used.
    """
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    with bound(settings.control_listen) as api_socket, bound(settings.control_metrics_listen) as metrics_socket:
        async with AsyncExitStack() as stack:
            public_url = settings.control_public_url or f"http://{address_of(api_socket)}"
            parts = await _open_parts(settings, public_url, stack)
            _start_tasks(parts, stack)
            silent = SilentConnections()
            await _serve(create_app(parts.services, parts.health, silent), api_socket, silent, stack)
            measure = None if settings.spool_dir is None else partial(_measure_spool, settings.spool_dir)
            await _serve(create_metrics_app(parts.health, silent, measure), metrics_socket, silent, stack)
            yield Running(address_of(api_socket), address_of(metrics_socket), parts.services, parts.health)
            _log.info("stopping")
    _log.info("stopped")


def create_app(services: Services, health: Health, silent: SilentConnections) -> web.Application:
    """Return the application that answers the management API and shows the status page."""
    app = web.Application(
        middlewares=[silent.middleware(), observe, answer_errors],
        client_max_size=services.settings.control_max_body_bytes,
    )
    app[SERVICES] = services
    add_routes(app, ROUTES)
    add_status_page(app, health)
    add_dashboard(app)
    return app


@dataclass(frozen=True, slots=True)
class _Parts:
    services: Services
    redis: RedisClient
    relay: OutboxRelay
    lifetimes: Lifetimes
    health: Health


def _key_store(settings: Settings) -> KeyStore:
    return KeyPool(settings.keys) if settings.signing_keys == "pool" else FileKeyStore(settings.keys)


async def _open_parts(settings: Settings, public_url: str, stack: AsyncExitStack) -> _Parts:
    """Open what the process talks to; what is opened is closed with the stack."""
    database = Database(settings.database)
    stack.push_async_callback(database.close)
    await migrate(database)
    last_uses = LastUses(database)
    stack.push_async_callback(_write_last_uses, last_uses)
    objects = open_store(settings.objects)
    redis = connect_redis(settings.redis_url)
    stack.push_async_callback(redis.aclose)
    store = RedisManifestStore(redis)
    relay = OutboxRelay(database, store)
    lifetimes = Lifetimes()
    publisher = Publisher(database, relay, Signing(_key_store(settings), lifetimes), settings.patch_policy)
    presigner = Presigner(load_or_create_secret(settings.upload_secret_file))
    uploads = Uploads(database, objects, settings.staging_dir, presigner, settings.upload_limits, public_url)
    warehouse = WarehouseGate(
        settings.clickhouse_url, settings.clickhouse_dir, settings.clickhouse_cluster, settings.events_keep_days
    )
    stack.push_async_callback(warehouse.close)
    master_keys = MasterKeys(settings.master_keys_file)
    vault = Vault(database, master_keys, settings.push_servers)
    stack.push_async_callback(vault.close)
    effects = PushEffects(database, warehouse, timedelta(days=settings.events_keep_days))
    mailer = settings.mailer()
    stack.push_async_callback(mailer.close)
    openid = settings.openid_provider()
    if openid is not None:
        stack.push_async_callback(openid.close)
    services = Services(
        settings=settings,
        database=database,
        objects=objects,
        uploads=uploads,
        publisher=publisher,
        warehouse=warehouse,
        last_uses=last_uses,
        vault=vault,
        push_effects=effects,
        passwords=Passwords(),
        edges=EdgeReports(redis),
        device_counts=DeviceCounts(),
        mailer=mailer,
        second_factors=SecondFactors(master_keys),
        openid=openid,
    )
    health = Health(
        {
            "database": database.ping,
            "redis": store.ping,
            "objects": partial(_ping_objects, objects),
            "clickhouse": warehouse.ping,
        }
    )
    return _Parts(services, redis, relay, lifetimes, health)


def _start_tasks(parts: _Parts, stack: AsyncExitStack) -> None:
    """Start what runs in the background; the last one started is the first to end."""
    services, settings = parts.services, parts.services.settings
    patches = PatchBuilder(
        services.database,
        services.objects,
        services.publisher,
        settings.patch_dir,
        settings.patch_limits,
        settings.patch_workers,
        policy=settings.patch_policy,
        seconds=settings.patch_seconds,
    )
    planner = PatchPlanner(
        services.database, services.publisher, TelemetryCensus(services.warehouse), settings.patch_look_seconds
    )
    redis: Any = parts.redis  # the stream is written for every kind of client, and typed for one
    registrations = RegistrationConsumer(services.database, Registrations(redis))
    pushes = PushWorker(
        services.database,
        services.vault.channel,
        settings.push_policy,
        f"control-plane-{new_id()}",
        woken=services.publisher.pushes_due,
    )
    supervisor = Supervisor()
    stack.push_async_callback(supervisor.stop)
    supervisor.start("warehouse", services.warehouse.run)
    supervisor.start("outbox", parts.relay.run)
    supervisor.start("resign", Resigner(services.database, services.publisher, parts.lifetimes).run)
    supervisor.start("uploads", services.uploads.run)
    supervisor.start("garbage", GarbageCollector(services.database, services.objects).run)
    supervisor.start("patch_plans", planner.run)
    supervisor.start("patches", patches.run)
    supervisor.start("registrations", registrations.run)
    keep = timedelta(days=settings.events_keep_days)
    supervisor.start("erasures", Eraser(services.database, services.warehouse, keep).run)
    supervisor.start("pushes", pushes.run)
    supervisor.start("push_effects", services.push_effects.run)
    supervisor.start("push_credentials", partial(watch_expiry, services.database))
    supervisor.start("last_uses", partial(_keep_writing, services.last_uses))
    supervisor.start("health", parts.health.run)
    if settings.spool_dir is not None:
        supervisor.start("shipper", partial(_ship, settings.spool_dir, services.warehouse))
        supervisor.start("housekeeper", partial(_keep_house, services.warehouse))


async def _serve(
    app: web.Application, listener: socket.socket, silent: SilentConnections, stack: AsyncExitStack
) -> None:
    runner = web.AppRunner(
        app,
        access_log=None,  # aiohttp's writes whole addresses; ours is `control_plane.api.observe`
        handle_signals=False,
        keepalive_timeout=KEEPALIVE_SECONDS,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    assert runner.server is not None
    server = await asyncio.get_running_loop().create_server(silent.watch(runner.server), sock=listener)
    stack.callback(server.close)


async def _ship(spool_dir: Path, gate: WarehouseGate) -> None:
    from telemetry.shipper import Shipper

    await Shipper(spool_dir, await gate.wait()).run()


def _measure_spool(spool_dir: Path) -> None:
    from telemetry.spool_state import measure

    measure(spool_dir)


async def _keep_house(gate: WarehouseGate) -> None:
    from telemetry.housekeeper import Housekeeper

    await Housekeeper(await gate.wait()).run()


async def _keep_writing(last_uses: LastUses) -> None:
    while True:
        await asyncio.sleep(LAST_USE_SECONDS)
        await last_uses.write()


async def _write_last_uses(last_uses: LastUses) -> None:
    with suppress(Unavailable):  # a minute of it is forgotten
        await last_uses.write()


async def _ping_objects(objects: ObjectStore) -> None:
    with suppress(BlobMissing):
        await objects.length(NO_BLOB)
