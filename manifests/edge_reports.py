"""What edges report of themselves, so that operators see which of them are there.

    skafos:edges   hash: an edge's name → "<seconds since 1970, by Redis' clock> <report in JSON>"

Edges and their readers are on many machines, so both ask the one clock that they share. An edge that ends in order
takes its report away; one that was killed is seen to be silent, and is forgotten after `FORGOTTEN_SECONDS`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from manifests.redis_client import RedisClient
from manifests.redis_store import failures_as_unavailable

EDGES = "skafos:edges"
REPORT_EVERY_SECONDS = 10.0
# Two reports may be late or lost before an edge is taken to be away.
SILENT_SECONDS = 30.0
FORGOTTEN_SECONDS = 24 * 3600.0

# KEYS: the hash. ARGV: the edge's name, its report. Returns nothing.
_REPORT = """
redis.call('HSET', KEYS[1], ARGV[1], redis.call('TIME')[1] .. ' ' .. ARGV[2])
"""
# KEYS: the hash. Returns the time, and all fields and values.
_READ = """
return {redis.call('TIME')[1], redis.call('HGETALL', KEYS[1])}
"""


@dataclass(frozen=True, slots=True)
class EdgeReport:
    """What an edge says of itself.

    Args:
        host: that it runs on.
        worker: its name there.
        version: of the program.
        started_at: in seconds since 1970, by its own clock.
        environments: keys that it serves.
    """

    host: str
    worker: str
    version: str
    started_at: float
    environments: int

    @property
    def name(self) -> str:
        """The name that tells it from other edges, also after it was started again."""
        return f"{self.host}/{self.worker}"


@dataclass(frozen=True, slots=True)
class SeenEdge:
    """An edge, as its last report tells.

    Args:
        report: the last one.
        silent_seconds: since it came.
    """

    report: EdgeReport
    silent_seconds: float

    @property
    def is_silent(self) -> bool:
        """Whether it should have reported again."""
        return self.silent_seconds > SILENT_SECONDS


class EdgeReports:
    """The reports, for both sides.

    Args:
        client: one that answers in bytes, as `connect_redis` makes it.
    """

    def __init__(self, client: RedisClient) -> None:
        self._client: Any = client  # as in `manifests.redis_store`

    async def report(self, report: EdgeReport) -> None:
        """Tell how an edge is.

        Raises:
            StoreUnavailable: Redis did not take it.
        """
        with failures_as_unavailable():
            await self._client.eval(_REPORT, 1, EDGES, report.name, json.dumps(asdict(report)))

    async def withdraw(self, name: str) -> None:
        """Tell that an edge has ended.

        Raises:
            StoreUnavailable: Redis did not take it.
        """
        with failures_as_unavailable():
            await self._client.hdel(EDGES, name)

    async def read(self) -> list[SeenEdge]:
        """Return the edges that reported of late, in the order of their names; the others are forgotten.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        with failures_as_unavailable():
            now, flat = await self._client.eval(_READ, 1, EDGES)
            edges = {name: _seen(value, int(now)) for name, value in zip(flat[::2], flat[1::2], strict=True)}
            gone = [name for name, edge in edges.items() if edge is None or edge.silent_seconds > FORGOTTEN_SECONDS]
            if gone:
                await self._client.hdel(EDGES, *gone)
        seen = [edge for name, edge in edges.items() if edge is not None and name not in gone]
        return sorted(seen, key=lambda edge: edge.report.name)


def _seen(value: bytes, now: int) -> SeenEdge | None:
    """Return what a value of the hash tells, or None when it is no report."""
    moment, _, text = value.partition(b" ")
    try:
        return SeenEdge(EdgeReport(**json.loads(text)), max(0.0, now - int(moment)))
    except (ValueError, TypeError):  # of another release, or not ours
        return None
