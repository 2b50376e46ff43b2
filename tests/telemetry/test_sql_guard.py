"""Typed questions: what may be asked is answered on both engines, what may not never reaches a row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.columns import event_columns
from telemetry.sql_guard import EVENT_COLUMNS, MAX_SQL_CHARS, ForbiddenQuery, guard
from telemetry.warehouse import DEFAULT_LIMITS, QueryFailed, QueryLimits, Row, Warehouse
from tests.telemetry.samples import NOON, event, labels, record
from tests.telemetry.warehouses import embedded, server, warehouse

__all__ = ["embedded", "server", "warehouse"]  # fixtures

MINE = "org-mine"
SECRET = "secret-of-another-organization"


@dataclass(frozen=True)
class Answer:
    rows: list[Row]
    truncated: bool


async def ask(
    warehouse: Warehouse, sql: str, organization_ids: Sequence[str], limits: QueryLimits = DEFAULT_LIMITS
) -> Answer:
    """The way of a typed question: guarded, then asked for one row more than may be shown."""
    guarded = guard(sql, organization_ids, limits.rows)
    rows = await warehouse.query_readonly(guarded, replace(limits, rows=limits.rows + 1))
    return Answer(rows[: limits.rows], len(rows) > limits.rows)


async def fill(warehouse: Warehouse) -> Warehouse:
    mine = [event("check", device=f"device-{n}", version=1) for n in range(3)]
    mine += [event("activate", version=2, from_version=1), event("error", version=2, error="it's broken")]
    theirs = event("check", device="their-device", model=SECRET, version=9)
    records = [
        record(*mine, sender=labels(organization_id=MINE)),
        record(theirs, sender=labels(organization_id="org-other")),
    ]
    await warehouse.insert_events(event_columns(records), "one")
    return warehouse


@pytest.fixture
async def filled(warehouse: Warehouse) -> Warehouse:
    return await fill(warehouse)


@pytest.fixture
async def filled_embedded(embedded: Warehouse) -> Warehouse:
    return await fill(embedded)


GOOD = [
    (
        "SELECT type, count() FROM events GROUP BY type ORDER BY type",
        [{"type": "activate", "count()": 1}, {"type": "check", "count()": 3}, {"type": "error", "count()": 1}],
    ),
    ("SELECT count() AS n FROM events;", [{"n": 5}]),
    ("SELECT count(*) AS n FROM events AS e WHERE e.type = 'check' -- a comment", [{"n": 3}]),
    ("SELECT count() AS n FROM `events` FINAL", [{"n": 5}]),
    ("SELECT events.error AS error FROM events WHERE error LIKE 'it\\'s%'", [{"error": "it's broken"}]),
    ("SELECT count() AS n FROM events WHERE device_id IN (SELECT device_id FROM events WHERE version = 2)", [{"n": 3}]),
    ("SELECT uniqExact(device_id) AS n, countIf(type = 'check') AS c FROM events", [{"n": 3, "c": 3}]),
    ("SELECT max(n) AS n FROM (SELECT count() AS n FROM events GROUP BY type)", [{"n": 3}]),
    ("SELECT count() AS n FROM events WHERE received_at > now() - INTERVAL 3 DAY", [{"n": 5}]),
    ("SELECT toStartOfDay(received_at) = toStartOfDay(max(received_at)) AS same FROM events GROUP BY received_at",
     [{"same": 1}]),
    ("SELECT if(type = 'check', 1, 2) AS n FROM events WHERE type IN ('check', 'x') LIMIT 1", [{"n": 1}]),
    ("SELECT CAST(version AS String) AS v FROM events WHERE type = 'activate'", [{"v": "2"}]),
    ("SELECT quantile(0.5)(version) AS q, argMax(version, received_at) > 0 AS a FROM events WHERE type = 'check'",
     [{"q": 1.0, "a": 1}]),
    ("SELECT a.type AS type, n FROM (SELECT type, count() AS n FROM events GROUP BY type) AS a "
     "INNER JOIN (SELECT type FROM events WHERE type = 'error') AS b USING type", [{"type": "error", "n": 1}]),
    ("SELECT '\\\\' AS backslash, 'it''s' AS quote, 'a\\nb' AS line",
     [{"backslash": "\\", "quote": "it's", "line": "a\nb"}]),
]  # fmt: skip


@pytest.mark.parametrize(("question", "answer"), GOOD, ids=[question for question, _ in GOOD])
async def test_a_plain_question_is_answered_from_ones_own_events(
    filled: Warehouse, question: str, answer: list[dict[str, object]]
) -> None:
    assert (await ask(filled, question, [MINE])).rows == answer


async def test_a_row_has_exactly_the_columns_of_the_view(filled: Warehouse) -> None:
    (row,) = (await ask(filled, "SELECT * FROM events LIMIT 1", [MINE])).rows
    (direct,) = await filled.query("SELECT * FROM events LIMIT 1")

    assert tuple(row) == tuple(direct) == EVENT_COLUMNS


async def test_unions_are_answered(filled: Warehouse) -> None:
    union = "SELECT 'a' AS x, count() AS n FROM events UNION ALL SELECT 'b' AS x, count() AS n FROM events"

    rows = (await ask(filled, union, [MINE])).rows

    assert sorted(row["x"] for row in rows) == ["a", "b"]
    assert {row["n"] for row in rows} == {5}


async def test_with_names_a_subquery_where_the_engine_knows_that(filled_embedded: Warehouse) -> None:
    question = "WITH raw_events AS (SELECT * FROM events), n AS (SELECT count() AS c FROM raw_events) SELECT c FROM n"

    assert (await ask(filled_embedded, question, [MINE])).rows == [{"c": 5}]


NARROWED = [
    ("SELECT count() FROM events WHERE type = 'error' AND model = 'faces' AND version > 1", {"type", "model"}),
    ("SELECT count() FROM events AS e WHERE e.type IN ('error', 'check') AND environment = 'prod'",
     {"type", "environment"}),
    ("SELECT count() FROM (SELECT * FROM events WHERE device_id = 'a' AND application_id = 'app-1')",
     {"device_id", "application_id"}),
]  # fmt: skip
# A name that the question gives may hide the column; a join has two sides; times differ between deliveries.
NOT_NARROWED = (
    "SELECT upper(model) AS type FROM events WHERE type = 'FACES'",
    "SELECT count() FROM events WHERE type = 'error' OR model = 'faces'",
    "SELECT count() FROM events WHERE NOT type = 'error'",
    "SELECT count() FROM events WHERE type = model AND type != 'check'",
    "SELECT count() FROM events WHERE received_at = '2026-05-14 12:00:00'",
    "SELECT count() FROM events WHERE type = 1 AND type IN (SELECT type FROM events)",
    "SELECT arrayCount(type -> type = 'x', [type]) FROM events WHERE type = 'check'",
    "WITH 'x' AS type SELECT count() FROM events WHERE type = 'check'",
    "SELECT count() FROM events AS a ANY LEFT JOIN (SELECT type AS t FROM events) AS b ON a.type = b.t "
    "WHERE type = 'check'",
)


def conditions(guarded: str) -> set[str]:
    """The columns that the tables below are narrowed by, beside the organization."""
    below = re.findall(r"FINAL WHERE (.*?)\)+ AS ", guarded)
    return set(re.findall(r'"skafos_allowed"\."(\w+)" IN', " ".join(below))) - {"organization_id"}


@pytest.mark.parametrize(("question", "columns"), NARROWED)
def test_conditions_on_the_key_reach_the_table_below(question: str, columns: set[str]) -> None:
    assert conditions(guard(question, [MINE])) == columns


@pytest.mark.parametrize("question", NOT_NARROWED)
def test_a_condition_that_may_mean_another_thing_stays_where_it_is(question: str) -> None:
    assert conditions(guard(question, [MINE])) == set()


async def test_a_question_is_answered_alike_whether_its_conditions_reach_the_table_or_not(filled: Warehouse) -> None:
    for number in range(2):  # a second delivery, which takes the place of the first
        told = event("check", device="device-0", version=4 + number, event_id=UUID(int=9))
        again = record(told, at=NOON + timedelta(hours=number), sender=labels(organization_id=MINE))
        await filled.insert_events(event_columns([again]), f"again-{number}")
    question = "SELECT type, version, count() AS n FROM events WHERE {} GROUP BY type, version ORDER BY type, version"
    for condition in ("type = 'check'", "type IN ('error', 'activate') AND model = 'faces'", "device_id = 'device-0'"):
        narrowed = await ask(filled, question.format(condition), [MINE])
        assert narrowed == await ask(filled, question.format(f"({condition}) OR version = 77"), [MINE])
        assert narrowed.rows


async def test_several_organizations_may_be_read_and_none_means_nothing(filled: Warehouse) -> None:
    count = "SELECT count() AS n FROM events"

    assert (await ask(filled, count, [MINE, "org-other"])).rows == [{"n": 6}]
    assert (await ask(filled, count, [])).rows == [{"n": 0}]
    assert (await ask(filled, count, ["' OR 1 = 1 --", "\\"])).rows == [{"n": 0}]


async def test_more_rows_than_the_limit_are_cut_off_and_said_to_be(filled: Warehouse) -> None:
    cut = await ask(filled, "SELECT device_id FROM events", [MINE], QueryLimits(rows=2))
    whole = await ask(filled, "SELECT device_id FROM events", [MINE], QueryLimits(rows=5))

    assert (len(cut.rows), cut.truncated) == (2, True)
    assert (len(whole.rows), whole.truncated) == (5, False)


HOSTILE = [
    # other tables, other databases
    "SELECT * FROM raw_events",
    "SELECT * FROM devices",
    "SELECT * FROM EVENTS",
    "SELECT * FROM skafos.events",
    "SELECT * FROM skafos.raw_events",
    "SELECT * FROM system.tables",
    "SELECT * FROM system.processes",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM `system`.`tables`",
    "SELECT * FROM events, raw_events",
    "SELECT * FROM events AS e JOIN raw_events AS r USING event_id",
    "SELECT * FROM (SELECT * FROM raw_events)",
    "SELECT (SELECT count() FROM raw_events)",
    "SELECT count() FROM events WHERE device_id IN (SELECT device_id FROM raw_events)",
    "SELECT 1 UNION ALL SELECT count() FROM raw_events",
    "SELECT count() FROM events UNION DISTINCT SELECT 1 FROM system.one",
    "SELECT exists(SELECT 1 FROM raw_events)",
    # a bare name after IN is a table
    "SELECT 1 IN raw_events",
    "SELECT 1 IN (raw_events)",
    "SELECT 1 IN ((raw_events))",
    "SELECT 1 IN (raw_events AS r)",
    "SELECT 1 NOT IN raw_events",
    "SELECT 1 GLOBAL IN raw_events",
    "SELECT count() FROM events WHERE device_id IN system.tables",
    "SELECT in(1, raw_events)",
    "SELECT globalIn(1, raw_events)",
    "SELECT nullIn(1, raw_events)",
    "SELECT arrayExists(x -> x IN raw_events, [1])",
    "WITH raw_events AS r SELECT 1 IN r",
    # WITH that hides, or that is out of scope
    "WITH events AS (SELECT * FROM raw_events) SELECT * FROM events",
    "WITH events AS (SELECT 1 AS x) SELECT * FROM events",
    "SELECT * FROM (WITH x AS (SELECT 1) SELECT * FROM x) AS a, raw_events",
    "WITH x AS (SELECT * FROM raw_events) SELECT * FROM x",
    "WITH skafos_allowed AS (SELECT 1) SELECT * FROM events",
    "WITH 'org-other' AS skafos_allowed SELECT * FROM events",
    "SELECT 1 AS `skafos_with_x`",
    # table functions
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "SELECT * FROM url('http://127.0.0.1/', 'CSV', 'a String')",
    "SELECT * FROM remote('127.0.0.1', 'system', 'one')",
    "SELECT * FROM remoteSecure('127.0.0.1', 'system', 'one')",
    "SELECT * FROM s3('http://127.0.0.1/x', 'CSV')",
    "SELECT * FROM mysql('h', 'd', 't', 'u', 'p')",
    "SELECT * FROM postgresql('h', 'd', 't', 'u', 'p')",
    "SELECT * FROM jdbc('x', 'y')",
    "SELECT * FROM numbers(10)",
    "SELECT * FROM zeros(10)",
    "SELECT * FROM generateRandom('a Int8')",
    "SELECT * FROM loop(events)",
    "SELECT * FROM merge('system', '')",
    "SELECT * FROM merge('', '.*')",
    "SELECT * FROM view(SELECT * FROM raw_events)",
    "SELECT * FROM input('a Int8')",
    "SELECT * FROM executable('x.sh', 'CSV', 'a Int8')",
    "SELECT * FROM cluster('c', system.one)",
    "SELECT * FROM dictionary('d')",
    "SELECT * FROM values('a Int8', 1)",
    "SELECT * FROM null('a Int8')",
    "SELECT * FROM Python(x)",
    "SELECT * FROM format('CSV', '1')",
    "SELECT * FROM range(10)",
    # functions that reach out, tell about the machine, or wait
    "SELECT file('/etc/passwd')",
    "SELECT FILE('/etc/passwd')",
    "SELECT `file`('/etc/passwd')",
    "SELECT length(file('/etc/passwd')) FROM events",
    "SELECT arrayMap(x -> file(x), ['/etc/passwd'])",
    "SELECT count() FROM events WHERE file('/etc/passwd') != ''",
    "SELECT 1 AS x ORDER BY file('/etc/passwd')",
    "SELECT sum(1) OVER (PARTITION BY file('/etc/passwd'))",
    "SELECT dictGet('d', 'a', 1)",
    "SELECT dictGetString('d', 'a', 1)",
    "SELECT dictHas('d', 1)",
    "SELECT joinGet('raw_events', 'a', 1)",
    "SELECT sleep(3)",
    "SELECT sleepEachRow(1) FROM events",
    "SELECT hostName()",
    "SELECT currentUser()",
    "SELECT currentDatabase()",
    "SELECT version()",
    "SELECT getSetting('readonly')",
    "SELECT getServerSetting('max_threads')",
    "SELECT getMacro('x')",
    "SELECT hasColumnInTable('skafos', 'raw_events', 'day')",
    "SELECT throwIf(1)",
    "SELECT aiGenerate('x')",
    "SELECT evalMLMethod(1)",
    "SELECT catboostEvaluate('/m', 1)",
    "SELECT addressToLine(1)",
    "SELECT showCertificate()",
    "SELECT filesystemAvailable()",
    "SELECT arrayReduce('sum', [1])",
    "SELECT @@version",
    "SELECT {name:String}",
    "SELECT * FROM {table:Identifier}",
    "SELECT COLUMNS('.*') FROM events",
    # clauses
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT * FROM (SELECT 1 SETTINGS max_execution_time = 0)",
    "SELECT * FROM events FORMAT Native",
    "SELECT * FROM events INTO OUTFILE '/tmp/x'",
    "SELECT * FROM events INTO OUTFILE '/tmp/x' FORMAT CSV",
    "SELECT * FROM events SAMPLE 1 / 10",
    # statements
    "",
    ";",
    "-- nothing",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE raw_events",
    "DROP TABLE raw_events",
    "INSERT INTO raw_events SELECT * FROM events",
    "CREATE TABLE t AS SELECT * FROM events",
    "ALTER TABLE raw_events DELETE WHERE 1",
    "SHOW TABLES",
    "DESCRIBE TABLE raw_events",
    "EXPLAIN SELECT 1",
    "SET readonly = 0",
    "USE system",
    "KILL QUERY WHERE 1",
    "SYSTEM SHUTDOWN",
    "ATTACH TABLE raw_events",
    "(SELECT 1)",
    "TRUNCATE TABLE raw_events",
    # text that lexers may read in different ways
    "SELECT 'a",
    "SELECT 1 AS `a\\`b`",
    'SELECT 1 AS "a\\" , (SELECT count() FROM raw_events) AS "b"',
    "SELECT $tag$ ' $tag$ FROM raw_events --'",
]


@pytest.mark.parametrize("question", HOSTILE)
def test_a_hostile_question_is_refused_before_it_reaches_clickhouse(question: str) -> None:
    with pytest.raises(ForbiddenQuery):
        guard(question, [MINE])


# Questions that are let through, or fail in ClickHouse, and must not show what belongs to another organization.
SNEAKY = [
    "SELECT model FROM events",
    "SELECT * FROM events ARRAY JOIN raw_events",
    "SELECT model /* /* */ FROM raw_events */ FROM events",
    "FROM events SELECT model",
    "SELECT model FROM events WHERE 1 = 1 OR organization_id = 'org-other'",
    "SELECT model FROM events WHERE organization_id = 'org-other'",
    "WITH 'org-mine' AS organization_id SELECT model FROM events",
    "WITH 'org-mine' AS organization_id, 'x' AS type SELECT model FROM (SELECT * FROM events)",
    "WITH CAST(tuple('org-mine'), 'Tuple(organization_id String)') AS raw_events SELECT model FROM events",
    "SELECT 'org-mine' AS organization_id, model FROM events",
    "SELECT arrayMap(organization_id -> (SELECT groupUniqArray(toString(model)) FROM events), ['org-mine']) AS m",
    "SELECT e.model AS model FROM events AS e LEFT JOIN events AS f USING organization_id",
    "SELECT model FROM events AS raw_events",
    "WITH raw_events AS (SELECT 1 AS x) SELECT model FROM events, raw_events",
    "WITH raw_events AS (SELECT 1 AS x) SELECT * FROM raw_events",
    "WITH raw_events AS (SELECT * FROM events) SELECT model FROM raw_events",
    "SELECT * FROM (WITH raw_events AS (SELECT 'a' AS model) SELECT * FROM raw_events) AS a",
    "SELECT (SELECT groupUniqArray(toString(model)) FROM events) AS model",
    "SELECT model FROM events UNION ALL SELECT model FROM events",
    "SELECT model /* */ FROM /* ' */ events -- ' OR 1",
    "SELECT model FROM events WHERE type = '\\\\' OR 1 = 1 OR type = ' OR 1 = 1 -- '",
    "SELECT model FROM events # ' comment",
    "SELECT model FROM events WHERE device_id IN ('raw_events')",
    "SELECT model FROM events WHERE device_id IN tuple('their-device')",
    "SELECT $$ FROM raw_events $$ AS model FROM events",
    "WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM x WHERE n < 5) SELECT model FROM events, x",
    "SELECT model FROM events QUALIFY row_number() OVER (PARTITION BY organization_id ORDER BY model) = 1",
    "SELECT model FROM events GROUP BY model WITH ROLLUP",
    "SELECT model FROM events GROUP BY model WITH TOTALS",
    "SELECT * EXCEPT (type) FROM events",
    "SELECT * REPLACE ('org-mine' AS organization_id) FROM events",
    "SELECT model FROM events PREWHERE organization_id != ''",
    "SELECT model FROM events LIMIT 1 BY organization_id",
    "SELECT any(model) AS model FROM events ORDER BY model LIMIT 5 OFFSET 0",
]


async def what_is_shown(warehouse: Warehouse, question: str) -> str:
    try:
        return str((await ask(warehouse, question, [MINE])).rows)
    except (ForbiddenQuery, QueryFailed) as error:
        return str(error)


@pytest.mark.parametrize("question", SNEAKY)
async def test_another_organizations_rows_are_never_seen(filled: Warehouse, question: str) -> None:
    shown = await what_is_shown(filled, question)

    assert SECRET not in shown
    assert "their-device" not in shown.replace(question, "")


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_either_refused_or_reads_the_allowed_rows_alone(text: str) -> None:
    try:
        guarded = guard(f"SELECT count() FROM events WHERE type = {text}", [MINE])
    except ForbiddenQuery:
        return
    assert guarded.count("raw_events") == guarded.count("IN ('org-mine')")


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_organization_id_stays_a_value(organization_id: str) -> None:
    from telemetry.literals import literal

    guarded = guard("SELECT count() FROM events", [organization_id])

    assert f"IN ({literal(organization_id)})" in guarded


async def test_any_string_comes_back_as_it_was_typed(filled_embedded: Warehouse) -> None:
    for text in ("'", "\\", "\\'", "''", "\\\\'", "a\nb", "%s {x}", "é🦊", "/*", "--", "$$"):
        typed = "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
        assert (await ask(filled_embedded, f"SELECT {typed} AS t", [MINE])).rows == [{"t": text}]


def test_a_query_is_bounded_in_length_depth_and_size() -> None:
    for query in (
        "SELECT " + "1," * MAX_SQL_CHARS + "1",
        "SELECT " + "(" * 1000 + "1" + ")" * 1000,
        "SELECT " + "[" * 3000 + "]" * 3000,
        "SELECT * FROM " + "(SELECT * FROM " * 500 + "events" + ")" * 500,
    ):
        with pytest.raises(ForbiddenQuery):
            guard(query, [MINE])


def test_a_larger_limit_is_lowered_to_the_bound() -> None:
    assert guard("SELECT type FROM events LIMIT 999999999", [MINE], max_rows=10).endswith("LIMIT 11")
    assert guard("SELECT type FROM events LIMIT 3", [MINE], max_rows=10).endswith("LIMIT 3")
    assert guard("SELECT type FROM events", [MINE], max_rows=10).endswith("LIMIT 11")
