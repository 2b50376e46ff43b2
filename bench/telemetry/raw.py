"""Questions that no rollup answers: what point by point is asked of narrow tables, asked of the events themselves."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final

from bench.telemetry.comparing import subject_of
from bench.telemetry.truth import Truth
from telemetry.literals import Value, bind
from telemetry.sql_guard import guard
from telemetry.subject import OF_SUBJECT
from telemetry.warehouse import DEFAULT_LIMITS, Warehouse

_WINDOW: Final = f"{OF_SUBJECT} AND day >= {{first_day}} AND day <= {{last_day}}"

# Each is exact however often an event was delivered; which is to say that it counts devices or distinct events.
_OF_TABLE: Final = {
    "adoption_curve": f"""
        SELECT of_day, held, count() AS devices
        FROM (
            SELECT any(day) AS of_day, argMax(ifNull(version, toUInt32(0)), arrival) AS held
            FROM raw_events
            WHERE {_WINDOW} AND type IN ('check', 'activate')
            GROUP BY bitXor(cityHash64(device_id), intHash64(toUInt32(day)))
        ) AS device_day
        GROUP BY of_day, held""",
    "funnel": f"""
        SELECT version, uniqExact(device_id) AS tried, uniqExactIf(device_id, type != 'error') AS downloaded,
            uniqExactIf(device_id, type IN ('verify', 'activate')) AS verified,
            uniqExactIf(device_id, type = 'activate') AS activated
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
            WHERE {_WINDOW} AND type = 'download'
            GROUP BY event_id
        ) AS download
        GROUP BY of_version""",
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
RAW: Final = (*_OF_TABLE, *_TYPED)
"""The names of all of them, in order."""
_LIMITS: Final = replace(DEFAULT_LIMITS, seconds=120, memory_bytes=1 << 30)
"""More than is allowed to those who type, so that what is too slow is measured and not cut off."""


async def raw_seconds(warehouse: Warehouse, truth: Truth, times: int) -> dict[str, list[float]]:
    """Ask everything once to warm up and then so many times; return the seconds that each took.

    Raises:
        WarehouseUnavailable, QueryFailed
    """
    settings, subject = truth.population.settings, subject_of(truth)
    last_day = settings.first_day + timedelta(days=settings.days - 1)
    values = subject.values() | {"first_day": settings.first_day, "last_day": last_day}
    asked = {name: _asking(warehouse, name, values, subject.organization_id) for name in RAW}
    return {name: [await _seconds(ask) for _ in range(times + 1)][1:] for name, ask in asked.items()}


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
