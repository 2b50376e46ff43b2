"""The user for analysts, as the files in ``deploy/clickhouse`` make it: reads, and can do nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from clickhouse_driver import Client, errors

from telemetry.columns import event_columns
from telemetry.warehouse import open_warehouse
from tests.servers.clickhouse import PASSWORD, ClickHouseServer, clickhouse_server
from tests.servers.proxies import DEPLOY, adapted
from tests.telemetry.samples import event, record

FILES = DEPLOY / "clickhouse"
OWN = "a password for analysts"
READONLY, ACCESS_DENIED, WRONG_PASSWORD = 164, 291, 193


@dataclass(frozen=True)
class Server:
    """A server with the user, and some events."""

    running: ClickHouseServer

    def ask(self, sql: str, user: str = "analyst", password: str = OWN, settings: Any = None) -> Any:
        client = Client("127.0.0.1", self.running.port, user=user, password=password, database="skafos")
        try:
            return client.execute(sql, settings=settings)
        finally:
            client.disconnect()

    def refusal(self, sql: str, **how: Any) -> int:
        """Return the code of the error that the question must come to."""
        with pytest.raises(errors.ServerException) as refused:
            self.ask(sql, **how)
        return int(refused.value.code)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("clickhouse")
    (folder / "users.d").mkdir()
    own = {"0" * 64: hashlib.sha256(OWN.encode()).hexdigest(), "10.0.0.0/8": "127.0.0.1"}
    (folder / "users.d" / "analyst.xml").write_text(adapted(FILES / "analyst.xml", own))
    with clickhouse_server(folder) as running:
        asyncio.run(fill(running.url, folder))
        made = Server(running)
        for sql in ("CREATE DATABASE other", "CREATE TABLE other.secrets (x UInt8) ENGINE = Memory"):
            made.ask(sql, "default", PASSWORD)
        yield made


async def fill(url: str, folder: Path) -> None:
    warehouse = open_warehouse(url, folder)
    failed = event("error", version=1, error="did not fit")
    await warehouse.migrate()
    await warehouse.insert_events(event_columns([record(event(), event("activate", version=1), failed)]), "one")
    await warehouse.close()


def test_every_table_and_view_of_ours_can_be_read(server: Server) -> None:
    names = [name for (name,) in server.ask("SELECT name FROM system.tables WHERE database = 'skafos'")]
    assert {"events", "raw_events", "device_days", "devices"} <= set(names)
    for name in names:
        server.ask(f"SELECT count() FROM `{name}`")
    assert server.ask("SELECT type, count() FROM events GROUP BY type ORDER BY type") == [
        ("activate", 1),
        ("check", 1),
        ("error", 1),
    ]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO raw_events (device_id) SELECT 'x'",
        "CREATE TABLE mine (x UInt8) ENGINE = Memory",
        "CREATE TEMPORARY TABLE mine (x UInt8)",
        "CREATE DATABASE mine",
        "DROP TABLE raw_events",
        "TRUNCATE TABLE raw_events",
        "RENAME TABLE devices TO mine",
        "DETACH TABLE devices",
        "ALTER TABLE raw_events DROP PARTITION 202611",
        "OPTIMIZE TABLE raw_events",
        "SYSTEM RELOAD CONFIG",
    ],
)
def test_nothing_can_be_written(server: Server, sql: str) -> None:
    assert server.refusal(sql) == READONLY
    assert server.ask("SELECT count() FROM raw_events") == [(3,)]


@pytest.mark.parametrize("setting", ["readonly = 0", "readonly = 2", "max_execution_time = 0", "max_memory_usage = 0"])
def test_no_setting_can_be_changed(server: Server, setting: str) -> None:
    assert server.refusal(f"SET {setting}") == READONLY
    assert server.refusal(f"SELECT 1 SETTINGS {setting}") == READONLY
    name, _, value = setting.partition(" = ")
    told = server.ask(f"SELECT value FROM system.settings WHERE name = '{name}'", settings={name: int(value)})
    assert told != [(value,)], "what a client sends along changes nothing either"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM other.secrets",
        "SELECT 1 IN other.secrets",
        "SELECT x FROM (SELECT 1 AS x) ANY LEFT JOIN other.secrets USING x",
        "DESCRIBE other.secrets",
        "SHOW CREATE TABLE other.secrets",
        "USE other",
    ],
)
def test_other_databases_cannot_be_read(server: Server, sql: str) -> None:
    assert server.refusal(sql) == ACCESS_DENIED


@pytest.mark.parametrize(
    "source",
    [
        *("merge('other', '.*')", "file('/etc/passwd', 'TSV', 'x String')"),
        *("url('http://127.0.0.1:1/', 'TSV', 'x String')", "remote('127.0.0.1', 'other', 'secrets')"),
        "mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    ],
)
def test_no_table_function_leads_around_it(server: Server, source: str) -> None:
    assert server.refusal(f"SELECT * FROM {source}") == READONLY


def test_tables_of_other_databases_are_not_even_named(server: Server) -> None:
    assert server.ask("SELECT DISTINCT database FROM system.tables ORDER BY database") == [("skafos",), ("system",)]


def test_the_question_in_the_documents_is_answered(server: Server) -> None:
    document = (DEPLOY.parent / "docs" / "telemetry.md").read_text()
    (query,) = re.findall(r'--user analyst .*?--query "([^"]+)"', document, re.DOTALL)
    assert server.ask(query) == [(1, "did not fit", 1)]


def test_another_password_opens_nothing(server: Server) -> None:
    assert server.refusal("SELECT 1", password="another") == WRONG_PASSWORD


def test_newer_servers_understand_the_statements_and_both_files_say_the_same() -> None:
    import chdb

    query: Any = chdb.query
    sql, xml = (FILES / "analyst.sql").read_text(), (FILES / "analyst.xml").read_text()
    statements = [part for part in re.sub(r"^--.*$", "", sql, flags=re.MULTILINE).split(";") if part.strip()]
    assert len(statements) == 3
    for statement in statements:
        assert query(f"EXPLAIN AST {statement}", "TSV").bytes(), "the engine says what it understood, or raises"
    limits = dict(re.findall(r"(\w+) = (\d+) CONST", sql))
    assert {name: value for name, value in re.findall(r"<(\w+)>(\d+)</", xml) if name in limits} == limits
