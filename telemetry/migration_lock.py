"""A lock between processes that migrate the same tables, made of what every ClickHouse has: a table.

``CREATE TABLE`` without ``IF NOT EXISTS`` succeeds for one of those who try; with ``ON CLUSTER`` too, as the servers
take such statements from one queue, in its order. The owner's name is the default of the table's only column, so lock
and owner appear at once. The age is told by the server's clock alone.

An owner that died leaves the table. Its statements carry its name (as the beginning of their query ids), and between
them it does next to nothing: whoever has seen none run for ``IDLE_SECONDS`` takes it for dead. In a cluster, where they
may run on any server, only the age tells: ``LOCK_SECONDS``. The table is then renamed, to a name that only this owner's
lock can get: of several who do so one succeeds, and none can rename the lock of the next owner. Renamed tables are
dropped at the end of the next owner's turn.
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
IDLE_SECONDS: Final = 10.0
"""An owner without a statement for so long is dead, or stopped, and finds its lock lost when it goes on."""
WAIT_SECONDS: Final = 20.0
"""How long to wait for another process: making all tables takes a second, on a cluster three. Whoever still cannot
have it comes again, as when ClickHouse is away."""
PAUSE_SECONDS: Final = 0.2
TABLE: Final = "migration_lock"
TABLE_EXISTS: Final = 57
UNKNOWN_TABLE: Final = 60
NOT_ALLOWED: Final = 497
_LEFT: Final = f"{TABLE}_left_by_"

_OWNER: Final = """
SELECT default_expression AS owner FROM system.columns
WHERE database = currentDatabase() AND table = {table} AND name = 'owner'
"""
_AGE: Final = """
SELECT toInt64(now()) - toInt64(metadata_modification_time) AS age FROM system.tables
WHERE database = currentDatabase() AND name = {table}
"""
_RUNNING: Final = "SELECT count() AS running FROM system.processes WHERE query_id LIKE {pattern}"
_LEFT_TABLES: Final = "SELECT name FROM system.tables WHERE database = currentDatabase() AND name LIKE {pattern}"


class Server(Engine, Protocol):
    """The blocking calls that the lock needs.

    Attributes:
        query_id_prefix: what the ids of statements begin with; none if it is empty.
    """

    query_id_prefix: str

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
        idle_seconds: how long an owner may be without a statement, where it has one server only.
        wait_seconds: how long to wait for another owner.
    """

    def __init__(
        self,
        server: Server,
        cluster: Cluster | None = None,
        *,
        lock_seconds: float = LOCK_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._server = server
        self._cluster = cluster
        self._lock_seconds = lock_seconds
        self._idle_seconds = idle_seconds
        self._wait_seconds = wait_seconds
        self._owner = uuid4().hex

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Callable[[], None]]:
        """Hold the lock within the block; what is given raises when it was lost.

        Raises:
            WarehouseUnavailable: another process has it for longer than ``wait_seconds``.
        """
        self._take()
        self._server.query_id_prefix = self._owner
        try:
            yield self.check
        finally:
            self._server.query_id_prefix = ""
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
        seen: str | None = None
        running_at = time.monotonic()
        while not self._create():
            holder = self._holder()
            if holder is None or holder != seen or self._may_run(holder):
                seen, running_at = holder, time.monotonic()
            if holder is not None and self._is_dead(time.monotonic() - running_at):
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

    def _is_dead(self, idle: float) -> bool:
        age = self._age()
        return idle > self._idle_seconds or (age is not None and age > self._lock_seconds)

    def _may_run(self, holder: str) -> bool:
        """Tell whether a statement of the owner's runs; true also where that cannot be seen, as in a cluster."""
        if self._cluster is not None:
            return True
        rows = self._server.fetch_unless(bind(_RUNNING, {"pattern": f"{holder}-%"}), {NOT_ALLOWED})
        return not rows or int(rows[0]["running"]) > 0

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
