"""Every question, asked of the events themselves and not of tables made for it, and two that people type."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from typing import Final

from bench.telemetry.comparing import HOURS, STUCK_AFTER, STUCK_DAYS, subject_of
from bench.telemetry.deployments import DAY
from bench.telemetry.truth import Truth
from telemetry.kept_figures import HOUR_SECONDS
from telemetry.literals import Value, bind
from telemetry.sql_guard import guard
from telemetry.subject import OF_SUBJECT, last_days
from telemetry.warehouse import DEFAULT_LIMITS, Row, Warehouse

_WINDOW: Final = f"{OF_SUBJECT} AND day >= {{first_day}} AND day <= {{last_day}}"

# What the version held is, and how much it says: an event that tells nothing of it must not replace one that does.
_HELD: Final = (
    "argMax(ifNull(if(type IN ('check', 'activate'), version, from_version), toUInt32(0)), "
    "if(type IN ('check', 'activate') OR isNotNull(from_version), arrival, toUInt64(0)))"
)
_VERSION: Final = "ifNull(version, toUInt32(0))"
_DEVICE: Final = "cityHash64(device_id)"
_IS_STEP: Final = "version > 0 AND type IN ('download', 'verify', 'activate', 'error')"
_HOUR: Final = f"intDiv(toUnixTimestamp(received_at), {HOUR_SECONDS})"


def _by_period(column: str, period: str, value: str, said: str, where: str) -> str:
    """Return the statement that counts the devices of each period by what they said last in it.

    Args:
        column, value: what the columns are called.
        period: an expression.
        said: an aggregate of a device's events in a period.
        where: the events.
    """
    return f"""
        SELECT {column}, {value}, count() AS devices
        FROM (
            SELECT any({period}) AS {column}, {said} AS {value}
            FROM raw_events
            WHERE {where}
            GROUP BY bitXor({_DEVICE}, intHash64(toUInt32({period})))
        ) AS device_period
        GROUP BY {column}, {value}"""


_IN_HOURS: Final = (
    f"{OF_SUBJECT} AND received_at >= toDateTime({{deployed_hour}}, 'UTC') "
    "AND received_at < toDateTime({end_hour}, 'UTC')"
)

# The questions of `telemetry.queries`, a statement or two each. Each is exact however often an event was delivered,
# which is to say that it counts devices or distinct events; but of one that came again in another hour or on another
# day, a merged table has the last delivery alone.
_OF_TABLE: Final[dict[str, tuple[str, ...]]] = {
    "adoption_curve": (_by_period("of_day", "day", "held", _HELD, _WINDOW),),
    "adoption_curve_by_hour": (_by_period("of_hour", _HOUR, "held", _HELD, _IN_HOURS),),
    "active_devices": (_by_period("of_day", "day", "value", "argMax(os_version, arrival)", _WINDOW),),
    "installations": (
        f"""
        SELECT {_VERSION} AS activated, uniqExact({_DEVICE}) AS devices
        FROM raw_events
        WHERE {OF_SUBJECT} AND type = 'activate'
        GROUP BY activated WITH ROLLUP""",
    ),
    "version_mix": (
        f"""
        SELECT held, count() AS devices
        FROM (
            SELECT {_HELD} AS held, max(day) AS last_day
            FROM raw_events
            WHERE {OF_SUBJECT}
            GROUP BY {_DEVICE}
        ) AS device
        WHERE last_day >= {{first_day}}
        GROUP BY held""",
    ),
    "funnel": (
        f"""
        SELECT version, uniqExact({_DEVICE}) AS tried, uniqExactIf({_DEVICE}, type != 'error') AS downloaded,
            uniqExactIf({_DEVICE}, type IN ('verify', 'activate')) AS verified,
            uniqExactIf({_DEVICE}, type = 'activate') AS activated
        FROM raw_events
        WHERE {_WINDOW} AND {_IS_STEP}
        GROUP BY version""",
        f"SELECT uniqExact({_DEVICE}) AS checked FROM raw_events WHERE {_WINDOW}",
    ),
    "failure_rates": (
        f"""
        SELECT version, uniqExact({_DEVICE}) AS tried, uniqExactIf({_DEVICE}, type = 'error') AS failed
        FROM raw_events
        WHERE {_WINDOW} AND {_IS_STEP}
        GROUP BY version""",
        f"""
        SELECT version, error, uniqExact(event_id) AS errors, uniqExact({_DEVICE}) AS devices
        FROM raw_events
        WHERE {_WINDOW} AND version > 0 AND type = 'error'
        GROUP BY version, error""",
    ),
    "download_times": (
        f"""
        SELECT of_version, count() AS downloads, quantilesExact(0.5, 0.95)(took) AS percentiles
        FROM (
            SELECT any({_VERSION}) AS of_version, any(duration_ms) AS took
            FROM raw_events
            WHERE {_WINDOW} AND version > 0 AND type = 'download' AND isNotNull(duration_ms)
            GROUP BY event_id
        ) AS download
        GROUP BY of_version WITH ROLLUP""",
    ),
    "bytes_sent": (
        f"""
        SELECT of_day, of_encoding, count() AS downloads, sum(sent) AS bytes_sent, sum(whole) AS bytes_whole
        FROM (
            SELECT max(day) AS of_day, any(encoding) AS of_encoding, any(ifNull(bytes, toUInt64(0))) AS sent,
                any(ifNull(full_bytes, ifNull(bytes, toUInt64(0)))) AS whole
            FROM raw_events
            WHERE {_WINDOW} AND type = 'download'
            GROUP BY event_id
        ) AS download
        GROUP BY of_day, of_encoding""",
    ),
    "time_to_adopt": (
        f"""
        SELECT quantilesExact(0.5, 0.9, 0.99)(activated) AS reached, count() AS adopted
        FROM (
            SELECT min(arrival) AS activated
            FROM raw_events
            WHERE {OF_SUBJECT} AND version = {{version}} AND type = 'activate'
            GROUP BY {_DEVICE}
        ) AS device""",
        f"""
        SELECT uniqExact({_DEVICE}) AS active
        FROM raw_events
        WHERE {OF_SUBJECT} AND received_at >= toDateTime({{deployed_day}}, 'UTC')""",
    ),
    "stuck_devices": (
        f"""
        SELECT came, last_error, count() AS devices
        FROM (
            SELECT {_DEVICE} AS device, min(arrival) AS since,
                groupBitOr(transform(type, ['download', 'verify', 'activate'], [1, 2, 4], 8)) AS came,
                argMax(error, if(type = 'error', arrival, toUInt64(0))) AS last_error
            FROM raw_events
            WHERE {OF_SUBJECT} AND version = {{version}} AND {_IS_STEP}
            GROUP BY device
            HAVING bitAnd(came, 4) = 0 AND intDiv(since, 1000000) <= {{before}}
        ) AS trying ANY INNER JOIN (
            SELECT {_DEVICE} AS device, {_HELD} AS held, max(received_at) AS last_seen
            FROM raw_events
            WHERE {OF_SUBJECT}
            GROUP BY device
            HAVING held != {{version}} AND last_seen >= toDateTime({{active_since}}, 'UTC')
        ) AS state USING device
        GROUP BY came, last_error""",
    ),
}
# As typed into `skafos sql`, which de-duplicates whatever it reads.
_OF_SUBJECT: Final = (
    "application_id = {application_id} AND environment = {environment} AND model IN {names} "
    "AND received_at >= toDateTime({first_day}, 'UTC')"
)
_TYPED: Final = {
    "typed: errors by version": f"""
        SELECT version, error, count() AS errors, uniqExact(device_id) AS devices
        FROM events WHERE type = 'error' AND {_OF_SUBJECT} GROUP BY version, error""",
    "typed: all events by type": f"""
        SELECT type, count() AS n, uniqExact(device_id) AS devices FROM events WHERE {_OF_SUBJECT} GROUP BY type""",
}
QUESTIONS: Final = tuple(_OF_TABLE)
"""The names of those that are questions of ``telemetry.queries``."""
TYPED: Final = tuple(_TYPED)
RAW: Final = (*QUESTIONS, *TYPED)
"""The names of all of them, in order."""
_LIMITS: Final = replace(DEFAULT_LIMITS, seconds=120, memory_bytes=1 << 30)
"""More than is allowed to those who type, so that what is too slow is measured and not cut off."""


async def raw_seconds(warehouse: Warehouse, truth: Truth, times: int) -> dict[str, list[float]]:
    """Ask everything once to warm up and then so many times; return the seconds that each took.

    Raises:
        WarehouseUnavailable, QueryFailed
    """
    return {name: [await _seconds(warehouse, truth, name) for _ in range(times + 1)][1:] for name in RAW}


async def ask_raw(warehouse: Warehouse, truth: Truth, name: str) -> list[list[Row]]:
    """Ask one of them, about all days and the version that was deployed last; return the rows of each statement.

    Raises:
        WarehouseUnavailable, QueryFailed
    """
    subject = subject_of(truth)
    values = subject.values() | _values(truth)
    if name in _OF_TABLE:
        return [await warehouse.query(sql, values) for sql in _OF_TABLE[name]]
    return [await warehouse.query_readonly(guard(bind(_TYPED[name], values), [subject.organization_id]), _LIMITS)]


def _values(truth: Truth) -> dict[str, Value]:
    settings, last = truth.population.settings, truth.population.deployments[-1]
    deployed_hour = int(last.at) // HOUR_SECONDS * HOUR_SECONDS
    return {
        "first_day": settings.first_day,
        "last_day": settings.first_day + timedelta(days=settings.days - 1),
        "version": last.version,
        "deployed_hour": deployed_hour,
        "end_hour": deployed_hour + HOURS * HOUR_SECONDS,
        "deployed_day": int(last.at) // DAY * DAY,
        "before": int((truth.now - STUCK_AFTER).timestamp()),
        "active_since": last_days(STUCK_DAYS, truth.now).seconds()[0],
    }


async def _seconds(warehouse: Warehouse, truth: Truth, name: str) -> float:
    began = time.perf_counter()
    await ask_raw(warehouse, truth, name)
    return time.perf_counter() - began
