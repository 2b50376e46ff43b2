"""Migrations: numbered SQL files, applied once, in order, and remembered with their hash.

Each file holds statements that end in ``;`` at the end of a line. A comment ``-- requires: 22.3`` above a statement
leaves it out on older engines: what it switches on is a help, never a need. Statements are idempotent (``IF NOT
EXISTS``), so a process that dies between a file and its record, or two processes that start at once, do no harm.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final, Protocol

from telemetry.literals import Value, bind

_FILE_NAME: Final = re.compile(r"^(\d{4})_(\w+)\.sql$")
_REQUIRES: Final = re.compile(r"^-- requires: (\d+)\.(\d+)$", re.MULTILINE)
_COMMENT: Final = re.compile(r"^--.*$", re.MULTILINE)

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (number UInt32, name String, hash String, applied_at DateTime('UTC'))
ENGINE = ReplacingMergeTree ORDER BY number
"""
_APPLIED: Final = "SELECT number, any(name) AS name, any(hash) AS hash FROM schema_migrations GROUP BY number"
_RECORD: Final = "INSERT INTO schema_migrations SELECT toUInt32({number}), {name}, {hash}, now()"


class SchemaConflict(Exception):
    """The tables were made by a newer version of this program, or a migration was changed after it was applied."""


class Engine(Protocol):
    """The few blocking calls that a migration needs."""

    def version(self) -> tuple[int, int]:
        """Return the engine's version, for example (18, 16)."""

    def execute(self, sql: str) -> None:
        """Run a statement."""

    def fetch(self, sql: str) -> list[dict[str, Any]]:
        """Run a question."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement, and the first version of ClickHouse that understands it."""

    sql: str
    requires: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    number: int
    name: str
    hash: str
    statements: tuple[Statement, ...]


def load_migrations() -> list[Migration]:
    """Return this version's migrations in order."""
    folder = resources.files("telemetry") / "migrations"
    named = ((entry.name, entry.read_text("utf-8")) for entry in folder.iterdir() if _FILE_NAME.match(entry.name))
    return [parse_migration(name, text) for name, text in sorted(named)]


def parse_migration(file_name: str, text: str) -> Migration:
    """Read one migration file.

    Raises:
        ValueError: the file's name is not ``NNNN_name.sql``.
    """
    match = _FILE_NAME.match(file_name)
    if match is None:
        raise ValueError(f"{file_name} is not named NNNN_name.sql")
    parts = (part for part in text.split(";\n") if _COMMENT.sub("", part).strip())
    statements = tuple(_statement(part) for part in parts)
    return Migration(int(match.group(1)), match.group(2), hashlib.sha256(text.encode()).hexdigest(), statements)


def _statement(part: str) -> Statement:
    requires = _REQUIRES.search(part)
    sql = _COMMENT.sub("", part).strip().removesuffix(";")
    return Statement(sql, (int(requires.group(1)), int(requires.group(2))) if requires else (0, 0))


def pending(migrations: list[Migration], applied: Mapping[int, str]) -> list[Migration]:
    """Return the migrations to apply, given the hashes of those applied by number.

    Raises:
        SchemaConflict: an applied migration is unknown here, or its text has changed.
    """
    known = {migration.number: migration for migration in migrations}
    for number, applied_hash in sorted(applied.items()):
        if number not in known:
            raise SchemaConflict(f"the tables have migration {number}, which this older version does not know")
        if known[number].hash != applied_hash:
            raise SchemaConflict(f"migration {number} was changed after it had been applied")
    return [migration for migration in migrations if migration.number not in applied]


def migrate(engine: Engine) -> list[int]:
    """Apply what is missing; return the numbers applied.

    Raises:
        SchemaConflict: see ``pending``.
    """
    engine.execute(_TABLE)
    applied = {int(row["number"]): str(row["hash"]) for row in engine.fetch(_APPLIED)}
    todo = pending(load_migrations(), applied)
    for migration in todo:
        _apply(engine, migration)
    return [migration.number for migration in todo]


def _apply(engine: Engine, migration: Migration) -> None:
    version = engine.version()
    for statement in migration.statements:
        if version >= statement.requires:
            engine.execute(statement.sql)
    values: dict[str, Value] = {"number": migration.number, "name": migration.name, "hash": migration.hash}
    engine.execute(bind(_RECORD, values))
