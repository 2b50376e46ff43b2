"""``python -m telemetry``: the shipper as a process of its own, from ``SKAFOS_*`` settings, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError

from telemetry.housekeeper import Housekeeper
from telemetry.migrate import SchemaConflict
from telemetry.settings import ShipperSettings
from telemetry.shipper import Shipper
from telemetry.spool_state import measure
from telemetry.warehouse import Warehouse, WarehouseUnavailable, open_warehouse

PING_SECONDS = 5.0
"""Longest wait for ClickHouse within a readiness check."""

log = structlog.get_logger("shipper")


def main() -> int:
    """Ship until stopped; return 0 after an orderly end, 2 when it cannot start as it is set."""
    _log_as_json()
    try:
        asyncio.run(_serve(ShipperSettings()))  # type: ignore[call-arg]  # the environment gives what is required
    except ValidationError as error:
        reasons = "; ".join(str(one["msg"]) for one in error.errors(include_input=False, include_url=False))
        print(f"The settings are wrong. {_variables(error)}{reasons}", file=sys.stderr)
        return 2
    except (SchemaConflict, ValueError, OSError) as error:
        print(f"The shipper cannot go on: {error}", file=sys.stderr)
        return 2
    return 0


def _variables(error: ValidationError) -> str:
    places = [one["loc"] for one in error.errors(include_input=False) if one["loc"]]
    names = ["SKAFOS_" + "_".join(map(str, place)).upper() for place in places]
    return f"{', '.join(names)}: " if names else ""


async def _serve(settings: ShipperSettings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    warehouse = open_warehouse(
        settings.clickhouse_url,
        settings.embedded_dir,
        cluster=settings.clickhouse_cluster,
        keep_days=settings.events_keep_days,
    )
    shipper = Shipper(settings.spool_dir, warehouse, interval_seconds=settings.shipper_interval_seconds)
    try:
        async with _operators_port(settings, warehouse):
            log.info("shipper_started", embedded=settings.clickhouse_url is None)
            await _ship_until(stop, shipper, Housekeeper(warehouse))
            drained = await shipper.drain(settings.shipper_drain_seconds)
            log.info("shipper_stopped", drained=drained)
    finally:
        await warehouse.close()


async def _ship_until(stop: asyncio.Event, shipper: Shipper, housekeeper: Housekeeper) -> None:
    """Ship until ``stop`` is set, or raise what ended the shipper."""
    shipping = asyncio.create_task(shipper.run(), name="shipper")
    keeping = asyncio.create_task(housekeeper.run(), name="housekeeper")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait([shipping, keeping, stopping], return_when=asyncio.FIRST_COMPLETED)
    for task in (shipping, keeping, stopping):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def _operators_port(settings: ShipperSettings, warehouse: Warehouse) -> AsyncIterator[None]:
    host, _, port = settings.shipper_metrics_listen.rpartition(":")
    runner = web.AppRunner(operations_app(warehouse, settings.spool_dir), access_log=None, handle_signals=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        yield
    finally:
        await runner.cleanup()


def operations_app(warehouse: Warehouse, spool_dir: Path) -> web.Application:
    """Return the application of the operators' port: health, readiness (ClickHouse answers) and metrics."""

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(_: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(PING_SECONDS):
                await warehouse.ping()
        except (WarehouseUnavailable, TimeoutError):
            return web.json_response({"status": "waiting for ClickHouse"}, status=503)
        return web.json_response({"status": "ready"})

    async def show_metrics(_: web.Request) -> web.Response:
        await asyncio.to_thread(measure, spool_dir)
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", health), web.get("/readyz", ready), web.get("/metrics", show_metrics)])
    return app


def _log_as_json() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    sys.exit(main())
