"""Fixtures that open a warehouse of each kind; a test module imports the ones it wants."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from telemetry.warehouse import Warehouse, open_warehouse
from tests.servers.clickhouse import ClickHouseServer, clickhouse_server

__all__ = ["embedded", "server", "warehouse"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """A private server, shared by the module's tests."""
    with clickhouse_server(tmp_path_factory.mktemp("clickhouse")) as running:
        yield running


@pytest.fixture(params=["embedded", "server"])
async def warehouse(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Warehouse]:
    """A migrated, empty warehouse: the embedded one, then a database of its own on the server."""
    url = None
    if request.param == "server":
        url = url_of(request.getfixturevalue("server"))
    else:
        await copy_migrated(tmp_path_factory, tmp_path / "clickhouse")
    opened = open_warehouse(url, tmp_path / "clickhouse")
    await opened.migrate()
    yield opened
    await opened.close()


@pytest.fixture
async def embedded(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Warehouse]:
    """A migrated, empty embedded warehouse."""
    await copy_migrated(tmp_path_factory, tmp_path / "clickhouse")
    opened = open_warehouse(None, tmp_path / "clickhouse")
    await opened.migrate()
    yield opened
    await opened.close()


def url_of(server: ClickHouseServer, database: str | None = None) -> str:
    """Return the address of a database on the server; without a name, of a new one."""
    return server.url.removesuffix("skafos") + (database or f"t_{uuid4().hex}")


async def copy_migrated(factory: pytest.TempPathFactory, directory: Path) -> None:
    """Put a migrated, empty embedded warehouse there: all migrations once a process, instead of once a test."""
    migrated = factory.getbasetemp() / "migrated-clickhouse"
    if not migrated.exists():
        opened = open_warehouse(None, migrated)
        await opened.migrate()
        await opened.close()
    shutil.copytree(migrated, directory, symlinks=True)
