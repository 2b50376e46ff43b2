"""Transactions: what a reader sees while others write, and what becomes of writers that wait for one another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import delete, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database
from control_plane.errors import Unavailable
from control_plane.migrate import migrate
from control_plane.tables import Organization, User
from tests.control_plane.databases import empty_database
from tests.servers.postgres import PostgresServer

__all__ = ["empty_database"]


@pytest.fixture
async def database(empty_database: str) -> AsyncIterator[Database]:
    database = Database(empty_database)
    await migrate(database)
    await _fill(database)
    yield database
    await database.close()


async def _fill(database: Database) -> None:
    async with database.write() as session:
        session.add_all([Organization(name="first"), Organization(name="second")])


async def names(session: AsyncSession) -> list[str]:
    return list(await session.scalars(select(Organization.name).order_by(Organization.name)))


async def test_a_reader_sees_one_state_although_others_write_between_its_queries(database: Database) -> None:
    async with database.read() as reader:
        assert await reader.scalar(select(func.count()).select_from(User)) == 0
        async with database.write() as writer:
            await writer.execute(delete(Organization).where(Organization.name == "first"))
            writer.add_all([Organization(name="third"), User(email="ada@example.org")])
        assert await names(reader) == ["first", "second"]
        assert await reader.scalar(select(func.count()).select_from(User)) == 0
    async with database.read() as reader:
        assert await names(reader) == ["second", "third"]


async def test_what_a_reader_tries_to_change_stays_as_it_was(database: Database) -> None:
    async with database.read() as reader:
        try:
            await reader.execute(delete(Organization))
            assert database.is_sqlite, "PostgreSQL refuses it"
        except DBAPIError:
            assert not database.is_sqlite
    async with database.read() as reader:
        assert await names(reader) == ["first", "second"]


async def test_of_two_writers_that_wait_for_each_other_one_is_told_to_try_again(
    postgres_server: PostgresServer,
) -> None:
    database = Database(postgres_server.new_database())
    await migrate(database)
    await _fill(database)
    both_hold_one = asyncio.Barrier(2)

    async def hold(*in_order: str) -> str:
        async with database.write() as session:
            await _lock(session, in_order[0])
            await both_hold_one.wait()
            await _lock(session, in_order[1])
        return "done"

    ended = await asyncio.gather(hold("first", "second"), hold("second", "first"), return_exceptions=True)
    await database.close()
    (refused,) = [result for result in ended if result != "done"]
    assert isinstance(refused, Unavailable)


async def _lock(session: AsyncSession, name: str) -> None:
    await session.scalar(select(Organization).where(Organization.name == name).with_for_update())
