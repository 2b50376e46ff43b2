"""ClickHouse as a server, over its native protocol (``clickhouse-driver``): 18.16 and everything after it.

Three lanes, a thread and a connection each, as in the embedded one: a typed question that takes long delays neither
inserts nor the dashboard. A connection that failed is dropped and opened again by the next call.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import structlog
from clickhouse_driver import Client, defines
from clickhouse_driver import errors as driver
from clickhouse_driver.block import BlockInfo, ColumnOrientedBlock
from clickhouse_driver.protocol import ClientPacketTypes
from clickhouse_driver.varint import write_varint
from clickhouse_driver.writer import write_binary_str

from telemetry import erasure as erasures
from telemetry import migrate as migrations
from telemetry import retention
from telemetry.cluster import SETTINGS as CLUSTER_SETTINGS
from telemetry.cluster import WITHOUT_TOKENS, Cluster
from telemetry.columns import COLUMN_TYPES, COLUMNS, EventColumns
from telemetry.lane import Lane
from telemetry.literals import Value, bind
from telemetry.migration_lock import MigrationLock
from telemetry.native import encode_block
from telemetry.server_errors import UNKNOWN_DATABASE, insert_error, migration_error, query_error
from telemetry.warehouse import (
    DEFAULT_LIMITS,
    MAX_WAITING_QUESTIONS,
    QueryFailed,
    QueryLimits,
    Row,
    WarehouseUnavailable,
)

CONNECT_SECONDS: Final = 5
"""A server on the same network answers in milliseconds; a wrong address must not hold a lane for long."""
ANSWER_SECONDS: Final = 60
"""Silence after which a connection is given up; the longest insert takes a few seconds."""
MAX_WAITING_OWN: Final = 256
"""Calls of our own that wait in a lane; each takes milliseconds."""
TOKENS_SINCE: Final = (22, 3)
"""The first version (a long-term one) with ``insert_deduplication_token``."""
_DEFAULT_PORT: Final = 9000
_DEFAULT_SECURE_PORT: Final = 9440
_CONNECTION_ERRORS: Final = (driver.NetworkError, driver.SocketTimeoutError, EOFError, OSError)

R = TypeVar("R")

log = structlog.get_logger(__name__)
# The driver logs a traceback for each address that refuses; ours is one line, by whoever retries.
logging.getLogger("clickhouse_driver.connection").setLevel(logging.CRITICAL)


class InvalidWarehouseUrl(ValueError):
    """The address is not ``clickhouse://user:password@host:9000/database`` (or ``clickhouses://`` for TLS)."""


class _Client(Client):  # type: ignore[misc]  # the driver has no types
    """The driver's client, whose inserts send columns as they are, in one block."""

    def send_data(self, sample_block: Any, data: Any, types_check: bool = False, columnar: bool = False) -> int:  # noqa: ARG002
        """Send the one ``EventColumns`` in ``data``, and the empty block that ends an insert."""
        (columns,) = data
        self._send_columns(columns)
        self.receive_profile_events()
        self.connection.send_data(ColumnOrientedBlock())
        self.receive_profile_events()
        return int(columns.count)

    def _send_columns(self, columns: EventColumns) -> None:
        connection = self.connection
        kinds = connection.server_info.used_revision >= defines.DBMS_MIN_REVISION_WITH_CUSTOM_SERIALIZATION
        block = encode_block(COLUMNS, COLUMN_TYPES.values(), columns.values, columns.count, serialization_kinds=kinds)
        write_varint(ClientPacketTypes.DATA, connection.fout)
        write_binary_str("", connection.fout)
        BlockInfo().write(connection.block_out.fout)
        connection.block_out.fout.write(block)
        connection.block_out.finalize()


class _Session:
    """One lane's connection. Every method blocks, and raises the driver's errors.

    Attributes:
        cluster: that the server is part of, or None.
        query_id_prefix: what the ids of statements begin with; the server gives them when it is empty.
    """

    def __init__(self, options: Mapping[str, Any], cluster: Cluster | None = None) -> None:
        self._options = options
        self.cluster = cluster
        self.query_id_prefix = ""
        self._client: Client | None = None
        self._version: tuple[int, int] | None = None

    def execute(self, sql: str, data: Any = None, settings: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run a statement on the connection, opened when there is none."""
        if self._client is None:
            self._client = _Client(**self._options)
        if self.query_id_prefix:
            options["query_id"] = f"{self.query_id_prefix}-{uuid4().hex}"
        try:
            return self._client.execute(sql, data, settings=dict(settings or {}), **options)
        except driver.ServerException:
            raise  # the connection is in order
        except BaseException:
            self.close()
            raise

    def attempt(self, sql: str, codes: Collection[int]) -> bool:
        """Run a statement; tell whether it worked, or failed with one of these codes."""
        try:
            self.execute(sql)
        except driver.ServerException as error:
            if error.code not in codes:
                raise
            return False
        return True

    def fetch_unless(self, sql: str, codes: Collection[int]) -> list[Row]:
        """Run a question; return no rows when it failed with one of these codes."""
        try:
            return self.fetch(sql)
        except driver.ServerException as error:
            if error.code not in codes:
                raise
            return []

    def fetch(self, sql: str, settings: Mapping[str, Any] | None = None) -> list[Row]:
        """Run a question; the rows as they would be in the engine's own JSON."""
        rows, columns = self.execute(sql, settings=settings, with_column_types=True)
        names = [name for name, _ in columns]
        return [dict(zip(names, map(json_value, row), strict=True)) for row in rows]

    def version(self) -> tuple[int, int]:
        """Return the server's version."""
        if self._version is None:
            major, minor, *_ = str(self.execute("SELECT version()")[0][0]).split(".")
            self._version = int(major), int(minor)
        return self._version

    def create_database(self) -> None:
        """Make the database if it is missing, over a connection that names none."""
        client = Client(**{**self._options, "database": ""})
        try:
            here = f"CREATE DATABASE IF NOT EXISTS `{self._options['database']}`"
            client.execute(here if self.cluster is None else self.cluster.create_database())
        finally:
            client.disconnect()

    def close(self) -> None:
        """Close the connection. The server may be another one next time, so its version is asked again."""
        if self._client is not None:
            self._client.disconnect()
        self._client = None
        self._version = None


class ServerWarehouse:
    """The warehouse on a server.

    Args:
        url: ``clickhouse://user:password@host:9000/database``; ``clickhouses://`` for TLS.
        cluster: the name of the cluster that the server is part of, or None when it stands alone.
        keep_days: how long events are kept.

    Raises:
        InvalidWarehouseUrl: it is something else.
        InvalidClusterName: no cluster can have this name.
    """

    def __init__(self, url: str, cluster: str | None = None, keep_days: int = retention.DEFAULT_KEEP_DAYS) -> None:
        options = connection_options(url)
        self._keep_days = keep_days
        of = None
        if cluster is not None:
            of = Cluster(cluster, options["database"])
            options |= {"settings": dict(CLUSTER_SETTINGS)}
        self._lanes = {
            name: (Lane(f"clickhouse-{name}", waiting), _Session(options, of))
            for name, waiting in (
                ("insert", MAX_WAITING_OWN),
                ("query", MAX_WAITING_OWN),
                ("typed", MAX_WAITING_QUESTIONS),
            )
        }

    async def migrate(self) -> None:
        """See ``Warehouse.migrate``."""
        applied = await self._run("insert", _migrate, migration_error)
        if applied:
            log.info("warehouse_migrated", migrations=applied)

    async def insert_events(self, columns: EventColumns, insert_id: str) -> None:
        """See ``Warehouse.insert_events``."""
        if columns.count == 0:
            return
        await self._run("insert", lambda session: _insert(session, columns, insert_id), insert_error)

    async def erased(self) -> erasures.Erased:
        """See ``Warehouse.erased``."""
        # Not in the lane for questions: whoever is about to insert must not wait for one.
        rows = await self._run("insert", lambda session: session.fetch(erasures.ERASED_ROWS), migration_error)
        return erasures.erased_by(rows)

    async def erase(self, erasure: erasures.Erasure) -> bool:
        """See ``Warehouse.erase``."""
        return await self._run("insert", partial(_erase, erasure=erasure), migration_error)

    async def enforce_retention(self, today: date) -> list[str]:
        """See ``Warehouse.enforce_retention``."""
        enforce = partial(_enforce_retention, keep_days=self._keep_days, today=today)
        return await self._run("insert", enforce, migration_error)

    async def query(self, sql: str, params: Mapping[str, Value] | None = None) -> list[Row]:
        """See ``Warehouse.query``."""
        bound = bind(sql, params or {})
        return await self._run("query", lambda session: session.fetch(bound), query_error)

    async def query_readonly(self, sql: str, limits: QueryLimits = DEFAULT_LIMITS) -> list[Row]:
        """See ``Warehouse.query_readonly``."""
        settings = _readonly_settings(limits)
        return await self._run("typed", lambda session: session.fetch(sql, settings)[: limits.rows], query_error)

    async def ping(self) -> None:
        """See ``Warehouse.ping``."""
        try:
            await self.query("SELECT 1")
        except QueryFailed as error:
            raise WarehouseUnavailable(str(error)) from error

    async def close(self) -> None:
        """See ``Warehouse.close``."""
        for lane, session in self._lanes.values():
            await lane.close(session.close)

    async def _run(self, name: str, call: Callable[[_Session], R], failure: Callable[[int, str], Exception]) -> R:
        lane, session = self._lanes[name]

        def translated() -> R:
            try:
                return call(session)
            except _CONNECTION_ERRORS as error:
                # The message of a network error holds the address at most, never the password.
                raise WarehouseUnavailable(f"ClickHouse cannot be reached: {type(error).__name__}") from None
            except driver.Error as error:
                raise failure(
                    int(error.code or 0), str(error.message if hasattr(error, "message") else error)
                ) from None

        return await lane.run(translated)


def connection_options(url: str) -> dict[str, Any]:
    """Return the driver's options for an address.

    Raises:
        InvalidWarehouseUrl: the address is of another form; the message does not repeat it, as it may hold a password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidWarehouseUrl("the ClickHouse address has no valid port") from None
    database = unquote(parts.path.lstrip("/")) or "default"
    if parts.scheme not in ("clickhouse", "clickhouses") or not parts.hostname or not database.isidentifier():
        raise InvalidWarehouseUrl("the ClickHouse address is clickhouse://user:password@host:9000/database")
    secure = parts.scheme == "clickhouses"
    return {
        "host": parts.hostname,
        "port": port or (_DEFAULT_SECURE_PORT if secure else _DEFAULT_PORT),
        "user": unquote(parts.username or "default"),
        "password": unquote(parts.password or ""),
        "database": database,
        "secure": secure,
        "connect_timeout": CONNECT_SECONDS,
        "send_receive_timeout": ANSWER_SECONDS,
        "client_name": "skafos",
        "compression": "lz4",
    }


def json_value(value: Any) -> Any:
    """Return a value of the driver's as ClickHouse itself would write it into JSON."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat(sep=" ")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, dict):
        return {str(key): json_value(item) for key, item in value.items()}
    return str(value)  # UUID, Decimal, addresses


def _migrate(session: _Session) -> list[int]:
    lock = MigrationLock(session, session.cluster)
    try:
        return migrations.migrate(session, cluster=session.cluster, lock=lock)
    except driver.ServerException as error:
        if error.code != UNKNOWN_DATABASE:
            raise
    session.create_database()
    return migrations.migrate(session, cluster=session.cluster, lock=lock)


def _erase(session: _Session, erasure: erasures.Erasure) -> bool:
    return erasures.erase(session, erasure, session.cluster)


def _enforce_retention(session: _Session, keep_days: int, today: date) -> list[str]:
    return retention.enforce(session, migrations.all_statements(), keep_days, today, session.cluster)


def _insert(session: _Session, columns: EventColumns, insert_id: str) -> None:
    settings: dict[str, Any] = {}
    if session.version() >= TOKENS_SINCE:
        settings["insert_deduplication_token"] = insert_id
        settings["deduplicate_blocks_in_dependent_materialized_views"] = 1
    elif session.cluster is not None:
        settings |= WITHOUT_TOKENS
    session.execute(
        f"INSERT INTO raw_events ({', '.join(COLUMNS)}) VALUES", [columns], settings=settings, columnar=True
    )


def _readonly_settings(limits: QueryLimits) -> dict[str, Any]:
    return {
        "max_execution_time": limits.seconds,
        "max_memory_usage": limits.memory_bytes,
        "max_result_bytes": limits.result_bytes,
        "result_overflow_mode": "throw",
        "readonly": 1,  # last: on some versions nothing can be set after it
    }
