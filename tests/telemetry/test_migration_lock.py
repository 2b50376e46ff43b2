"""The lock of migrations, on a real server: one owner at a time, and none for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from clickhouse_driver import Client
from clickhouse_driver.errors import ServerException

from telemetry.migrate import load_migrations
from telemetry.migration_lock import TABLE, UNKNOWN_TABLE, MigrationLock
from telemetry.server_warehouse import ServerWarehouse, _Session, connection_options
from telemetry.warehouse import WarehouseUnavailable
from tests.servers.clickhouse import ClickHouseServer
from tests.telemetry.warehouses import server, url_of

__all__ = ["server"]  # fixture


Locks = Callable[..., MigrationLock]


@pytest.fixture
def url(server: ClickHouseServer) -> str:
    """The address of an empty database of its own."""
    name = f"t_{uuid4().hex}"
    ask(url_of(server, "default"), f"CREATE DATABASE {name}")
    return url_of(server, name)


@pytest.fixture
def lock(url: str) -> Iterator[Locks]:
    """Makes locks, each with a connection of its own."""
    sessions: list[_Session] = []

    def made(**bounds: float) -> MigrationLock:
        sessions.append(_Session(connection_options(url)))
        return MigrationLock(sessions[-1], None, **bounds)

    yield made
    for session in sessions:  # the server waits for them when it ends
        session.close()


def ask(url: str, sql: str) -> list[tuple[Any, ...]]:
    client = Client(**connection_options(url))
    try:
        return list(client.execute(sql))
    finally:
        client.disconnect()


def test_a_second_owner_waits_and_then_comes_again(url: str, lock: Locks) -> None:
    with lock()(), pytest.raises(WarehouseUnavailable, match="another process"), lock(wait_seconds=0)():
        pass
    with lock(wait_seconds=0)():  # and when the first is done, it works
        pass

    assert ask(url, f"SHOW TABLES LIKE '{TABLE}%'") == []


def test_owners_take_turns(lock: Locks) -> None:
    inside: list[int] = []
    seen: list[int] = []

    def turn(number: int) -> None:
        with lock()() as check:
            inside.append(number)
            seen.append(len(inside))
            check()
            inside.remove(number)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(turn, range(4)))

    assert seen == [1, 1, 1, 1]


def test_a_lock_that_vanishes_while_it_is_looked_at_is_nobodys(url: str) -> None:
    session = _Session(connection_options(url))
    assert session.fetch_unless("SELECT * FROM vanished", {UNKNOWN_TABLE}) == []
    with pytest.raises(ServerException):
        session.fetch_unless("SELECT nonsense", {UNKNOWN_TABLE})
    session.close()


def test_a_dead_owners_lock_is_taken_over_by_one(url: str, lock: Locks) -> None:
    dead = lock()
    dead._take()
    heirs = [lock(lock_seconds=-1, wait_seconds=0), lock(wait_seconds=0)]
    with heirs[0](), pytest.raises(WarehouseUnavailable), heirs[1]():
        pass

    with pytest.raises(WarehouseUnavailable, match="taken over"):
        dead.check()
    assert ask(url, f"SHOW TABLES LIKE '{TABLE}%'") == []


def test_an_owner_without_a_statement_is_taken_for_dead_soon(url: str, lock: Locks) -> None:
    dead = lock()
    dead._take()
    with lock(idle_seconds=0.5)():
        pass
    with pytest.raises(WarehouseUnavailable, match="taken over"):
        dead.check()
    assert ask(url, f"SHOW TABLES LIKE '{TABLE}%'") == []


def test_an_owner_whose_statement_takes_long_keeps_its_lock(lock: Locks) -> None:
    owner = lock()
    with owner() as check, ThreadPoolExecutor(1) as threads:
        long = threads.submit(owner._server.execute, "SELECT sleep(2)")
        with (
            pytest.raises(WarehouseUnavailable, match="another process is"),
            lock(idle_seconds=0.5, wait_seconds=1.5)(),
        ):
            pass
        long.result()
        check()


def test_whoever_is_late_to_take_over_cannot_have_the_next_owners_lock(lock: Locks) -> None:
    dead = lock()
    dead._take()
    late = lock()
    with lock(lock_seconds=-1)() as check:
        late._rename(dead._owner)
        check()  # still the owner


async def test_of_many_that_migrate_at_once_one_applies_each_file(url: str) -> None:
    warehouses = [ServerWarehouse(url) for _ in range(4)]
    await asyncio.gather(*(warehouse.migrate() for warehouse in warehouses))
    for warehouse in warehouses:
        await warehouse.close()

    applied = ask(url, "SELECT number FROM schema_migrations ORDER BY number")
    assert applied == [(migration.number,) for migration in load_migrations()]
