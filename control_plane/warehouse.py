"""The way to ClickHouse: opened and migrated in the background, so that the API answers before it is there.

Until it is, and whenever it does not answer, whoever asks hears `Unavailable`: an empty answer would be a lie.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import structlog

from control_plane.errors import Invalid, Unavailable
from telemetry.retention import DEFAULT_KEEP_DAYS
from telemetry.warehouse import QueryFailed, Warehouse, WarehouseUnavailable, open_warehouse

# A ClickHouse that starts beside us is there within a second; one that is down is asked for gently.
FIRST_PAUSE_SECONDS = 0.2
LAST_PAUSE_SECONDS = 5.0

_UNREACHABLE = "ClickHouse cannot be reached; try again in a moment."

_log = structlog.get_logger(__name__)


@contextmanager
def telling_of_clickhouse() -> Iterator[None]:
    """Turn ClickHouse's failures into ours, so that "no answer" never looks like "nothing"."""
    try:
        yield
    except WarehouseUnavailable as error:
        raise Unavailable(_UNREACHABLE, "clickhouse") from error
    except QueryFailed as error:
        raise Invalid(str(error), error.code) from error


class WarehouseGate:
    """Opens the warehouse, and hands it out once it is open.

    Args:
        url: of a ClickHouse server, or None for the embedded one.
        directory: of the embedded one.
        cluster: the name of the cluster that the server is part of, or None.
        keep_days: how long events are kept.
    """

    def __init__(
        self, url: str | None, directory: Path, cluster: str | None = None, keep_days: int = DEFAULT_KEEP_DAYS
    ) -> None:
        self._open_warehouse = partial(open_warehouse, url, directory, cluster=cluster, keep_days=keep_days)
        self._warehouse: Warehouse | None = None
        self._opened = asyncio.Event()

    def get(self) -> Warehouse:
        """Return the warehouse.

        Raises:
            Unavailable: it is not open yet.
        """
        if self._warehouse is None:
            raise Unavailable(_UNREACHABLE, "clickhouse")
        return self._warehouse

    async def wait(self) -> Warehouse:
        """Return the warehouse once it is open."""
        await self._opened.wait()
        return self.get()

    async def ping(self) -> None:
        """Ask ClickHouse for nothing. Raises whatever keeps it from answering."""
        await self.get().ping()

    async def run(self) -> None:
        """Open the warehouse, trying again until it works; then do nothing until cancelled."""
        pause = FIRST_PAUSE_SECONDS
        while self._warehouse is None:
            try:
                await self._open()
            except WarehouseUnavailable as error:
                _log.warning("warehouse_unavailable", reason=str(error), next_try_seconds=pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LAST_PAUSE_SECONDS)
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Close the warehouse."""
        if self._warehouse is not None:
            warehouse, self._warehouse = self._warehouse, None
            await warehouse.close()

    async def _open(self) -> None:
        """Open the warehouse and bring its tables up to date."""
        warehouse = await asyncio.to_thread(self._open_warehouse)
        try:
            await warehouse.migrate()
        except BaseException:
            await warehouse.close()
            raise
        self._warehouse = warehouse
        self._opened.set()
        _log.info("warehouse_open")
