"""The database: SQLite in write-ahead mode, or PostgreSQL by URL.

A caller opens a transaction for reading or one for writing, and says which. On SQLite that matters: a writing
transaction takes the one write lock at its start (``BEGIN IMMEDIATE``), so it never fails half-way because what it
read has changed meanwhile. Writers of this process wait for one another in a fair queue rather than in SQLite's
polling, which holds a connection and a thread.

A reading transaction sees one state of the whole database from its first query on, whatever others commit meanwhile:
SQLite's write-ahead log gives it a snapshot, and PostgreSQL one by REPEATABLE READ. A writing transaction on
PostgreSQL sees what others have committed at each query, so it locks what it decides on (`control_plane.locks`).

Every commit is flushed to disk (``synchronous=FULL``): a manifest's revision that devices have seen must not be
forgotten in a power cut, because they refuse an older one (TUF, section 5.4, protection against rollback).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import structlog
from sqlalchemy import URL, event, make_url
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from control_plane.errors import Unavailable

# Connections at rest and at most. The API is used by people and build machines, not by devices, and on SQLite each
# connection is a thread.
POOL_SIZE = 5
POOL_OVERFLOW = 10
# How long anything waits for a connection or for the write lock before the caller hears "unavailable".
WAIT_SECONDS = 20
# Other processes (a second control plane that is starting) may hold SQLite's write lock for a moment.
SQLITE_BUSY_MILLISECONDS = 10_000

# What PostgreSQL says when it ends one of several transactions that wait for one another, or cannot order them
# (PostgreSQL 15, appendix A: serialization_failure, deadlock_detected). Done again, it works.
LOST_TO_ANOTHER = frozenset({"40001", "40P01"})

_WRITES = "skafos_writes"
_log = structlog.get_logger(__name__)


class Database:
    """Transactions on one database.

    Args:
        url: `sqlite:///path`, `postgresql://user@host/name`, or either with an async driver named.
    """

    def __init__(self, url: str) -> None:
        self.url = _with_driver(make_url(url))
        self.engine = _create_engine(self.url)
        self._readers = async_sessionmaker(_reading(self.engine, self.is_sqlite), expire_on_commit=False)
        writing_engine = self.engine.execution_options(**{_WRITES: True})
        self._writers = async_sessionmaker(writing_engine, expire_on_commit=False)
        self._write_lock: AbstractAsyncContextManager[Any] = asyncio.Lock() if self.is_sqlite else nullcontext()

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite; else it is PostgreSQL."""
        return self.url.get_backend_name() == "sqlite"

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """Open a session whose reads see one state; it changes nothing.

        Raises:
            Unavailable: the database does not answer.
        """
        with _unavailable_when_unreachable():
            async with self._readers() as session:
                yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """Open a session that is committed when the block ends well and rolled back when it raises.

        Never open one inside another: on SQLite the inner one would wait for the outer.

        Raises:
            Unavailable: the database does not answer, other writers held it for too long, or this one and another
                waited for each other, and this one was ended; it may be tried again.
        """
        with _unavailable_when_unreachable():
            async with self._queue_for_writing(), self._writers() as session, session.begin():
                yield session

    async def ping(self) -> None:
        """Ask the database for nothing, to see that it answers.

        Raises:
            Unavailable: it does not.
        """
        async with self.read() as session:
            await (await session.connection()).exec_driver_sql("SELECT 1")

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()

    @asynccontextmanager
    async def _queue_for_writing(self) -> AsyncIterator[None]:
        async with asyncio.timeout(WAIT_SECONDS) as waiting, self._write_lock:
            waiting.reschedule(None)
            yield


class _unavailable_when_unreachable:  # noqa: N801 - reads as a statement
    """Turn what the driver says of an unreachable or busy database into `Unavailable`."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is not None and _is_outage(error):
            _log.warning("database_unavailable", reason=_reason(error))
            raise Unavailable("The database does not answer; try again in a moment.", "database") from error


def _is_outage(error: BaseException) -> bool:
    if isinstance(error, IntegrityError):
        return False
    if isinstance(error, OperationalError | InterfaceError | PoolTimeoutError):
        return True
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or getattr(error.orig, "sqlstate", None) in LOST_TO_ANOTHER
    # A server that is not there shows as the socket's own error; a timeout is the queue for writing.
    return isinstance(error, ConnectionError | TimeoutError)


def _reason(error: BaseException) -> str:
    """Return what went wrong without the statement and its parameters, which may hold secrets."""
    return str(getattr(error, "orig", None) or type(error).__name__)


def _with_driver(url: URL) -> URL:
    """Return ``url`` with the async driver that we use."""
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
    name = url.get_backend_name()
    if name not in drivers:
        raise ValueError(f"{name} is not a database that Skafos can use; use sqlite or postgresql")
    return url.set(drivername=drivers[name])


def _create_engine(url: URL) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=WAIT_SECONDS,
        pool_pre_ping=url.get_backend_name() != "sqlite",
        hide_parameters=True,  # parameters hold hashes of tokens; errors are logged
    )
    if url.get_backend_name() == "sqlite":
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _reading(engine: AsyncEngine, is_sqlite: bool) -> AsyncEngine:
    """Return the engine whose transactions see one state; SQLite's do so by themselves."""
    if is_sqlite:
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Set a new SQLite connection up. `isolation_level` None leaves BEGIN to `_begin_sqlite`."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={SQLITE_BUSY_MILLISECONDS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
