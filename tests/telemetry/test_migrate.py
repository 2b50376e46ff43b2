"""Migrations: numbered, hashed, applied once, and never by an older program over a newer schema."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.literals import bind, literal
from telemetry.migrate import Migration, SchemaConflict, load_migrations, migrate, parse_migration, pending

FIRST = parse_migration("0001_first.sql", "CREATE TABLE a;\n")
SECOND = parse_migration("0002_second.sql", "CREATE TABLE b;\n")


class Recorder:
    """An engine that remembers what was executed, and what is recorded as applied."""

    def __init__(self, version: tuple[int, int], applied: list[Migration]) -> None:
        self._version = version
        self._applied = applied
        self.executed: list[str] = []

    def version(self) -> tuple[int, int]:
        return self._version

    def execute(self, sql: str) -> None:
        self.executed.append(sql)

    def fetch(self, sql: str) -> list[dict[str, object]]:
        if "system.tables" in sql:
            names = ["schema_migrations", "raw_events"] if self._applied else []
            return [{"name": name, "engine": "ReplacingMergeTree"} for name in names]
        return [{"number": one.number, "hash": one.hash} for one in self._applied]


def test_the_files_are_numbered_without_a_gap() -> None:
    migrations = load_migrations()

    assert [migration.number for migration in migrations] == list(range(1, len(migrations) + 1))
    assert all(migration.statements for migration in migrations)


def test_only_what_is_missing_is_applied() -> None:
    assert pending([FIRST, SECOND], {1: FIRST.hash}) == [SECOND]
    assert pending([FIRST, SECOND], {1: FIRST.hash, 2: SECOND.hash}) == []


def test_a_newer_schema_refuses_an_older_program() -> None:
    with pytest.raises(SchemaConflict, match="older version does not know: start the version that made it"):
        pending([FIRST], {1: FIRST.hash, 2: SECOND.hash})


def test_a_changed_migration_is_refused() -> None:
    with pytest.raises(SchemaConflict, match="changed after it had been applied: start the version"):
        pending([FIRST], {1: SECOND.hash})


def test_statements_that_need_a_newer_engine_are_left_out_on_an_older_one() -> None:
    old, new = Recorder((18, 16), []), Recorder((26, 9), [])

    assert migrate(old) == migrate(new) == [migration.number for migration in load_migrations()]
    assert not any("TTL" in sql or "deduplication" in sql for sql in old.executed)
    assert any("TTL" in sql for sql in new.executed)
    assert any("deduplication" in sql for sql in new.executed)


def test_an_up_to_date_schema_is_left_alone() -> None:
    engine = Recorder((26, 9), load_migrations())

    assert migrate(engine) == []
    assert engine.executed == []


def test_comments_are_no_statements() -> None:
    migration = parse_migration("0003_x.sql", "-- a comment\nSELECT 1;\n\n-- another;\n")

    assert [statement.sql for statement in migration.statements] == ["SELECT 1"]


def test_a_file_with_another_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="named"):
        parse_migration("x.sql", "SELECT 1;\n")


@given(st.text())
def test_a_text_as_a_literal_has_no_quote_that_ends_it(text: str) -> None:
    inner = literal(text)[1:-1]
    unescaped, position = "", 0
    while position < len(inner):
        position += inner[position] == "\\"
        unescaped += inner[position]
        assert inner[position] != "'" or inner[position - 1] == "\\"
        position += 1

    assert unescaped == text


def test_a_value_that_looks_like_a_placeholder_stays_a_value() -> None:
    assert bind("{a} {b}", {"a": "{b}", "b": ["{a}", "c"]}) == "'{b}' ('{a}', 'c')"


def test_an_empty_list_and_a_missing_value_are_errors() -> None:
    with pytest.raises(ValueError, match="empty"):
        literal([])
    with pytest.raises(KeyError):
        bind("{a}", {})
