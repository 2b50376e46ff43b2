"""A database of each kind for one test: empty, or with its tables, which are made once and copied."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from control_plane.database import Database
from control_plane.migrate import migrate
from tests.servers.postgres import PostgresServer

KINDS = ("sqlite", "postgresql")


@pytest.fixture(params=KINDS)
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database that no other test uses, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.sqlite3'}"
    url: str = request.getfixturevalue("postgres_server").new_database()
    return url


@pytest.fixture(params=KINDS)
def fresh_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database that is migrated and holds no rows, which no other test uses, once of each kind."""
    if request.param == "sqlite":
        return fresh_sqlite(tmp_path)
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.new_database(request.getfixturevalue("migrated_postgres"))


def fresh_sqlite(folder: Path) -> str:
    """Return the URL of a database of SQLite that is migrated and holds no rows, in a folder."""
    file = folder / "test.sqlite3"
    if not file.exists():  # whoever opens it again finds what is there
        file.write_bytes(_migrated_sqlite())
    return f"sqlite:///{file}"


@cache
def _migrated_sqlite() -> bytes:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "migrated.sqlite3"
        _migrate(f"sqlite:///{file}")
        return file.read_bytes()


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: PostgresServer) -> str:
    """The name of the database that those of PostgreSQL are copies of."""
    url = postgres_server.new_database()
    _migrate(url)
    return url.rpartition("/")[2]


def _migrate(url: str) -> None:
    async def run() -> None:
        database = Database(url)
        try:
            await migrate(database)
        finally:
            await database.close()

    with ThreadPoolExecutor(1) as thread:  # the loop of the test that asks first is none of ours
        thread.submit(asyncio.run, run()).result()
