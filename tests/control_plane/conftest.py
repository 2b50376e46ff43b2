"""Running control planes for the tests of the management API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.control_plane.databases import migrated_postgres
from tests.control_plane.running import Api, running_api
from tests.servers.postgres import postgres_server

__all__ = ["migrated_postgres", "postgres_server"]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of an empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('database') / 'test.sqlite3'}"
    url: str = request.getfixturevalue("postgres_server").new_database()
    return url


@pytest.fixture(scope="module")
def api(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A running control plane on each kind of database, shared by the tests of a module."""
    with running_api(tmp_path_factory.mktemp("control-plane"), database_url) as running:
        yield running
