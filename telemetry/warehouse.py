"""Where events end up and questions are asked: ClickHouse, as a server or embedded in this process.

Both are one engine of different ages (Debian's server is 18.16, the embedded one 26), and one contract suite runs over
both. Failures split by what the caller does next: ``WarehouseUnavailable`` is tried again, ``InsertRejected`` puts the
data aside, ``QueryFailed`` is told to whoever asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final, Protocol

from telemetry.columns import EventColumns
from telemetry.erasure import Erased, Erasure
from telemetry.literals import Value
from telemetry.retention import DEFAULT_KEEP_DAYS

Row = dict[str, Any]


class WarehouseUnavailable(Exception):
    """ClickHouse cannot be reached, is busy, or is not able to answer now; the same call may succeed later."""


class InsertRejected(Exception):
    """ClickHouse refuses these very events, and would refuse them again."""


class QueryFailed(Exception):
    """ClickHouse refuses the question: the message is its first line. ``code``: ``query_failed``, ``query_too_slow``
    or ``query_too_large``."""

    def __init__(self, message: str, code: str = "query_failed") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """Bounds for a question that somebody typed.

    Attributes:
        seconds: run time. A dashboard's question takes milliseconds; ten seconds is a scan of some 100 million events.
        rows: rows that are handed out; more are for an export, not for a JSON answer.
        result_bytes: size of the answer within ClickHouse; also bounds what this process has to decode.
        memory_bytes: memory of the query within ClickHouse: a quarter of a small machine.
    """

    seconds: int = 10
    rows: int = 10_000
    result_bytes: int = 16 * 1024 * 1024
    memory_bytes: int = 256 * 1024 * 1024


DEFAULT_LIMITS: Final = QueryLimits()

MAX_WAITING_QUESTIONS: Final = 16
"""Typed questions that wait for their turn (they run one after the other); the next one is told to come again."""


class Warehouse(Protocol):
    """What the rest of the system knows of ClickHouse."""

    async def migrate(self) -> None:
        """Bring the tables up to this version's schema; idempotent.

        Raises:
            WarehouseUnavailable: not reachable, or not able or willing to make the tables now.
            SchemaConflict: the tables were made by a newer or a changed version.
        """

    async def insert_events(self, columns: EventColumns, insert_id: str) -> None:
        """Insert events; a repeated call with the same id changes nothing.

        Raises:
            WarehouseUnavailable: not reachable; try again with the same id.
            InsertRejected: the data itself is refused.
        """

    async def erased(self) -> Erased:
        """Return which devices and organizations were erased; whoever inserts events leaves theirs out.

        Raises:
            WarehouseUnavailable
        """

    async def erase(self, erasure: Erasure) -> bool:
        """Take one step towards forgetting a device or an organization; idempotent.

        Returns:
            Whether nothing is left of it. Otherwise ask again after a moment.

        Raises:
            WarehouseUnavailable: not reachable, or not able to do it now.
        """

    async def enforce_retention(self, today: date) -> list[str]:
        """Have ClickHouse forget what is older than it is to be kept; return what was done, for the log.

        Raises:
            WarehouseUnavailable: not reachable, or not able to do it now.
        """

    async def query(self, sql: str, params: Mapping[str, Value] | None = None) -> list[Row]:
        """Ask one of our own questions; ``{name}`` in it stands for ``params["name"]``, quoted.

        Raises:
            WarehouseUnavailable, QueryFailed
        """

    async def query_readonly(self, sql: str, limits: QueryLimits = DEFAULT_LIMITS) -> list[Row]:
        """Ask a guarded question of somebody else's (``sql_guard.guard``), read-only and within limits.

        The rows are safe to write as JSON. At most ``limits.rows`` come back.

        Raises:
            WarehouseUnavailable, QueryFailed
        """

    async def ping(self) -> None:
        """Check that a question is answered. Raises ``WarehouseUnavailable``."""

    async def close(self) -> None:
        """Let go of connections, threads and directories."""


def open_warehouse(
    url: str | None, directory: Path, *, cluster: str | None = None, keep_days: int = DEFAULT_KEEP_DAYS
) -> Warehouse:
    """Return the server at ``url`` (``clickhouse://user:password@host:9000/database``), or the embedded one.

    Args:
        url: None or empty for the embedded engine.
        directory: where the embedded engine keeps its data; one process at a time.
        cluster: the name of the cluster that the server is part of; None for a server that stands alone.
        keep_days: how long events are kept.
    """
    if url:
        from telemetry.server_warehouse import ServerWarehouse

        return ServerWarehouse(url, cluster, keep_days)
    from telemetry.embedded_warehouse import EmbeddedWarehouse

    return EmbeddedWarehouse(directory, keep_days)
