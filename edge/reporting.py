"""Tells those who operate Skafos, by way of Redis, that this edge is there."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress
from importlib import metadata

from edge.manifest_cache import ManifestCache
from manifests.edge_reports import REPORT_EVERY_SECONDS, EdgeReport, EdgeReports
from manifests.store import StoreUnavailable

DISTRIBUTION = "skafos"
# Taking the report away is a courtesy; an edge does not end later for it.
WITHDRAW_SECONDS = 1.0


class Reporter:
    """Reports while the edge serves.

    Args:
        reports: where to.
        manifests: what it serves.
        worker: its name on this machine.
    """

    def __init__(self, reports: EdgeReports, manifests: ManifestCache, worker: str) -> None:
        self._reports = reports
        self._manifests = manifests
        self._worker = worker
        self._started_at = time.time()

    async def run(self) -> None:
        """Report again and again, until cancelled. That Redis is away is told by who follows its manifests."""
        while True:
            with suppress(StoreUnavailable):
                await self._reports.report(self._report())
            await asyncio.sleep(REPORT_EVERY_SECONDS)

    async def withdraw(self) -> None:
        """Take the report away: the edge ends in order."""
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(WITHDRAW_SECONDS):
                await self._reports.withdraw(self._report().name)

    def _report(self) -> EdgeReport:
        return EdgeReport(socket.gethostname(), self._worker, _version(), self._started_at, len(self._manifests))


def _version() -> str:
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:  # run from a folder of sources
        return "unknown"
