"""How long rows are kept: by TTL where the server has it, and elsewhere month by month.

The migrations say for each table how long (``MODIFY TTL``); for the events themselves, and for what keeps erased ones
away, a setting does. A server without TTL (18.16) is helped by the shipper: once a day it drops the months of which
every day is over its limit, so there rows are kept up to a month longer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from telemetry.cluster import Cluster, Schema, schema_of
from telemetry.engine import Engine

DEFAULT_KEEP_DAYS: Final = 90
"""Long enough to compare a release with the one before it; what is older is answered from rollups."""
MAX_KEEP_DAYS: Final = 3650
"""Ten years: a larger number is a slip of the hand."""
KEPT_BY_SETTING: Final = ("raw_events", "erasures")
TTL_SINCE: Final = (22, 3)
"""What the migrations require for it."""

_TTL: Final = re.compile(r"ALTER TABLE (\w+) MODIFY TTL (\w+) \+ INTERVAL (\d+) DAY", re.IGNORECASE)
_MONTH: Final = re.compile(r"(\d{4})(\d{2})")
_TABLES: Final = "SELECT name, create_table_query AS made FROM system.tables WHERE database = currentDatabase()"
_PARTITIONS: Final = """
SELECT DISTINCT table, partition FROM {parts}
WHERE database = currentDatabase() AND active AND rows > 0
ORDER BY table, partition
"""


@dataclass(frozen=True, slots=True)
class Limit:
    """How long a table's rows are kept, counted from a column with their day or time."""

    column: str
    days: int


def limits_of(statements: Iterable[str], keep_days: int) -> dict[str, Limit]:
    """Return the limit of every table that has one.

    Args:
        statements: of all migrations.
        keep_days: for the tables of ``KEPT_BY_SETTING``.
    """
    limits = {}
    for match in filter(None, map(_TTL.match, statements)):
        table, column, days = match.group(1), match.group(2), int(match.group(3))
        limits[table] = Limit(column, keep_days if table in KEPT_BY_SETTING else days)
    return limits


def is_over(month: str, limit: Limit, today: date) -> bool:
    """Tell whether every day of a month (``YYYYMM``) is over the limit; what is no month never is."""
    match = _MONTH.fullmatch(month)
    if match is None:
        return False
    year, number = int(match.group(1)), int(match.group(2))
    next_month = date(year + number // 12, number % 12 + 1, 1)
    return next_month <= today - timedelta(days=limit.days)


def enforce(
    engine: Engine, statements: Iterable[str], keep_days: int, today: date, cluster: Cluster | None = None
) -> list[str]:
    """Have the server forget what is over its limit.

    Returns:
        What was done: ``table: 90 days`` where a TTL was changed, ``table: 202601`` where a month was dropped.
    """
    statements = list(statements)
    limits, schema = limits_of(statements, keep_days), schema_of(statements)
    if engine.version() >= TTL_SINCE:
        return _set_ttls(engine, limits, schema, cluster)
    return _drop_months(engine, limits, schema, cluster, today)


def _set_ttls(engine: Engine, limits: Mapping[str, Limit], schema: Schema, cluster: Cluster | None) -> list[str]:
    """Change the TTLs that follow the setting and differ from it. The others are the migrations' matter."""
    made = {str(row["name"]): str(row["made"]) for row in engine.fetch(_TABLES)}
    done = []
    for table in KEPT_BY_SETTING:
        limit, text = limits[table], made.get(_stored(table, cluster))
        if text is None or f"toIntervalDay({limit.days})" in text:
            continue
        sql = f"ALTER TABLE {table} MODIFY TTL {limit.column} + INTERVAL {limit.days} DAY"
        for each in [sql] if cluster is None else cluster.rewrite(sql, schema):
            engine.execute(each)
        done.append(f"{table}: {limit.days} days")
    return done


def _drop_months(
    engine: Engine, limits: Mapping[str, Limit], schema: Schema, cluster: Cluster | None, today: date
) -> list[str]:
    parts = "system.parts" if cluster is None else f"cluster('{cluster.name}', 'system', 'parts')"
    found = {(str(row["table"]), str(row["partition"])) for row in engine.fetch(_PARTITIONS.replace("{parts}", parts))}
    done = []
    for table, limit in limits.items():
        stored = _stored(table, cluster)
        for month in sorted(month for name, month in found if name == stored and is_over(month, limit, today)):
            if cluster is None:
                sql = f"ALTER TABLE {table} DROP PARTITION {month}"
            else:
                # A replica of 18.16 that is told to drop a partition sends that on to its leader without a password,
                # and is refused (seen). A mutation goes through ZooKeeper.
                sql = f"ALTER TABLE {cluster.local(table, schema)} {cluster.clause} DELETE WHERE "
                sql += f"toYYYYMM({limit.column}) = {month}"
            engine.execute(sql)
            done.append(f"{table}: {month}")
    return done


def _stored(table: str, cluster: Cluster | None) -> str:
    return table if cluster is None else cluster.local_name(table)
