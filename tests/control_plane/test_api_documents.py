"""Documents that cannot drift: the settings and the database's schema are what the documents and migrations say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from control_plane.api.table import ROUTES
from control_plane.database import Database
from control_plane.migrate import migrate, newest_revision
from control_plane.settings import Settings
from control_plane.tables import Base

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_on_operating_lists_every_setting_with_its_default() -> None:
    listed = re.findall(r"^\| `(SKAFOS_\w+)` \| (.+?) \| (.+) \|$", (DOCS / "operations.md").read_text(), re.MULTILINE)
    assert listed == [
        (f"SKAFOS_{name.upper()}", "–" if info.default is None else f"`{info.default}`", info.description)  # noqa: RUF001
        for name, info in Settings.model_fields.items()
    ]


def test_the_page_on_the_api_lists_every_route_with_its_role() -> None:
    listed = re.findall(r"^\| (\w+) \| `([^`]+)` \| (\w+) \| (.+) \|$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert listed == [(route.method, route.path, route.access.value, route.summary) for route in ROUTES]


async def test_migrations_make_exactly_the_tables_of_the_code(database_url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    database = Database(database_url)
    try:
        assert await migrate(database)
        assert not await migrate(database), "a second run has nothing to do"
        async with database.engine.connect() as connection:
            differences = await connection.run_sync(
                lambda plain: compare_metadata(MigrationContext.configure(plain), Base.metadata)
            )
        assert differences == []
    finally:
        await database.close()


async def test_migrations_lead_back_to_an_empty_database(tmp_path: Path) -> None:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import inspect

    from control_plane.migrate import MIGRATIONS

    database = Database(f"sqlite:///{tmp_path / 'test.sqlite3'}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    try:
        await migrate(database)
        async with database.engine.begin() as connection:
            config.attributes["connection"] = await connection.run_sync(lambda plain: plain)
            await connection.run_sync(lambda _: command.downgrade(config, "base"))
            assert await connection.run_sync(lambda plain: inspect(plain).get_table_names()) == ["alembic_version"]
    finally:
        await database.close()


def test_migrations_are_numbered_without_gaps() -> None:
    numbers = sorted(file.name[1:5] for file in (DOCS.parent / "control_plane/migrations/versions").glob("v*.py"))
    assert numbers == [f"{number:04}" for number in range(1, len(numbers) + 1)]
    assert newest_revision() == numbers[-1]


@pytest.mark.parametrize("relative", ["data", "./data"])
def test_relative_folders_are_those_of_the_working_directory_at_the_start(
    relative: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(data=Path(relative), database_url="sqlite:///x.sqlite3", keys_dir=Path("k"))
    monkeypatch.chdir("/")
    assert settings.staging_dir == tmp_path / "data" / "staging"
    assert settings.database == f"sqlite:///{tmp_path}/x.sqlite3"
    assert settings.keys == tmp_path / "k"
    assert settings.objects == (tmp_path / "data" / "objects").as_uri()
