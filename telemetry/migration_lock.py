"""A lock between processes that migrate the same tables, made of what every ClickHouse has: a table.

``CREATE TABLE`` without ``IF NOT EXISTS`` succeeds for one of those who try; with ``ON CLUSTER`` too, as the servers
take such statements from one queue, in its order. The owner's name is the default of the table's only column, so lock
and owner appear at once. The age is told by the server's clock alone.

An owner that died leaves the table. Whoever finds it older than ``LOCK_SECONDS`` renames it, to a name that only this
owner's lock can get: of several who find it so one succeeds, and none can rename the lock of the next owner. Renamed
tables are dropped at the end of the next owner's turn.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from typing import Final, Protocol
from uuid import uuid4

from telemetry.cluster import Cluster, everywhere
from telemetry.engine import Engine
from telemetry.literals import bind
from telemetry.warehouse import Row, WarehouseUnavailable

LOCK_SECONDS: Final = 600
"""A lock of this age is taken for a dead process's: a statement that is silent for a minute fails (``ANSWER_SECONDS``),
and each asks first whether the lock is still its own."""
WAIT_SECONDS: Final = 20.0
"""How long to wait for another process: making all tables takes a second, on a cluster three. Whoever still cannot
have it comes again, as when ClickHouse is away."""
PAUSE_SECONDS: Final = 0.2
TABLE: Final = "migration_lock"
TABLE_EXISTS: Final = 57
UNKNOWN_TABLE: Final = 60
_LEFT: Final = f"{TABLE}_left_by_"

_OWNER: Final = """
SELECT default_expression AS owner FROM system.columns
WHERE database = currentDatabase() AND table = {table} AND name = 'owner'
"""
_AGE: Final = """
SELECT toInt64(now()) - toInt64(metadata_modification_time) AS age FROM system.tables
WHERE database = currentDatabase() AND name = {table}
"""
_LEFT_TABLES: Final = "SELECT name FROM system.tables WHERE database = currentDatabase() AND name LIKE {pattern}"


class Server(Engine, Protocol):
    """The blocking calls that the lock needs."""

    def attempt(self, sql: str, codes: Collection[int]) -> bool:
        """Run a statement; tell whether it worked, or failed with one of these codes."""

    def fetch_unless(self, sql: str, codes: Collection[int]) -> list[Row]:
        """Return a question's rows; none when it failed with one of these codes."""


class MigrationLock:
    """The lock, for one owner.

    Args:
        server: a server that holds the tables, or any of the cluster.
        cluster: the cluster, or None.
        lock_seconds: age from which on a lock is a dead process's.
        wait_seconds: how long to wait for another owner.
    """

    def __init__(
        self,
        server: Server,
        cluster: Cluster | None = None,
        *,
        lock_seconds: float = LOCK_SECONDS,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._server = server
        self._cluster = cluster
        self._lock_seconds = lock_seconds
        self._wait_seconds = wait_seconds
        self._owner = uuid4().hex

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Callable[[], None]]:
        """Hold the lock within the block; what is given raises when it was lost.

        Raises:
            WarehouseUnavailable: another process has it for longer than ``wait_seconds``.
        """
        self._take()
        try:
            yield self.check
        finally:
            self._release()

    def check(self) -> None:
        """Check that the lock is still this owner's.

        Raises:
            WarehouseUnavailable: it was slower than ``lock_seconds``, and another process has gone on.
        """
        if self._holder() != self._owner:
            raise WarehouseUnavailable("another process has taken over the migration of ClickHouse's tables")

    def _take(self) -> None:
        deadline = time.monotonic() + self._wait_seconds
        while not self._create():
            holder, age = self._holder(), self._age()
            if holder is not None and age is not None and age > self._lock_seconds:
                self._rename(holder)
                continue
            if time.monotonic() > deadline:
                raise WarehouseUnavailable("another process is at the migration of ClickHouse's tables")
            time.sleep(PAUSE_SECONDS)

    def _release(self) -> None:
        if self._holder() != self._owner:
            return
        self._server.execute(f"DROP TABLE IF EXISTS {self._name(TABLE)}")
        for row in self._server.fetch(bind(_LEFT_TABLES, {"pattern": _LEFT.replace("_", "\\_") + "%"})):
            self._server.execute(f"DROP TABLE IF EXISTS {self._name(str(row['name']))}")

    def _create(self) -> bool:
        sql = f"CREATE TABLE {self._name(TABLE)} (owner String DEFAULT '{self._owner}') ENGINE = Memory"
        return self._server.attempt(sql, {TABLE_EXISTS})

    def _rename(self, holder: str) -> None:
        held = TABLE if self._cluster is None else self._cluster.qualified(TABLE)
        sql = f"RENAME TABLE {held} TO {self._name(f'{_LEFT}{holder}')}"
        self._server.attempt(sql, {TABLE_EXISTS, UNKNOWN_TABLE})

    def _holder(self) -> str | None:
        # Who reads the columns of a table that is dropped meanwhile hears that it does not exist (seen, 18.16).
        rows = self._server.fetch_unless(bind(_OWNER, {"table": TABLE}), {UNKNOWN_TABLE})
        return str(rows[0]["owner"]).strip("'") if rows else None

    def _age(self) -> int | None:
        rows = self._server.fetch_unless(bind(_AGE, {"table": TABLE}), {UNKNOWN_TABLE})
        return int(rows[0]["age"]) if rows else None

    def _name(self, table: str) -> str:
        return everywhere(table, self._cluster)
