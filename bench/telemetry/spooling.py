"""Rows and batches into a spool, as an edge worker would have written them, by the spool's own code."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from bench.telemetry.population import Population
from bench.telemetry.rows import Rows
from bench.telemetry.wire import posted
from telemetry.segment import EventLabels
from telemetry.spool import Settle, Spool

MAX_SPOOL_BYTES: Final = 1 << 40
"""The bound of an edge is not what is tried here."""
WAITING_BATCHES: Final = 2_000
"""Batches that are handed in before one waits for the disk, about 1 MB."""
KEPT_SECONDS: Final = 3600.0
"""A segment is handed over when it is full, and at the end."""


async def spool_rows(days: Iterable[Rows], populations: Sequence[Population], directory: Path) -> tuple[int, int]:
    """Write the batches of some days into a writer's directory; return how many events and bytes of events that was.

    Args:
        days: rows in order of arrival.
        populations: all that the rows come from.
        directory: ``<spool root>/<writer id>``.
    """
    events = size = 0
    async with Spool(directory, MAX_SPOOL_BYTES, roll_seconds=KEPT_SECONDS, durability="os") as spool:
        for rows in days:
            for number, batch in enumerate(posted(rows, populations)):
                settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                labels = populations[batch.source].settings.labels
                spool.submit(labels, batch.body, batch.received_ms, _settling(settled))
                events, size = events + batch.events, size + len(batch.body)
                if number % WAITING_BATCHES == 0:
                    await settled
            await settled
    return events, size


async def spool_bodies(bodies: Iterable[bytes], labels: Sequence[EventLabels], directory: Path) -> int:
    """Write batches into a writer's directory, of several apps in turn, as having arrived now; return how many."""
    number = 0
    async with Spool(directory, MAX_SPOOL_BYTES, durability="os") as spool:
        for number, body in enumerate(bodies, 1):
            settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            spool.submit(labels[number % len(labels)], body, int(time.time() * 1000), _settling(settled))
            if number % WAITING_BATCHES == 0:
                await settled
    return number


def _settling(future: asyncio.Future[None]) -> Settle:
    def settle(error: Exception | None) -> None:
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    return settle
