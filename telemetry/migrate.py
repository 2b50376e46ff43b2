"""Migrations: numbered SQL files, applied once, in order, and remembered with their hash.

Each file holds statements that end in ``;`` at the end of a line. A comment ``-- requires: 22.3`` above a statement
leaves it out on older engines: what it switches on is a help, never a need. Statements are idempotent (``IF NOT
EXISTS``), so a process that dies between a file and its record does no harm. Of several processes that start at once
one applies the files, under a lock (``migration_lock``), and the others find them applied.

On a cluster the same statements are rewritten (``cluster``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import resources
from typing import Final

from telemetry.cluster import Cluster, schema_of
from telemetry.engine import Engine, tables_of
from telemetry.literals import Value, bind

_FILE_NAME: Final = re.compile(r"^(\d{4})_(\w+)\.sql$")
_REQUIRES: Final = re.compile(r"^-- requires: (\d+)\.(\d+)$", re.MULTILINE)
_COMMENT: Final = re.compile(r"^--.*$", re.MULTILINE)

_MIGRATIONS: Final = "schema_migrations"
_EVENTS: Final = "raw_events"
_COLUMNS: Final = "number UInt32, name String, hash String, applied_at DateTime('UTC')"
_ENGINE: Final = "ReplacingMergeTree ORDER BY number"
_APPLIED: Final = "SELECT number, any(name) AS name, any(hash) AS hash FROM schema_migrations GROUP BY number"
_RECORD: Final = "INSERT INTO schema_migrations SELECT toUInt32({number}), {name}, {hash}, now()"


class SchemaConflict(Exception):
    """The tables were made by a newer version of this program, or a migration was changed after it was applied."""


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
            raise SchemaConflict(
                f"the tables have migration {number}, which this older version does not know: start the version that "
                "made it, or a newer one, or name another database"
            )
        if known[number].hash != applied_hash:
            raise SchemaConflict(
                f"migration {number} was changed after it had been applied: start the version that applied it, or put "
                "the file back as it was"
            )
    return [migration for migration in migrations if migration.number not in applied]


Lock = Callable[[], AbstractContextManager[Callable[[], None]]]
"""Keeps other processes from migrating within its block; what it gives raises when the lock was lost."""


def migrate(engine: Engine, *, cluster: Cluster | None = None, lock: Lock | None = None) -> list[int]:
    """Apply what is missing; return the numbers applied.

    Args:
        engine: where the tables are; with a cluster, any of its servers.
        cluster: the tables are those of this cluster.
        lock: held while files are applied; None where no other process can be at it.

    Raises:
        SchemaConflict: see ``pending``; or the tables are those of a cluster and ``cluster`` is None, or the reverse.
        WarehouseUnavailable: another process holds the lock for long.
    """
    todo = _todo(engine, cluster)
    if not todo or lock is None:
        return _apply_all(engine, todo, cluster, _no_check)
    with lock() as check:
        if cluster is not None:  # what the last owner of the lock recorded through another server
            engine.execute(f"SYSTEM SYNC REPLICA {_MIGRATIONS}")
        return _apply_all(engine, _todo(engine, cluster), cluster, check)


def _todo(engine: Engine, cluster: Cluster | None) -> list[Migration]:
    """Return the migrations to apply, from what the database holds. Nothing is written where nothing is missing."""
    tables = tables_of(engine)
    _check_kind(tables.get(_EVENTS), cluster)
    migrations = load_migrations()
    if _MIGRATIONS not in tables:
        if cluster is None:
            engine.execute(f"CREATE TABLE IF NOT EXISTS {_MIGRATIONS} ({_COLUMNS}) ENGINE = {_ENGINE}")
        else:
            engine.execute(cluster.create_everywhere(_MIGRATIONS, _COLUMNS, _ENGINE))
    applied = {int(row["number"]): str(row["hash"]) for row in engine.fetch(_APPLIED)}
    todo = pending(migrations, applied)
    # A server that joined the cluster later knows what was applied before it had any of the tables.
    return migrations if applied and _EVENTS not in tables else todo


def _check_kind(engine_of_events: str | None, cluster: Cluster | None) -> None:
    if engine_of_events == "Distributed" and cluster is None:
        raise SchemaConflict("the tables are those of a cluster: set SKAFOS_CLICKHOUSE_CLUSTER to its name")
    if engine_of_events not in (None, "Distributed") and cluster is not None:
        raise SchemaConflict(
            "SKAFOS_CLICKHOUSE_CLUSTER is set, but the tables are those of one server: "
            "name another database in SKAFOS_CLICKHOUSE_URL, or leave the cluster out"
        )


def _apply_all(engine: Engine, todo: list[Migration], cluster: Cluster | None, check: Callable[[], None]) -> list[int]:
    if not todo:
        return []
    version = engine.version()
    schema = schema_of(all_statements())
    for migration in todo:
        for statement in migration.statements:
            if version < statement.requires:
                continue
            for sql in [statement.sql] if cluster is None else cluster.rewrite(statement.sql, schema):
                check()
                engine.execute(sql)
        values: dict[str, Value] = {"number": migration.number, "name": migration.name, "hash": migration.hash}
        engine.execute(bind(_RECORD, values))
    return [migration.number for migration in todo]


def all_statements() -> Iterable[str]:
    """Return the statements of all migrations, those for newer engines included."""
    return [statement.sql for migration in load_migrations() for statement in migration.statements]


def _no_check() -> None:
    pass
