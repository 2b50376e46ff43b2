"""Bringing the database to the schema that this release needs, when a process starts.

Processes that start together do it one at a time: on SQLite the writing transaction is the lock, on PostgreSQL an
advisory lock that ends with the transaction. Alembic is imported only when there is something to do.
"""

from __future__ import annotations

import re
from pathlib import Path

import structlog
from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection

from control_plane.database import Database

MIGRATIONS = Path(__file__).parent / "migrations"
# PostgreSQL's advisory locks are numbers; this one is "skafos" in ASCII.
ADVISORY_LOCK = 0x736B61666F73

_log = structlog.get_logger(__name__)


class NewerDatabase(RuntimeError):
    """A later release has already migrated this database; this one would not understand it."""


async def migrate(database: Database) -> bool:
    """Run the migrations that are missing, all in one transaction.

    Returns:
        Whether there was anything to do.

    Raises:
        NewerDatabase: the database is from a later release.
        Unavailable: the database does not answer.
    """
    async with database.read() as session:
        present = await (await session.connection()).run_sync(revision_of)
    _refuse_newer(present)
    if present == newest_revision():
        return False
    async with database.write() as session:
        connection = await session.connection()
        if not database.is_sqlite:
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})"))
        await connection.run_sync(_upgrade)
    _log.info("database_migrated", was=present, now=newest_revision())
    return True


def newest_revision() -> str:
    """Return the number of the newest migration: files are named `v<number>_<what>.py`."""
    numbers = [re.match(r"v(\d{4})_", file.name) for file in (MIGRATIONS / "versions").glob("v*.py")]
    return max(number.group(1) for number in numbers if number)


def revision_of(connection: Connection) -> str | None:
    """Return the migration that the database is at, or None when it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _refuse_newer(present: str | None) -> None:
    newest = newest_revision()
    if present is not None and present > newest:
        raise NewerDatabase(f"the database is at migration {present}, newer than this release, which knows {newest}")


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
