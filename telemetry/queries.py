"""The questions that decide whether a release goes on, a function each: whose figures and which days in, figures out.

``docs/telemetry.md`` has the definitions in words. "No data" is an empty answer; ``WarehouseUnavailable`` says that
ClickHouse cannot answer. Days and hours are those of UTC by the server's clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby, pairwise
from string import Template
from typing import Any, Final, Literal, get_args

from telemetry.adoption import DayAdoption, VersionShare, held_by_day, mix_now, shares
from telemetry.subject import OF_SUBJECT, Days, ModelName, Subject, last_days
from telemetry.warehouse import Row, Warehouse

__all__ = [
    "DIMENSIONS",
    "MAX_HOURS",
    "MAX_REASONS",
    "MAX_STUCK_DEVICES",
    "MAX_VALUES",
    "MAX_VERSIONS",
    "STEPS",
    "BytesSent",
    "DayAdoption",
    "DayBytes",
    "DayDevices",
    "Days",
    "Dimension",
    "DownloadTime",
    "DownloadTimes",
    "EncodingBytes",
    "FailureRate",
    "FailureReason",
    "Funnel",
    "FunnelStep",
    "HourAdoption",
    "Installations",
    "ModelName",
    "Reach",
    "Step",
    "Stuck",
    "StuckDevice",
    "StuckReason",
    "Subject",
    "TimeToAdopt",
    "ValueDevices",
    "VersionDevices",
    "VersionShare",
    "active_devices",
    "adoption_curve",
    "adoption_curve_by_hour",
    "bytes_sent",
    "download_times",
    "failure_rates",
    "funnel",
    "installations",
    "last_days",
    "stuck_devices",
    "time_to_adopt",
    "version_mix",
    "wilson",
]

Dimension = Literal["os", "os_version", "device_model", "app_version", "locale"]
DIMENSIONS: Final[tuple[Dimension, ...]] = get_args(Dimension)
"""What active devices can be told apart by."""

Step = Literal["check", "download", "verify", "activate"]
STEPS: Final[tuple[Step, ...]] = get_args(Step)
"""The steps of an update, in order."""

MAX_HOURS: Final = 24 * 14
"""Hours after a deploy that are looked at. After two weeks a day is as fine as anybody needs."""
MAX_VALUES: Final = 50
"""Values of a dimension that are listed, those with the most devices; the others are counted together."""
MAX_VERSIONS: Final = 100
"""Versions that are listed, the newest; what devices say may be anything, and must not make an answer grow."""
MAX_REASONS: Final = 10
"""Reasons that are listed, the most frequent."""
MAX_STUCK_DEVICES: Final = 1_000
"""Stuck devices that are listed, those first that are stuck for longest; all are counted."""

SHARES_TO_REACH: Final = (0.5, 0.9, 0.99)
NO_ERROR: Final = ""
"""The reason of a device that is stuck and reported no error."""
PATCH_ENCODINGS: Final = ("dcz", "skafos-delta", "zstd-prefix")
"""The encodings that need the version before: what they leave out is what patches save."""
Z_95: Final = 1.959963984540054
"""The standard normal quantile of 0.975, for a two-sided confidence of 95 %."""


@dataclass(frozen=True, slots=True)
class HourAdoption:
    """One hour: the devices that were heard of, by the version each held at its last event of the hour.

    Attributes:
        hour: its start, in UTC.
        hours_since_deploy: 0 for the hour of the deploy.
    """

    hour: datetime
    hours_since_deploy: int
    active_devices: int
    versions: tuple[VersionShare, ...]


@dataclass(frozen=True, slots=True)
class ValueDevices:
    """Active devices with a value of a dimension; the empty value is that of devices that do not tell."""

    value: str
    devices: int
    share: float


@dataclass(frozen=True, slots=True)
class DayDevices:
    """One day: the active devices, and how many of them had each value; most devices first.

    Attributes:
        other_devices: devices with values that are not listed.
    """

    day: date
    active_devices: int
    values: tuple[ValueDevices, ...]
    other_devices: int


@dataclass(frozen=True, slots=True)
class VersionDevices:
    """Devices of a version."""

    version: int
    devices: int


@dataclass(frozen=True, slots=True)
class Installations:
    """Devices that ever activated a version of the model, in total and for each version, the newest first."""

    devices: int
    versions: tuple[VersionDevices, ...]


@dataclass(frozen=True, slots=True)
class FunnelStep:
    """A step of an update: devices that came at least so far, and how many of them went no further."""

    step: Step
    devices: int
    lost: int


@dataclass(frozen=True, slots=True)
class Funnel:
    """How far devices came on the way to a version.

    Attributes:
        steps: check, download, verify, activate. The first counts all devices that checked, whatever they were offered.
        leak: the step that most of the devices that tried the version did not get beyond; None when all activated it.
        tried_devices: devices that downloaded, verified or activated the version, or reported an error about it.
        failed_devices: devices that reported an error about the version and did not activate it.
    """

    version: int
    steps: tuple[FunnelStep, ...]
    leak: Step | None
    tried_devices: int
    failed_devices: int


@dataclass(frozen=True, slots=True)
class FailureReason:
    """How often an error was reported, and by how many devices."""

    error: str
    count: int
    devices: int


@dataclass(frozen=True, slots=True)
class FailureRate:
    """How often a version fails.

    Attributes:
        tried_devices: devices that tried the version: downloaded, verified, activated it, or failed at it.
        failed_devices: those of them that reported an error about it.
        rate: failed of tried, between 0 and 1.
        low, high: the bounds of its 95 % confidence interval (``wilson``).
        errors: errors reported, all reasons together.
        reasons: the most frequent first.
    """

    version: int
    tried_devices: int
    failed_devices: int
    rate: float
    low: float
    high: float
    errors: int
    reasons: tuple[FailureReason, ...]


@dataclass(frozen=True, slots=True)
class DownloadTime:
    """Percentiles of the time from check to downloaded, in milliseconds. ``version`` is None for all together."""

    version: int | None
    downloads: int
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class DownloadTimes:
    """Download times over all versions (None without downloads) and of each, the newest first."""

    overall: DownloadTime | None
    versions: tuple[DownloadTime, ...]


@dataclass(frozen=True, slots=True)
class DayBytes:
    """One day's downloads.

    Attributes:
        full_bytes: what they would have been without patches.
        saved_bytes: what patches left out.
    """

    day: date
    downloads: int
    bytes: int
    full_bytes: int
    saved_bytes: int


@dataclass(frozen=True, slots=True)
class EncodingBytes:
    """The same for one encoding, over the window."""

    encoding: str
    downloads: int
    bytes: int
    full_bytes: int
    saved_bytes: int


@dataclass(frozen=True, slots=True)
class BytesSent:
    """Bytes that downloads took, in total, by day (those with downloads) and by encoding (the most bytes first)."""

    downloads: int
    bytes: int
    full_bytes: int
    saved_bytes: int
    days: tuple[DayBytes, ...]
    encodings: tuple[EncodingBytes, ...]


@dataclass(frozen=True, slots=True)
class Reach:
    """When a share of the active devices had the version; None when they do not have it yet."""

    share: float
    at: datetime | None
    seconds: int | None


@dataclass(frozen=True, slots=True)
class TimeToAdopt:
    """How long a version took to reach the active devices.

    Attributes:
        active_devices: devices heard of since the deploy.
        adopted_devices: those of them that have activated the version.
    """

    version: int
    deployed_at: datetime
    active_devices: int
    adopted_devices: int
    reached: tuple[Reach, ...]


@dataclass(frozen=True, slots=True)
class StuckDevice:
    """A device that tried a version, did not get it, and is still heard of.

    Attributes:
        held: the version it holds; None for none.
        since: when it first tried.
        last_seen: when it was last heard of.
        step: how far it came, ``check`` when not even the download succeeded.
        error: the last one that it reported about the version, ``NO_ERROR`` when it reported none.
    """

    device_id: str
    held: int | None
    since: datetime
    last_seen: datetime
    step: Step
    error: str


@dataclass(frozen=True, slots=True)
class StuckReason:
    """How many devices are stuck at a step with an error."""

    step: Step
    error: str
    devices: int


@dataclass(frozen=True, slots=True)
class Stuck:
    """Devices that are stuck on the way to a version.

    Attributes:
        total: all of them.
        reasons: the most frequent first.
        devices: those that are stuck for longest, up to what was asked for.
    """

    version: int
    total: int
    reasons: tuple[StuckReason, ...]
    devices: tuple[StuckDevice, ...]


_WINDOW: Final = "FROM raw_events FINAL WHERE $subject AND day >= {first_day} AND day <= {last_day}"

_BY_HOUR: Final = """
SELECT hour, held, count() AS devices
FROM (
    SELECT hour, device_id, argMax(told, told_at) AS held
    FROM (
        SELECT day, model, device_id, intDiv(arrival, 3600000000) AS hour,
            toUInt32(ifNull(if(type IN ('check', 'activate'), version, from_version), toUInt32(0))) AS told,
            if(type IN ('check', 'activate') OR isNotNull(from_version), arrival, toUInt64(0)) AS told_at
        $window
    ) AS event
    WHERE hour >= {first_hour} AND hour <= {last_hour} AND ($own)
    GROUP BY hour, device_id
) AS device_hour
GROUP BY hour, held
ORDER BY hour, held
"""

_ACTIVE: Final = """
SELECT day, value, count() AS devices
FROM (
    SELECT day, device_id, argMax($dimension, arrival) AS value
    $window
    GROUP BY day, device_id
) AS device_day
GROUP BY day, value
ORDER BY day, devices DESC, value
"""

_INSTALLATIONS: Final = """
SELECT number AS version, uniqExact(device_id) AS devices
FROM (
    SELECT device_id, arrayJoin([toUInt32(0), assumeNotNull(version)]) AS number
    FROM raw_events FINAL
    WHERE $subject AND type = 'activate' AND isNotNull(version) AND ($own)
) AS activation
GROUP BY number
ORDER BY version DESC
"""

_CHECKED: Final = "SELECT uniqExact(device_id) AS devices $window AND type = 'check'"

_TRIED: Final = """
SELECT tried_version,
    uniqExactIf(device_id, type IN ('download', 'verify', 'activate')) AS downloaded,
    uniqExactIf(device_id, type IN ('verify', 'activate')) AS verified,
    uniqExactIf(device_id, type = 'activate') AS activated,
    uniqExactIf(device_id, type IN ('error', 'activate')) AS activated_or_failed,
    uniqExactIf(device_id, type = 'error') AS failed,
    uniqExact(device_id) AS tried,
    countIf(type = 'error') AS errors
FROM (
    SELECT day, model, type, device_id, ifNull(version, toUInt32(0)) AS tried_version
    $window AND type IN ('download', 'verify', 'activate', 'error')
) AS event
WHERE tried_version > 0 AND ($own)
GROUP BY tried_version
ORDER BY tried_version DESC
LIMIT $max_versions
"""

_REASONS: Final = """
SELECT tried_version, error, count() AS errors, uniqExact(device_id) AS devices
FROM (
    SELECT day, model, error, device_id, ifNull(version, toUInt32(0)) AS tried_version
    $window AND type = 'error'
) AS event
WHERE tried_version > 0 AND ($own)
GROUP BY tried_version, error
ORDER BY tried_version DESC, errors DESC, error
LIMIT $max_reasons BY tried_version
"""

_TIMES: Final = """
SELECT arrayJoin([toUInt32(0), tried_version]) AS number, count() AS downloads,
    quantileExact(0.5)(took) AS p50, quantileExact(0.95)(took) AS p95
FROM (
    SELECT day, model, ifNull(version, toUInt32(0)) AS tried_version, assumeNotNull(duration_ms) AS took
    $window AND type = 'download' AND isNotNull(duration_ms)
) AS download
WHERE tried_version > 0 AND ($own)
GROUP BY number
ORDER BY number DESC
"""

_BYTES: Final = """
SELECT day, encoding, count() AS downloads, sum(sent) AS bytes, sum(whole) AS full_bytes,
    sum(if(encoding IN {patches} AND whole > sent, toUInt64(whole - sent), toUInt64(0))) AS saved_bytes
FROM (
    SELECT day, model, encoding, ifNull(version, toUInt32(0)) AS tried_version, ifNull(bytes, toUInt64(0)) AS sent,
        ifNull(full_bytes, ifNull(bytes, toUInt64(0))) AS whole
    $window AND type = 'download'
) AS download
WHERE $own
GROUP BY day, encoding
ORDER BY day, encoding
"""

_ADOPTED: Final = """
SELECT second, count() AS devices
FROM (
    SELECT device_id,
        minIf(intDiv(arrival, 1000000), type = 'activate' AND version = {version} AND ($own)) AS second,
        max(intDiv(arrival, 1000000)) AS last_second
    FROM raw_events FINAL
    WHERE $subject
    GROUP BY device_id
) AS device
WHERE last_second >= {deployed}
GROUP BY second
ORDER BY second
"""

_STUCK: Final = """
SELECT device_id, held, since, last_seen, step, last_error
FROM (
    SELECT device_id, any(day) AS day, any(model) AS model, argMax(told, told_at) AS held,
        min(if(tries, second, toUInt64(4294967295))) AS since, max(second) AS last_seen,
        max(multiIf(tries AND type = 'verify', 2, tries AND type = 'download', 1, 0)) AS step,
        argMax(error, if(tries, arrival, toUInt64(0)))
            AS last_error,
        max(tries AND type = 'activate') AS activated
    FROM (
        SELECT day, model, device_id, type, error, arrival, intDiv(arrival, 1000000) AS second,
            toUInt32(ifNull(if(type IN ('check', 'activate'), version, from_version), toUInt32(0))) AS told,
            if(type IN ('check', 'activate') OR isNotNull(from_version), arrival, toUInt64(0)) AS told_at,
            type IN ('download', 'verify', 'error', 'activate') AND ifNull(version = {version}, 0) AS tries
        $window
    ) AS event
    GROUP BY device_id
) AS device
WHERE activated = 0 AND since <= {before} AND held != {version} AND ($own)
ORDER BY since, device_id
"""


# --- who holds what ---------------------------------------------------------------------------------------------------


async def adoption_curve(warehouse: Warehouse, subject: Subject, days: Days) -> tuple[DayAdoption, ...]:
    """Answer which share of the active devices held each version, by day; days without devices are left out.

    Raises:
        WarehouseUnavailable: ClickHouse cannot answer.
    """
    return await held_by_day(warehouse, subject, days)


async def adoption_curve_by_hour(
    warehouse: Warehouse, subject: Subject, deployed_at: datetime, now: datetime, hours: int = 72
) -> tuple[HourAdoption, ...]:
    """Answer the same by hour since a deploy; hours without devices are left out.

    Args:
        deployed_at: with its zone.
        now: the present, with its zone.
        hours: how many, the hour of the deploy included; 1 to ``MAX_HOURS``.

    Raises:
        ValueError: ``hours`` is out of range.
        WarehouseUnavailable: ClickHouse cannot answer.
    """
    if not 1 <= hours <= MAX_HOURS:
        raise ValueError(f"hours is between 1 and {MAX_HOURS}")
    first = int(deployed_at.timestamp()) // 3600
    last = min(first + hours - 1, int(now.timestamp()) // 3600)
    values = subject.values() | {
        "first_hour": first,
        "last_hour": last,
        "first_day": _of_hour(first).date(),
        "last_day": _of_hour(last).date(),
    }
    rows = await warehouse.query(_sql(_BY_HOUR, subject, "told"), values)
    answer = []
    for hour, of_hour in groupby(rows, key=lambda row: int(row["hour"])):
        held = shares(of_hour)
        answer.append(HourAdoption(_of_hour(hour), hour - first, sum(share.devices for share in held), held))
    return tuple(answer)


async def active_devices(
    warehouse: Warehouse, subject: Subject, days: Days, dimension: Dimension
) -> tuple[DayDevices, ...]:
    """Answer how many devices were active on each day, by a dimension; days without devices are left out.

    Raises:
        WarehouseUnavailable: ClickHouse cannot answer.
    """
    rows = await warehouse.query(_sql(_ACTIVE, subject, dimension=dimension), subject.values() | days.values())
    return tuple(
        _day_devices(date.fromisoformat(day), list(of_day))
        for day, of_day in groupby(rows, lambda row: str(row["day"]))
    )


async def installations(warehouse: Warehouse, subject: Subject) -> Installations:
    """Answer how many devices ever activated the model.

    Raises:
        WarehouseUnavailable: ClickHouse cannot answer.
    """
    rows = await warehouse.query(_sql(_INSTALLATIONS, subject, "version"), subject.values())
    versions = [VersionDevices(int(row["version"]), int(row["devices"])) for row in rows if int(row["version"])]
    total = sum(int(row["devices"]) for row in rows if not int(row["version"]))
    return Installations(total, tuple(versions[:MAX_VERSIONS]))


async def version_mix(warehouse: Warehouse, subject: Subject, days: Days) -> tuple[VersionShare, ...]:
    """Answer which versions are held now, by the devices that were heard of since the window's first day.

    Raises:
        WarehouseUnavailable: ClickHouse cannot answer.
    """
    return await mix_now(warehouse, subject, days)


# --- how updates go ---------------------------------------------------------------------------------------------------


async def funnel(warehouse: Warehouse, subject: Subject, days: Days) -> tuple[Funnel, ...]:
    """Answer how far devices came on the way to each version that was tried within the window, the newest first.

    Raises:
        WarehouseUnavailable: ClickHouse cannot answer.
    """
    values = subject.values() | days.values()
    checked = int((await warehouse.query(_sql(_CHECKED, subject), values))[0]["devices"])
    rows = await warehouse.query(_sql(_TRIED, subject, "tried_version"), values)
    return tuple(_funnel(checked, row) for row in rows)


async def failure_rates(warehouse: Warehouse, subject: Subject, days: Days) -> tuple[FailureRate, ...]:
    """Answer how often each version that was tried within the window failed, and why; the newest first.

    Raises:
        WarehouseUnavailable: ClickHouse cannot answer.
    """
    values = subject.values() | days.values()
    tried = await warehouse.query(_sql(_TRIED, subject, "tried_version"), values)
    rows = await warehouse.query(_sql(_REASONS, subject, "tried_version"), values)
    reasons = {version: list(of) for version, of in groupby(rows, lambda row: int(row["tried_version"]))}
    return tuple(_failure_rate(row, reasons.get(int(row["tried_version"]), [])) for row in tried)


async def download_times(warehouse: Warehouse, subject: Subject, days: Days) -> DownloadTimes:
    """Answer how long downloads took within the window.

    Raises:
        WarehouseUnavailable: ClickHouse cannot answer.
    """
    rows = await warehouse.query(_sql(_TIMES, subject, "tried_version"), subject.values() | days.values())
    times = [
        DownloadTime(int(row["number"]) or None, int(row["downloads"]), float(row["p50"]), float(row["p95"]))
        for row in rows
        if int(row["downloads"])
    ]
    overall = next((time for time in times if time.version is None), None)
    return DownloadTimes(overall, tuple(time for time in times if time.version is not None)[:MAX_VERSIONS])


async def bytes_sent(warehouse: Warehouse, subject: Subject, days: Days) -> BytesSent:
    """Answer how many bytes downloads took within the window, and how many patches saved.

    Raises:
        WarehouseUnavailable: ClickHouse cannot answer.
    """
    values = subject.values() | days.values() | {"patches": list(PATCH_ENCODINGS)}
    rows = await warehouse.query(_sql(_BYTES, subject, "tried_version"), values)
    by_day = [(date.fromisoformat(day), list(of)) for day, of in groupby(rows, lambda row: str(row["day"]))]
    ordered = sorted(rows, key=lambda row: str(row["encoding"]))
    by_encoding = [(name, list(of)) for name, of in groupby(ordered, lambda row: str(row["encoding"]))]
    encodings = sorted((EncodingBytes(name, *_sums(of)) for name, of in by_encoding), key=lambda one: -one.bytes)
    return BytesSent(*_sums(rows), tuple(DayBytes(day, *_sums(of)) for day, of in by_day), tuple(encodings))


async def time_to_adopt(
    warehouse: Warehouse, subject: Subject, version: int, deployed_at: datetime, now: datetime
) -> TimeToAdopt:
    """Answer how long a version took from its deploy to 50, 90 and 99 % of the active devices.

    Args:
        deployed_at, now: with their zones.

    Raises:
        ValueError: the deploy lies after ``now``.
        WarehouseUnavailable: ClickHouse cannot answer.
    """
    if deployed_at > now:
        raise ValueError("the deploy lies in the future")
    values = subject.values() | {
        "version": version,
        "deployed": int(deployed_at.timestamp()),
        "now": int(now.timestamp()),
        "first_day": deployed_at.astimezone(UTC).date(),
    }
    rows = await warehouse.query(_sql(_ADOPTED, subject, "ifNull(version, toUInt32(0))"), values)
    active = sum(int(row["devices"]) for row in rows)
    adopted = [(int(row["second"]), int(row["devices"])) for row in rows if int(row["second"])]
    reached = tuple(_reach(share, active, adopted, deployed_at) for share in SHARES_TO_REACH)
    return TimeToAdopt(version, deployed_at, active, sum(devices for _, devices in adopted), reached)


async def stuck_devices(
    warehouse: Warehouse,
    subject: Subject,
    version: int,
    now: datetime,
    after: timedelta = timedelta(hours=24),
    days: int = 14,
    limit: int = 100,
) -> Stuck:
    """Answer which devices are stuck on the way to a version, since when, and why.

    Args:
        now: the present, with its zone.
        after: a device that first tried so long ago, and has not activated it since, is stuck.
        days: only devices that were heard of in so many days, today included.
        limit: devices to list; 0 to ``MAX_STUCK_DEVICES``.

    Raises:
        ValueError: ``days`` or ``limit`` is out of range.
        WarehouseUnavailable: ClickHouse cannot answer.
    """
    if not 0 <= limit <= MAX_STUCK_DEVICES:
        raise ValueError(f"limit is between 0 and {MAX_STUCK_DEVICES}")
    values = subject.values() | last_days(days, now).values() | {"version": version}
    values["before"] = int((now - after).timestamp())
    rows = await warehouse.query(_sql(_STUCK, subject, "held"), values)
    found = [_stuck_device(row) for row in rows]
    counts: dict[tuple[Step, str], int] = {}
    for device in found:
        counts[device.step, device.error] = counts.get((device.step, device.error), 0) + 1
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    reasons = tuple(StuckReason(step, error, number) for (step, error), number in ordered[:MAX_REASONS])
    return Stuck(version, len(found), reasons, tuple(found[:limit]))


def _sql(text: str, subject: Subject, version: str = "tried_version", **names: str) -> str:
    """Complete a question.

    Args:
        version: the column that says whose a row is, where another model had one of the names (``Subject.condition``).
    """
    limits = {"max_versions": str(MAX_VERSIONS), "max_reasons": str(MAX_REASONS)}
    window = Template(_WINDOW).substitute(subject=OF_SUBJECT)
    own = subject.condition(version, "day")
    return Template(text).substitute(limits, subject=OF_SUBJECT, window=window, own=own, **names)


def _of_hour(hour: int) -> datetime:
    return datetime.fromtimestamp(hour * 3600, UTC)


def _of_second(second: Any) -> datetime:
    return datetime.fromtimestamp(int(second), UTC)


def _day_devices(day: date, rows: list[Row]) -> DayDevices:
    total = sum(int(row["devices"]) for row in rows)
    values = [
        ValueDevices(str(row["value"]), int(row["devices"]), int(row["devices"]) / total) for row in rows[:MAX_VALUES]
    ]
    return DayDevices(day, total, tuple(values), total - sum(value.devices for value in values))


def _funnel(checked: int, row: Row) -> Funnel:
    tried, failed = int(row["tried"]), int(row["activated_or_failed"]) - int(row["activated"])
    reached = [int(row["downloaded"]), int(row["verified"]), int(row["activated"])]
    # A device may have checked before the window began.
    counts = [max(checked, reached[0]), *reached]
    lost = [before - after for before, after in pairwise(counts)] + [0]
    leaks = [before - after for before, after in pairwise([tried, *reached])]
    leak = STEPS[leaks.index(max(leaks))] if max(leaks) > 0 else None
    return Funnel(int(row["tried_version"]), tuple(map(FunnelStep, STEPS, counts, lost)), leak, tried, failed)


def _failure_rate(row: Row, reasons: list[Row]) -> FailureRate:
    tried, failed = int(row["tried"]), int(row["failed"])
    low, high = wilson(failed, tried)
    listed = tuple(FailureReason(str(one["error"]), int(one["errors"]), int(one["devices"])) for one in reasons)
    version = int(row["tried_version"])
    return FailureRate(version, tried, failed, failed / tried, low, high, int(row["errors"]), listed)


def _sums(rows: Iterable[Row]) -> tuple[int, int, int, int]:
    downloads = sent = full = saved = 0
    for row in rows:
        downloads += int(row["downloads"])
        sent += int(row["bytes"])
        full += int(row["full_bytes"])
        saved += int(row["saved_bytes"])
    return downloads, sent, full, saved


def _reach(share: float, active: int, adopted: list[tuple[int, int]], deployed_at: datetime) -> Reach:
    """Return when so many devices had activated that they are the share of the active ones.

    Args:
        adopted: seconds since 1970 in order, and the devices that activated first in each.
    """
    needed, have = math.ceil(active * share), 0
    for second, devices in adopted:
        have += devices
        if have >= needed > 0:
            at = max(_of_second(second), deployed_at)
            return Reach(share, at, round((at - deployed_at).total_seconds()))
    return Reach(share, None, None)


def _stuck_device(row: Row) -> StuckDevice:
    return StuckDevice(
        device_id=str(row["device_id"]),
        held=int(row["held"]) or None,
        since=_of_second(row["since"]),
        last_seen=_of_second(row["last_seen"]),
        step=STEPS[int(row["step"])],
        error=str(row["last_error"]),
    )


def wilson(failed: int, tried: int, z: float = Z_95) -> tuple[float, float]:
    """Return the bounds of a proportion's confidence interval, by Wilson's score method.

    It holds for few tries and for rates near 0 and 1, where the normal approximation does not (E. B. Wilson, Journal of
    the American Statistical Association 22 (1927), pages 209 to 212).

    Raises:
        ValueError: nothing was tried, or more failed than were tried.
    """
    if not 0 <= failed <= tried or tried == 0:
        raise ValueError("failed is between 0 and tried, which is at least 1")
    rate, square = failed / tried, z * z
    middle = rate + square / (2 * tried)
    spread = z * math.sqrt(rate * (1 - rate) / tried + square / (4 * tried * tried))
    scale = 1 + square / tried
    # At the ends the exact bounds are 0 and 1, which rounding misses by a hair.
    low = 0.0 if failed == 0 else max(0.0, (middle - spread) / scale)
    high = 1.0 if failed == tried else min(1.0, (middle + spread) / scale)
    return low, high
