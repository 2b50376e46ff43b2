"""The housekeeper, beside the shipper: once a day it has ClickHouse forget what is over its limit (``retention``).

Several of them, as on a host each, do no harm: what one has done the next finds done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import structlog

from telemetry.warehouse import Warehouse, WarehouseUnavailable

EVERY_SECONDS: Final = 24 * 3600.0
FIRST_AFTER_SECONDS: Final = 60.0
"""At the start the tables are made, and what waits in the spool is shipped."""
AGAIN_SECONDS: Final = 600.0
"""After ClickHouse could not do it."""

log = structlog.get_logger(__name__)


class Housekeeper:
    """Has a warehouse forget what is over its limit.

    Args:
        warehouse: it is not migrated here.
        clock: the present, with its zone.
        first_after_seconds: pause before the first time.
        every_seconds: pause between two times.
        again_seconds: pause after ClickHouse could not do it.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        first_after_seconds: float = FIRST_AFTER_SECONDS,
        every_seconds: float = EVERY_SECONDS,
        again_seconds: float = AGAIN_SECONDS,
    ) -> None:
        self._warehouse = warehouse
        self._clock = clock
        self._first_after_seconds = first_after_seconds
        self._every_seconds = every_seconds
        self._again_seconds = again_seconds

    async def run(self) -> None:
        """Keep house until cancelled."""
        pause = self._first_after_seconds
        while True:
            await asyncio.sleep(pause)
            pause = await self._keep()

    async def _keep(self) -> float:
        """Do it once; return after how many seconds to do it again."""
        try:
            done = await self._warehouse.enforce_retention(self._clock().astimezone(UTC).date())
        except WarehouseUnavailable as error:
            log.warning("retention_put_off", reason=str(error))
            return self._again_seconds
        if done:
            log.info("retention_enforced", done=done)
        return self._every_seconds
