"""How statements for one server become those of a cluster: a rule over the text, shown without a server."""

from __future__ import annotations

import pytest

from telemetry.cluster import Cluster, InvalidClusterName, schema_of
from telemetry.migrate import all_statements

CLUSTER = Cluster("main-1", "skafos")
STATEMENTS = (
    "CREATE TABLE IF NOT EXISTS raw (\n    org String,\n    device_id String,\n    n UInt64\n) "
    "ENGINE = ReplacingMergeTree(n)\nPARTITION BY org\nORDER BY (org, device_id)",
    "CREATE TABLE daily (org String, devices AggregateFunction(uniqCombined(12), String)) "
    "ENGINE = AggregatingMergeTree() ORDER BY org SETTINGS index_granularity = 256",
    "CREATE MATERIALIZED VIEW IF NOT EXISTS daily_feed TO daily AS SELECT org, uniqCombinedState(12)(device_id) AS d "
    "FROM (SELECT org, device_id FROM raw WHERE org IN raw_orgs) AS r ANY LEFT JOIN raw USING org GROUP BY org",
    "CREATE VIEW seen AS SELECT * FROM raw FINAL",
    "CREATE VIEW seen_again AS SELECT * FROM seen",
)
SCHEMA = schema_of(STATEMENTS)


def rewritten(sql: str) -> list[str]:
    return CLUSTER.rewrite(sql, SCHEMA)


def test_a_table_becomes_a_replicated_one_and_one_distributed_by_device() -> None:
    local, distributed = rewritten(STATEMENTS[0])

    assert local == (
        "CREATE TABLE IF NOT EXISTS `skafos`.raw_local ON CLUSTER `main-1` (\n    org String,\n    device_id String,\n"
        "    n UInt64\n) "
        "ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/skafos/raw', '{replica}', n)\n"
        "PARTITION BY org\nORDER BY (org, device_id)"
    )
    assert distributed == (
        "CREATE TABLE IF NOT EXISTS `skafos`.raw ON CLUSTER `main-1` AS `skafos`.raw_local "
        "ENGINE = Distributed('main-1', 'skafos', 'raw_local', cityHash64(device_id))"
    )


def test_a_rollup_without_devices_is_spread_by_the_first_column_of_its_key() -> None:
    local, distributed = rewritten(STATEMENTS[1])

    assert (
        "ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/skafos/daily', '{replica}') ORDER" in local
    )
    assert distributed.endswith("'daily_local', cityHash64(org))")


def test_a_materialized_view_reads_and_feeds_local_tables() -> None:
    (view,) = rewritten(STATEMENTS[2])

    assert view.startswith(
        "CREATE MATERIALIZED VIEW IF NOT EXISTS `skafos`.daily_feed ON CLUSTER `main-1` "
        "TO `skafos`.daily_local AS SELECT"
    )
    assert "FROM `skafos`.raw_local WHERE org IN raw_orgs) AS r ANY LEFT JOIN `skafos`.raw_local USING" in view


def test_a_view_reads_distributed_tables_and_views() -> None:
    assert rewritten(STATEMENTS[3]) == [
        "CREATE VIEW `skafos`.seen ON CLUSTER `main-1` AS SELECT * FROM `skafos`.raw FINAL"
    ]
    assert rewritten(STATEMENTS[4]) == [
        "CREATE VIEW `skafos`.seen_again ON CLUSTER `main-1` AS SELECT * FROM `skafos`.seen"
    ]


def test_a_change_of_columns_is_made_on_both_tables_and_another_on_the_local_one() -> None:
    assert rewritten("ALTER TABLE raw ADD COLUMN a UInt8") == [
        "ALTER TABLE `skafos`.raw_local ON CLUSTER `main-1` ADD COLUMN a UInt8",
        "ALTER TABLE `skafos`.raw ON CLUSTER `main-1` ADD COLUMN a UInt8",
    ]
    assert rewritten("ALTER TABLE raw MODIFY COLUMN n UInt64 CODEC(Delta, ZSTD(1))") == [
        "ALTER TABLE `skafos`.raw_local ON CLUSTER `main-1` MODIFY COLUMN n UInt64 CODEC(Delta, ZSTD(1))"
    ]
    assert rewritten("ALTER TABLE raw MODIFY TTL day + INTERVAL 90 DAY") == [
        "ALTER TABLE `skafos`.raw_local ON CLUSTER `main-1` MODIFY TTL day + INTERVAL 90 DAY"
    ]
    assert rewritten("ALTER TABLE raw MODIFY SETTING non_replicated_deduplication_window = 9") == [
        "ALTER TABLE `skafos`.raw_local ON CLUSTER `main-1` MODIFY SETTING replicated_deduplication_window = 9"
    ]


def test_what_is_dropped_goes_with_its_local_part() -> None:
    assert rewritten("DROP TABLE IF EXISTS raw") == [
        "DROP TABLE IF EXISTS `skafos`.raw ON CLUSTER `main-1`",
        "DROP TABLE IF EXISTS `skafos`.raw_local ON CLUSTER `main-1`",
    ]
    assert rewritten("DROP TABLE daily_feed") == ["DROP TABLE `skafos`.daily_feed ON CLUSTER `main-1`"]


def test_a_backfill_stays_as_it_is() -> None:
    backfill = "INSERT INTO daily\nSELECT org, uniqCombinedState(12)(device_id) FROM raw GROUP BY org"

    assert rewritten(backfill) == [backfill]


@pytest.mark.parametrize("sql", ["RENAME TABLE raw TO rue", "SET x = 1", "OPTIMIZE TABLE raw"])
def test_a_statement_without_a_rule_is_an_error(sql: str) -> None:
    with pytest.raises(ValueError, match="no rule"):
        rewritten(sql)


def test_every_migration_has_a_rule_and_no_local_table_is_called_as_on_one_server() -> None:
    statements = list(all_statements())
    schema = schema_of(statements)

    for sql in statements:
        for each in CLUSTER.rewrite(sql, schema):
            if not each.startswith("INSERT"):
                assert "ON CLUSTER" in each
            if "MergeTree" in each or "MATERIALIZED" in each:
                assert not any(f"`skafos`.{table} " in each for table in schema.tables)


@pytest.mark.parametrize("name", ["", "a b", "a`b", "1a", "x" * 101])
def test_a_name_that_no_cluster_has_is_refused(name: str) -> None:
    with pytest.raises(InvalidClusterName):
        Cluster(name, "skafos")
