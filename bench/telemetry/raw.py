"""Every question, asked of the events themselves and not of tables made for it, and two that people type."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final

from bench.telemetry.comparing import HOURS, STUCK_AFTER, STUCK_DAYS, subject_of
from bench.telemetry.truth import Truth
from telemetry.literals import Value, bind
from telemetry.sql_guard import guard
from telemetry.subject import OF_SUBJECT, last_days
from telemetry.warehouse import DEFAULT_LIMITS, Warehouse

_WINDOW: Final = f"{OF_SUBJECT} AND day >= {{first_day}} AND day <= {{last_day}}"

# What the version held is, and how much it says: an event that tells nothing of it must not replace one that does.
_HELD: Final = (
    "argMax(ifNull(if(type IN ('check', 'activate'), version, from_version), toUInt32(0)), "
    "if(type IN ('check', 'activate') OR isNotNull(from_version), arrival, toUInt64(0)))"
)
_OF_DOWNLOADS: Final = f"{_WINDOW} AND type = 'download'"
_OF_STEPS: Final = f"{OF_SUBJECT} AND version = {{version}} AND type IN ('download', 'verify', 'activate', 'error')"

# The questions of `telemetry.queries`. Each is exact however often an event was delivered, which is to say that it
# counts devices or distinct events.
_OF_TABLE: Final = {
    "adoption_curve": f"""
        SELECT of_day, held, count() AS devices
        FROM (
            SELECT any(day) AS of_day, {_HELD} AS held
            FROM raw_events
            WHERE {_WINDOW}
            GROUP BY bitXor(cityHash64(device_id), intHash64(toUInt32(day)))
        ) AS device_day
        GROUP BY of_day, held""",
    "adoption_curve_by_hour": f"""
        SELECT of_hour, held, count() AS devices
        FROM (
            SELECT any(intDiv(toUnixTimestamp(received_at), 3600)) AS of_hour, {_HELD} AS held
            FROM raw_events
            WHERE {OF_SUBJECT} AND received_at >= toDateTime({{deployed}}, 'UTC')
                AND received_at < toDateTime({{deployed_end}}, 'UTC')
            GROUP BY bitXor(cityHash64(device_id), intHash64(intDiv(toUnixTimestamp(received_at), 3600)))
        ) AS device_hour
        GROUP BY of_hour, held""",
    "active_devices": f"""
        SELECT of_day, value, count() AS devices
        FROM (
            SELECT any(day) AS of_day, argMax(os_version, arrival) AS value
            FROM raw_events
            WHERE {_WINDOW}
            GROUP BY bitXor(cityHash64(device_id), intHash64(toUInt32(day)))
        ) AS device_day
        GROUP BY of_day, value""",
    "installations": f"""
        SELECT version, uniqExact(cityHash64(device_id)) AS devices
        FROM raw_events
        WHERE {OF_SUBJECT} AND type = 'activate'
        GROUP BY version WITH TOTALS""",
    "version_mix": f"""
        SELECT held, count() AS devices
        FROM (
            SELECT {_HELD} AS held, max(day) AS last_day
            FROM raw_events
            WHERE {OF_SUBJECT}
            GROUP BY cityHash64(device_id)
        ) AS device
        WHERE last_day >= {{first_day}}
        GROUP BY held""",
    "funnel": f"""
        SELECT version, uniqExact(cityHash64(device_id)) AS tried,
            uniqExactIf(cityHash64(device_id), type != 'error') AS downloaded,
            uniqExactIf(cityHash64(device_id), type IN ('verify', 'activate')) AS verified,
            uniqExactIf(cityHash64(device_id), type = 'activate') AS activated
        FROM raw_events
        WHERE {_WINDOW} AND type IN ('download', 'verify', 'activate', 'error')
        GROUP BY version""",
    "failure_rates": f"""
        SELECT version, error, uniqExact(event_id) AS errors, uniqExact(device_id) AS devices
        FROM raw_events
        WHERE {_WINDOW} AND type = 'error'
        GROUP BY version, error""",
    "download_times": f"""
        SELECT of_version, quantilesExact(0.5, 0.95)(took) AS percentiles
        FROM (
            SELECT any(version) AS of_version, any(duration_ms) AS took
            FROM raw_events
            WHERE {_OF_DOWNLOADS}
            GROUP BY event_id
        ) AS download
        GROUP BY of_version""",
    "bytes_sent": f"""
        SELECT of_day, of_encoding, count() AS downloads, sum(sent) AS bytes_sent, sum(whole) AS bytes_whole
        FROM (
            SELECT max(day) AS of_day, any(encoding) AS of_encoding, any(bytes) AS sent, any(full_bytes) AS whole
            FROM raw_events
            WHERE {_OF_DOWNLOADS}
            GROUP BY event_id
        ) AS download
        GROUP BY of_day, of_encoding""",
    "time_to_adopt": f"""
        SELECT quantilesExact(0.5, 0.9, 0.99)(activated) AS reached, count() AS adopted,
            (SELECT uniqExact(cityHash64(device_id)) FROM raw_events
             WHERE {OF_SUBJECT} AND received_at >= toDateTime({{deployed}}, 'UTC')) AS active
        FROM (
            SELECT min(arrival) AS activated
            FROM raw_events
            WHERE {OF_SUBJECT} AND version = {{version}} AND type = 'activate'
            GROUP BY cityHash64(device_id)
        ) AS device""",
    "stuck_devices": f"""
        SELECT came, last_error, count() AS devices
        FROM (
            SELECT cityHash64(device_id) AS device, min(arrival) AS since,
                groupBitOr(transform(type, ['download', 'verify', 'activate'], [1, 2, 4], 8)) AS came,
                argMax(error, if(type = 'error', arrival, toUInt64(0))) AS last_error
            FROM raw_events
            WHERE {_OF_STEPS}
            GROUP BY device
            HAVING bitAnd(came, 4) = 0 AND since < {{before}}
        ) AS trying ANY INNER JOIN (
            SELECT cityHash64(device_id) AS device, {_HELD} AS held, max(received_at) AS last_seen
            FROM raw_events
            WHERE {OF_SUBJECT}
            GROUP BY device
            HAVING held != {{version}} AND last_seen >= toDateTime({{active_since}}, 'UTC')
        ) AS state USING device
        GROUP BY came, last_error""",
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
RAW: Final = (*QUESTIONS, *_TYPED)
"""The names of all of them, in order."""
_LIMITS: Final = replace(DEFAULT_LIMITS, seconds=120, memory_bytes=1 << 30)
"""More than is allowed to those who type, so that what is too slow is measured and not cut off."""


async def raw_seconds(warehouse: Warehouse, truth: Truth, times: int) -> dict[str, list[float]]:
    """Ask everything once to warm up and then so many times; return the seconds that each took.

    Raises:
        WarehouseUnavailable, QueryFailed
    """
    values = subject_of(truth).values() | _values(truth)
    asked = {name: _asking(warehouse, name, values, subject_of(truth).organization_id) for name in RAW}
    return {name: [await _seconds(ask) for _ in range(times + 1)][1:] for name, ask in asked.items()}


def _values(truth: Truth) -> dict[str, Value]:
    """Return what is asked about: all days, and the version that was deployed last."""
    settings, last = truth.population.settings, truth.population.deployments[-1]
    return {
        "first_day": settings.first_day,
        "last_day": settings.first_day + timedelta(days=settings.days - 1),
        "version": last.version,
        "deployed": int(last.at),
        "deployed_end": int(last.at) + HOURS * 3600,
        "before": int((truth.now - STUCK_AFTER).timestamp()) * 1_000_000,
        "active_since": last_days(STUCK_DAYS, truth.now).seconds()[0],
    }


def _asking(
    warehouse: Warehouse, name: str, values: dict[str, Value], organization_id: str
) -> Callable[[], Awaitable[object]]:
    if name in _OF_TABLE:
        return lambda: warehouse.query(_OF_TABLE[name], values)
    guarded = guard(bind(_TYPED[name], values), [organization_id])
    return lambda: warehouse.query_readonly(guarded, _LIMITS)


async def _seconds(ask: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await ask()
    return time.perf_counter() - began
