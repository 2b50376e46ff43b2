"""ClickHouse inside this process (chdb): the default, for a laptop or one small server.

One process owns the directory. Three lanes, a thread and a session each, keep kinds of work apart: a question that
takes long delays neither inserts nor the dashboard. The lane for typed questions has a read-only session with limits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import structlog

from telemetry import erasure as erasures
from telemetry import migrate as migrations
from telemetry import retention
from telemetry.columns import COLUMN_TYPES, COLUMNS, EventColumns
from telemetry.engine_process import (
    CONFIGURATION,
    give_back_start_up_pages,
    import_sessions,
    own_working_directory,
)
from telemetry.lane import Lane
from telemetry.literals import Value, bind, literal
from telemetry.native import encode_block
from telemetry.server_errors import code_of, insert_error, migration_error, query_error, sentence_of
from telemetry.warehouse import (
    DEFAULT_LIMITS,
    MAX_WAITING_QUESTIONS,
    QueryFailed,
    QueryLimits,
    Row,
    WarehouseUnavailable,
)

DATABASE: Final = "skafos"
MAX_WAITING_OWN: Final = 256
"""Calls of our own that wait in a lane; each takes milliseconds."""
QUERY_LANES: Final = 2
"""A page of figures asks a dozen questions at once; more lanes than a small machine has cores would only wait."""
_SETTINGS: Final = (
    "output_format_json_quote_64bit_integers = 0",
    "output_format_json_quote_denormals = 0",
    "output_format_json_validate_utf8 = 1",
    # Asked for the fourth time, a question would wait some 200 ms while its expressions are compiled.
    "compile_expressions = 0",
    "compile_aggregate_expressions = 0",
    "compile_sort_description = 0",
    # By default a second thread reads from 330,000 rows on, which is more than most questions ask of an app's tables.
    "merge_tree_min_rows_for_concurrent_read = 20000",
    "merge_tree_min_bytes_for_concurrent_read = 1000000",
)
_ROWS: Final = msgspec.json.Decoder(Row)

R = TypeVar("R")

log = structlog.get_logger(__name__)


class _Session:
    """A session of one lane, opened with its first statement. Every method blocks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._session: Any = None
        self._limits: QueryLimits | None = None

    def run(self, sql: str, output: str = "Null") -> bytes:
        """Run a statement. Raises the engine's own error.

        A statement that fails midway leaves the rows it had written in the session, and the next statement's answer
        begins with them (seen). They may be another organization's, so the session ends with the failure.
        """
        try:
            return self._opened().query(sql, output).bytes() or b""
        except BaseException:
            self.close()
            raise

    def limit(self, limits: QueryLimits) -> None:
        """Make the session read-only, for good, with these limits."""
        if self._limits == limits:
            return
        if self._limits is not None:  # a read-only session cannot change its limits
            self.close()
        for setting in (
            f"max_execution_time = {limits.seconds}",
            f"max_memory_usage = {limits.memory_bytes}",
            f"max_result_bytes = {limits.result_bytes}",
            "result_overflow_mode = 'throw'",
            "readonly = 1",
        ):
            self.run(f"SET {setting}")
        self._limits = limits

    def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            self._session.close()
        self._session = None
        self._limits = None

    def _opened(self) -> Any:
        if self._session is None:
            session = _open_session(self._directory)
            session.query(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")
            session.query(f"USE {DATABASE}")
            for setting in _SETTINGS:
                session.query(f"SET {setting}")
            self._session = session
        return self._session


def _open_session(directory: Path) -> Any:
    configuration = directory / "engine.xml"
    try:
        return import_sessions().Session(f"{directory / 'data'}?config-file={configuration}")
    except (RuntimeError, ValueError, OSError) as error:  # what the engine raises when it cannot start
        raise WarehouseUnavailable(
            f"the embedded ClickHouse cannot open {directory}; does another process use it? ({sentence_of(str(error))})"
        ) from error


class EmbeddedWarehouse:
    """The warehouse in this process.

    Args:
        directory: owned by this process alone, made if it is missing.
        keep_days: how long events are kept.
    """

    def __init__(self, directory: Path, keep_days: int = retention.DEFAULT_KEEP_DAYS) -> None:
        self._keep_days = keep_days
        self._directory = directory.absolute()
        self._lanes = {
            name: [(Lane(f"clickhouse-{name}", waiting, self._enter), _Session(self._directory)) for _ in range(lanes)]
            for name, lanes, waiting in (
                ("insert", 1, MAX_WAITING_OWN),
                ("query", QUERY_LANES, MAX_WAITING_OWN),
                ("typed", 1, MAX_WAITING_QUESTIONS),
            )
        }
        self._entered = threading.Lock()

    async def migrate(self) -> None:
        """See ``Warehouse.migrate``."""
        applied = await self._run("insert", lambda session: migrations.migrate(_Engine(session)), migration_error)
        if applied:
            log.info("warehouse_migrated", migrations=applied)
        log.debug("engine_pages_given_back", bytes=await asyncio.to_thread(give_back_start_up_pages))

    async def insert_events(self, columns: EventColumns, insert_id: str) -> None:
        """See ``Warehouse.insert_events``."""
        if columns.count == 0:
            return
        await self._run("insert", lambda session: _insert(session, self._directory, columns, insert_id), insert_error)

    async def erased(self) -> erasures.Erased:
        """See ``Warehouse.erased``."""
        # Not in the lane for questions: whoever is about to insert must not wait for one.
        rows = await self._run("insert", lambda session: _fetch(session, erasures.ERASED_ROWS), migration_error)
        return erasures.erased_by(rows)

    async def erase(self, erasure: erasures.Erasure) -> bool:
        """See ``Warehouse.erase``."""
        return await self._run("insert", lambda session: erasures.erase(_Engine(session), erasure), migration_error)

    async def enforce_retention(self, today: date) -> list[str]:
        """See ``Warehouse.enforce_retention``."""

        def enforce(session: _Session) -> list[str]:
            return retention.enforce(_Engine(session), migrations.all_statements(), self._keep_days, today)

        return await self._run("insert", enforce, migration_error)

    async def query(self, sql: str, params: Mapping[str, Value] | None = None) -> list[Row]:
        """See ``Warehouse.query``."""
        bound = bind(sql, params or {})
        return await self._run("query", lambda session: _fetch(session, bound), query_error)

    async def query_readonly(self, sql: str, limits: QueryLimits = DEFAULT_LIMITS) -> list[Row]:
        """See ``Warehouse.query_readonly``."""

        def ask(session: _Session) -> list[Row]:
            session.limit(limits)
            return _fetch(session, sql, limits)

        return await self._run("typed", ask, query_error)

    async def ping(self) -> None:
        """See ``Warehouse.ping``."""
        try:
            await self.query("SELECT 1")
        except QueryFailed as error:
            raise WarehouseUnavailable(str(error)) from error

    async def close(self) -> None:
        """See ``Warehouse.close``."""
        for lane, session in chain.from_iterable(self._lanes.values()):
            await lane.close(session.close)

    def _enter(self) -> None:
        """Runs first in each lane's thread."""
        with self._entered:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            own_working_directory(self._directory)
            (self._directory / "engine.xml").write_text(CONFIGURATION)

    async def _run(self, name: str, call: Callable[[_Session], R], failure: Callable[[int, str], Exception]) -> R:
        lane, session = min(self._lanes[name], key=lambda pair: pair[0].waiting)

        def translated() -> R:
            try:
                return call(session)
            except RuntimeError as error:  # the engine has one error class, with its code in the text
                raise failure(code_of(str(error)), str(error)) from None

        return await lane.run(translated)


class _Engine:
    def __init__(self, session: _Session) -> None:
        self._session = session

    def version(self) -> tuple[int, int]:
        major, minor, *_ = self.fetch("SELECT version() AS version")[0]["version"].split(".")
        return int(major), int(minor)

    def execute(self, sql: str) -> None:
        self._session.run(sql)

    def fetch(self, sql: str) -> list[Row]:
        return _fetch(self._session, sql)


def _fetch(session: _Session, sql: str, limits: QueryLimits | None = None) -> list[Row]:
    answer = session.run(sql, "JSONEachRow")
    rows = _ROWS.decode_lines(answer)
    return rows[: limits.rows] if limits else rows


def _insert(session: _Session, directory: Path, columns: EventColumns, insert_id: str) -> None:
    # The engine takes bytes from a file alone: of a statement with data in it the end is guessed by line breaks, and an
    # insert that is streamed (send_insert) tells of success when a constraint or a view refuses the rows. Both seen.
    data = directory / "insert.native"
    data.write_bytes(encode_block(COLUMNS, COLUMN_TYPES.values(), columns.values, columns.count))
    try:
        session.run(
            f"INSERT INTO raw_events ({', '.join(COLUMNS)}) FROM INFILE {literal(str(data))} "
            f"SETTINGS insert_deduplication_token = {literal(insert_id)}, "
            "deduplicate_blocks_in_dependent_materialized_views = 1 FORMAT Native"
        )
    finally:
        data.unlink()
