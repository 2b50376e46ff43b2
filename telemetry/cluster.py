"""A cluster of ClickHouse servers: the statements for one server, rewritten when they are applied.

There is one set of SQL files. On a cluster every table ``x`` of the MergeTree family becomes two: ``x_local`` on each
server, replicated within its shard, and ``x`` itself, Distributed over them. So inserts and questions stay as they are.

* A materialized view reads and feeds the local tables: what a server stores, it rolls up itself.
* A plain view reads the Distributed tables, as its readers do.
* Rows are spread by ``device_id``, so that a device is whole on one shard, and states, FINAL and subqueries about
  devices are as exact as on one server.
* A backfill (``INSERT … SELECT``) runs once, through the Distributed tables, which bring each row to its shard.

Statements that make or change something go to every server with ``ON CLUSTER``. It forgets the session's database
(18.16, seen), so every name of ours is written with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

LOCAL_SUFFIX: Final = "_local"
SETTINGS: Final[Mapping[str, Any]] = {
    # An insert returns once it is on the shards, not while it lies in a queue on one server's disk.
    "insert_distributed_sync": 1,
    # A subquery about devices is answered by each shard for its own devices, which are all that it asks about.
    "distributed_product_mode": "local",
    # Longer than any statement of ours takes when every server is there; below the silence that ends a connection.
    "distributed_ddl_task_timeout": 30,
}
WITHOUT_TOKENS: Final[Mapping[str, Any]] = {
    # By itself a replicated table leaves out a block that it has seen, and the views behind it with it: had the first
    # attempt stored the events and died before it fed the views, the rollups would miss them for good. Every table
    # forgives a repetition (ADR 24), so a repeated insert goes all the way again.
    "insert_deduplicate": 0,
}

_NAME: Final = re.compile(r"[A-Za-z_][\w.-]{0,99}")
_CREATE_TABLE: Final = re.compile(r"CREATE TABLE (IF NOT EXISTS )?(\w+)\b", re.IGNORECASE)
_CREATE_VIEW: Final = re.compile(r"CREATE (MATERIALIZED )?VIEW (IF NOT EXISTS )?(\w+)\b", re.IGNORECASE)
_ALTER: Final = re.compile(r"ALTER TABLE (\w+)\b", re.IGNORECASE)
_DROP: Final = re.compile(r"DROP (TABLE|VIEW) (IF EXISTS )?(\w+)$", re.IGNORECASE)
_INSERT: Final = re.compile(r"INSERT INTO \w+\b.*\bSELECT\b", re.IGNORECASE | re.DOTALL)
_ENGINE: Final = re.compile(r"\bENGINE\s*=\s*(\w*MergeTree)\b\s*(\()?", re.IGNORECASE)
_COLUMN_CHANGE: Final = re.compile(r"\b(ADD|DROP|MODIFY|RENAME|COMMENT|CLEAR) COLUMN\b", re.IGNORECASE)
_CODEC: Final = re.compile(r"\bCODEC\b", re.IGNORECASE)
_SOURCE: Final = re.compile(r"\b(FROM|JOIN|TO|IN)(\s+)(\w+)\b", re.IGNORECASE)
_DEVICE_COLUMN: Final = re.compile(r"[(,]\s*device_id\s+[A-Z]")
_FIRST_OF_KEY: Final = re.compile(r"\bORDER BY\s*\(?\s*(\w+)", re.IGNORECASE)
_WINDOW: Final = "non_replicated_deduplication_window"


class InvalidClusterName(ValueError):
    """The name cannot be that of a cluster in ClickHouse's configuration."""


def check_name(name: str) -> None:
    """Check that a cluster can have this name.

    Raises:
        InvalidClusterName: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise InvalidClusterName("a cluster's name has letters, digits, _, - and ., and begins with a letter")


@dataclass(frozen=True, slots=True)
class Schema:
    """The names in the statements: tables of the MergeTree family, and views."""

    tables: frozenset[str]
    views: frozenset[str]


def schema_of(statements: Iterable[str]) -> Schema:
    """Return the names that the statements make."""
    tables, views = set(), set()
    for sql in statements:
        if (table := _CREATE_TABLE.match(sql)) and _ENGINE.search(sql):
            tables.add(table.group(2))
        elif view := _CREATE_VIEW.match(sql):
            views.add(view.group(3))
    return Schema(frozenset(tables), frozenset(views))


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster by its name in ``remote_servers`` of the servers' configuration, and the database on it.

    Raises:
        InvalidClusterName: the name is not of letters, digits, ``_``, ``-`` and ``.``.
    """

    name: str
    database: str

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def clause(self) -> str:
        """``ON CLUSTER`` with the name."""
        return f"ON CLUSTER `{self.name}`"

    def qualified(self, name: str) -> str:
        """Return a name with its database."""
        return f"`{self.database}`.{name}"

    def create_database(self) -> str:
        """Return the statement that makes the database on every server."""
        return f"CREATE DATABASE IF NOT EXISTS `{self.database}` {self.clause}"

    def create_everywhere(self, table: str, columns: str, engine: str) -> str:
        """Return the statement that makes a table which all servers of all shards hold alike.

        Args:
            table: its name.
            columns: within their parentheses.
            engine: of the MergeTree family, for example ``MergeTree ORDER BY x``.
        """
        path = f"/clickhouse/tables/everywhere/{self.database}/{table}"
        replicated = _replicated(f"ENGINE = {engine}", path, "{shard}-{replica}")
        return f"CREATE TABLE IF NOT EXISTS {self.qualified(table)} {self.clause} ({columns}) {replicated}"

    def rewrite(self, sql: str, schema: Schema) -> list[str]:
        """Return what a statement for one server is on the cluster: one statement, or two.

        Args:
            sql: one statement, without comments and without its semicolon.
            schema: what the names in all the statements stand for.

        Raises:
            ValueError: it is of a kind that has no rule here.
        """
        if match := _CREATE_TABLE.match(sql):
            return self._create_table(sql, match)
        if match := _CREATE_VIEW.match(sql):
            materialized = bool(match.group(1))
            rest = self._sources(sql[match.end() :], schema, local=materialized)
            head = f"CREATE {match.group(1) or ''}VIEW {match.group(2) or ''}{self.qualified(match.group(3))}"
            return [f"{head} {self.clause}{rest}"]
        if match := _ALTER.match(sql):
            return self._alter(sql, match, schema)
        if match := _DROP.match(sql):
            return self._drop(match, schema)
        if _INSERT.match(sql):
            return [sql]
        raise ValueError(f"no rule brings this statement to a cluster: {sql.splitlines()[0][:80]}")

    def local(self, name: str, schema: Schema) -> str:
        """Return the name, with its database, of what each server holds of a table."""
        return self.qualified(self.local_name(name) if name in schema.tables else name)

    def local_name(self, table: str) -> str:
        """Return the name of what each server holds of a table."""
        return table + LOCAL_SUFFIX

    def _create_table(self, sql: str, match: re.Match[str]) -> list[str]:
        name, rest = match.group(2), sql[match.end() :]
        head = f"CREATE TABLE {match.group(1) or ''}"
        if not _ENGINE.search(rest):
            return [f"{head}{self.qualified(name)} {self.clause}{rest}"]
        path = f"/clickhouse/tables/{{shard}}/{self.database}/{name}"
        local = self.qualified(self.local_name(name))
        engine = f"Distributed('{self.name}', '{self.database}', '{self.local_name(name)}', {_spread(rest)})"
        return [
            f"{head}{local} {self.clause}{_replicated(rest, path, '{replica}')}",
            f"{head}{self.qualified(name)} {self.clause} AS {local} ENGINE = {engine}",
        ]

    def _alter(self, sql: str, match: re.Match[str], schema: Schema) -> list[str]:
        name, change = match.group(1), sql[match.end() :].replace(_WINDOW, "replicated_deduplication_window")
        change = self._sources(change, schema, local=True) if name in schema.views else change
        targets = [self.local(name, schema)]
        if name in schema.tables and _COLUMN_CHANGE.search(change) and not _CODEC.search(change):
            targets.append(self.qualified(name))
        return [f"ALTER TABLE {target} {self.clause}{change}" for target in targets]

    def _drop(self, match: re.Match[str], schema: Schema) -> list[str]:
        kind, condition, name = match.group(1), match.group(2) or "", match.group(3)
        targets = [self.qualified(name)]
        if name in schema.tables:
            targets.append(self.local(name, schema))
        return [f"DROP {kind} {condition}{target} {self.clause}" for target in targets]

    def _sources(self, text: str, schema: Schema, local: bool) -> str:
        """Write the names that a view reads and feeds as what they are on the cluster."""

        def named(match: re.Match[str]) -> str:
            word, space, name = match.groups()
            if name in schema.tables:
                return word + space + (self.local(name, schema) if local else self.qualified(name))
            return word + space + (self.qualified(name) if name in schema.views else name)

        return _SOURCE.sub(named, text)


def everywhere(name: str, cluster: Cluster | None) -> str:
    """Return how a statement that makes or changes a table names it: on a cluster, that of every server."""
    return name if cluster is None else f"{cluster.qualified(name)} {cluster.clause}"


def _spread(table: str) -> str:
    """Return what a table's rows are spread by.

    Where a table has no devices, the first column of its sorting key (the organization) keeps together what a subquery
    about the same table needs. What materialized views feed is wherever they are; it is merged by whoever asks.
    """
    if _DEVICE_COLUMN.search(table):
        return "cityHash64(device_id)"
    first = _FIRST_OF_KEY.search(table)
    return f"cityHash64({first.group(1)})" if first else "rand()"


def _replicated(text: str, path: str, replica: str) -> str:
    """Turn the engine in the text into its replicated kind, with the arguments that it had after the first two."""
    match = _ENGINE.search(text)
    assert match is not None, "looked for before"
    arguments = f"'{path}', '{replica}'"
    if match.group(2) is None:
        return f"{text[: match.start()]}ENGINE = Replicated{match.group(1)}({arguments}){text[match.end(1) :]}"
    rest = text[match.end() :]
    separator = "" if rest.lstrip().startswith(")") else ", "
    return f"{text[: match.start()]}ENGINE = Replicated{match.group(1)}({arguments}{separator}{rest}"
