"""The questions that decide whether a release goes on, a function each: whose figures and which days in, figures out.

``docs/telemetry.md`` has the definitions in words. "No data" is an empty answer; ``WarehouseUnavailable`` says that
ClickHouse cannot answer. Days and hours are those of UTC by the server's clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby, pairwise, repeat
from typing import Any, Final, Literal, get_args

from telemetry.adoption import DayAdoption, VersionShare, devices_ever, held_by_day, mix_now, shares_by_period
from telemetry.kept_figures import DAY_SECONDS, HOUR_SECONDS, IN_HOURS, Figure, PeriodQuestion, figures, moment
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
    "last_arrival",
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

ARRIVING_SECONDS: Final = 2
"""After the time of an insert its rows are in all tables, as far as who follows a page can tell."""

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


_WINDOW: Final = OF_SUBJECT + " AND day >= {first_day} AND day <= {last_day}"

_HELD: Final = "argMax(held, if(tells = 1, arrival, toUInt64(0)))"
_DAY: Final = "toUInt32(intDiv(toUnixTimestamp(hour), 86400) * 86400)"
_HOUR: Final = "toUInt32(toUnixTimestamp(hour))"

# One number for period and device together: 18.16 groups by a number in half the time of a pair.
_BY_PERIOD: Final = """
SELECT start, toString(of_device) AS value, [count()] AS numbers
FROM (
    SELECT any($period) AS start, $what AS of_device
    FROM device_hours
    WHERE $hours
    GROUP BY bitXor(device, intHash64($period))
) AS device_period
GROUP BY start, of_device
"""

# The same where a name was shared: what a device said under a newer name counts before what it said under an older one.
_SHARED_BY_PERIOD: Final = """
SELECT start, toString(of_device) AS value, [count()] AS numbers
FROM (
    SELECT start, device, argMin(said, place) AS of_device
    FROM (
        SELECT $period AS start, device, model, $held AS held_here, $what AS said, $place AS place,
            toDate(max(hour)) AS day
        FROM device_hours
        WHERE $hours
        GROUP BY start, device, model
    ) AS named
    WHERE $own
    GROUP BY start, device
) AS device_period
GROUP BY start, of_device
"""

_ACTIVATIONS: Final = """
SELECT version, uniqExact(device) AS devices
FROM attempts
WHERE $subject AND bitAnd(steps, 4) > 0 AND ($own)
GROUP BY version
ORDER BY version DESC
LIMIT $max_versions
"""

# Devices that are still heard of after the window may have been active in it.
_ACTIVE: Final = """
SELECT uniqExact(device) AS within, uniqExactIf(device, received_at >= toDateTime({end}, 'UTC')) AS later
FROM device_states
WHERE $subject AND received_at >= toDateTime({first}, 'UTC')
"""

_ACTIVE_BEFORE: Final = """
SELECT uniqExact(cityHash64(device_id)) AS within
FROM device_days
WHERE $window
"""

# How far devices came; steps has a bit each for download (1), verify (2), activate (4) and error (8).
_STEPS: Final = """
SELECT of_version AS version, count() AS tried, countIf(bitAnd(came, 7) > 0) AS downloaded,
    countIf(bitAnd(came, 6) > 0) AS verified, countIf(bitAnd(came, 4) > 0) AS activated,
    countIf(bitAnd(came, 12) = 8) AS failed_for_good
FROM (
    SELECT any(version) AS of_version, groupBitOr(steps) AS came
    FROM attempts
    WHERE $window AND ($own)
    GROUP BY bitXor(device, intHash64(version))
) AS attempt
GROUP BY of_version
ORDER BY version DESC
LIMIT $max_versions
"""

_FAILED: Final = """
SELECT version, uniqExact(device) AS tried, uniqExactIf(device, bitAnd(steps, 8) > 0) AS failed
FROM attempts
WHERE $window AND ($own)
GROUP BY version
ORDER BY version DESC
LIMIT $max_versions
"""

_REASONS: Final = """
SELECT version, error, uniqExact(event) AS errors, uniqExact(device) AS devices
FROM updates
WHERE $window AND type = 'error' AND version > 0 AND ($own)
GROUP BY version, error
ORDER BY version DESC, errors DESC, error
"""

# Downloads are many groups, which two threads join more quickly when they are divided early.
_MANY_GROUPS: Final = "SETTINGS group_by_two_level_threshold = 10000"

# The row of all versions together has the number 0, and is there without downloads too.
_TIMES: Final = """
SELECT downloaded AS number, count() AS downloads, quantilesExact(0.5, 0.95)(took) AS percentiles
FROM (
    SELECT any(version) AS downloaded, any(duration_ms) AS took
    FROM updates
    WHERE $window AND type = 'download' AND version > 0 AND duration_ms >= 0 AND ($own)
    GROUP BY event
) AS download
GROUP BY downloaded WITH ROLLUP
ORDER BY number > 0, number DESC
LIMIT $max_versions_and_all
$many_groups
"""

# A download counts on the day of its last delivery.
_BYTES: Final = """
SELECT any(last_day) AS of_day, any(coded) AS encoded, count() AS downloads, sum(sent) AS bytes_sent,
    sum(whole) AS bytes_whole, sum(if(whole > sent, toUInt64(whole - sent), toUInt64(0))) AS bytes_left_out
FROM (
    SELECT max(day) AS last_day, any(encoding) AS coded, any(bytes) AS sent, any(full_bytes) AS whole
    FROM updates
    WHERE $window AND type = 'download' AND ($own)
    GROUP BY event
) AS download
GROUP BY bitXor(cityHash64(coded), intHash64(toUInt32(last_day)))
ORDER BY of_day, encoded
$many_groups
"""

_LAST_ARRIVAL: Final = """
SELECT toUnixTimestamp(maxMerge(inserted_at)) AS inserted, toUnixTimestamp(now()) AS present
FROM arrivals
WHERE $hours
"""
# Seconds since 1970 fill 32 bits.
_NEVER: Final = 2**32 - 1

_ACTIVE_SINCE: Final = """
SELECT uniqExact(device) AS devices
FROM device_states
WHERE $subject AND received_at >= toDateTime({active_since}, 'UTC')
"""

# earlier: devices that activated the version before the deploy alone; the others are active by that.
_ADOPTED: Final = """
SELECT count() AS devices, countIf(last < {first_day}) AS earlier, arraySort(groupArray(second)) AS seconds,
    [arrayElement(seconds, {needed_0}), arrayElement(seconds, {needed_1}), arrayElement(seconds, {needed_2})] AS reached
FROM (
    SELECT intDiv(bitNot(max(earliness)), 1000000) AS second, max(day) AS last
    FROM attempts
    WHERE $subject AND version = {version} AND bitAnd(steps, 4) > 0 AND ($own)$active
    GROUP BY device
) AS device
"""

_IS_ACTIVE: Final = """ AND device IN (
        SELECT device FROM device_states WHERE $subject AND received_at >= toDateTime({active_since}, 'UTC')
    )"""

_TRYING: Final = """
    SELECT device, intDiv(bitNot(max(earliness)), 1000000) AS since, groupBitOr(steps) AS came
    FROM attempts
    WHERE $subject AND version = {version} AND ($own)
    GROUP BY device
    HAVING bitAnd(came, 4) = 0 AND since <= {before}
"""

# A device that holds the version all the same, as its checks say, lost the event of its activation. Of each reason the
# devices that are stuck for longest are told as texts, which every engine sorts alike: seconds have ten digits.
_STUCK: Final = """
SELECT multiIf(bitAnd(came, 2) > 0, 2, bitAnd(came, 1) > 0, 1, 0) AS step, last_error, count() AS devices,
    arraySlice(arraySort(groupArray(
        [toString(since), id, toString(holds), toString(last_seen)]
    )), 1, {limit}) AS oldest
FROM (
    SELECT device, since, came, id, holds, last_seen
    FROM (
        SELECT device, any(device_id) AS id, argMax(held, if(kind % 2 = 1, arrival, toUInt64(0))) AS holds,
            toUnixTimestamp(max(received_at)) AS last_seen
        FROM device_states
        WHERE $subject
        GROUP BY device
        HAVING last_seen >= {active_since} AND holds != {version}
    ) AS state ANY INNER JOIN ($trying) AS attempt USING device
) AS stuck ANY LEFT JOIN (
    SELECT device, argMax(error, arrival) AS last_error
    FROM updates
    WHERE $subject AND version = {version} AND type = 'error' AND ($own)
    GROUP BY device
) AS failed USING device
GROUP BY step, last_error
ORDER BY devices DESC, step, last_error
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
    first = int(deployed_at.timestamp()) // HOUR_SECONDS * HOUR_SECONDS
    end = min(first + hours * HOUR_SECONDS, int(now.timestamp()) + 1)
    by_hour = PeriodQuestion("held by hour", HOUR_SECONDS, _by_period(subject, _HOUR, _HELD))
    found = await figures(warehouse, subject, by_hour, first, max(first, end))
    return tuple(
        HourAdoption(moment(start), (start - first) // HOUR_SECONDS, sum(share.devices for share in held), held)
        for start, held in shares_by_period(found)
    )


async def active_devices(
    warehouse: Warehouse, subject: Subject, days: Days, dimension: Dimension
) -> tuple[DayDevices, ...]:
    """Answer how many devices were active on each day, by a dimension; days without devices are left out.

    Raises:
        WarehouseUnavailable: ClickHouse cannot answer.
    """
    latest = f"argMax({dimension}, arrival)"
    by_day = PeriodQuestion(f"{dimension} by day", DAY_SECONDS, _by_period(subject, _DAY, latest))
    found = await figures(warehouse, subject, by_day, *days.seconds())
    return tuple(_day_devices(start, list(of_day)) for start, of_day in groupby(found, lambda one: one.start))


async def installations(warehouse: Warehouse, subject: Subject) -> Installations:
    """Answer how many devices ever activated the model.

    Raises:
        WarehouseUnavailable: ClickHouse cannot answer.
    """
    total = await devices_ever(warehouse, subject)
    rows = await warehouse.query(_sql(_ACTIVATIONS, subject), subject.values())
    return Installations(total, tuple(VersionDevices(int(row["version"]), int(row["devices"])) for row in rows))


async def last_arrival(warehouse: Warehouse, subject: Subject, since: datetime) -> str:
    """Answer what is another text whenever more has arrived for the hours since a moment.

    An insert tells its time when it begins, and its rows are in all tables a moment later. So the text changes once
    more when that moment is over, for whoever has asked in between.

    Raises:
        WarehouseUnavailable: ClickHouse cannot answer.
    """
    values = subject.values() | {"first": int(since.timestamp()) - HOUR_SECONDS, "end": _NEVER}
    (row,) = await warehouse.query(_sql(_LAST_ARRIVAL, subject), values)
    inserted = int(row["inserted"])
    return f"{inserted} {'over' if int(row['present']) - inserted > ARRIVING_SECONDS else 'arriving'}"


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
    values["first"], values["end"] = days.seconds()
    (active,) = await warehouse.query(_sql(_ACTIVE, subject), values)
    if int(active["later"]):
        (active,) = await warehouse.query(_sql(_ACTIVE_BEFORE, subject), values)
    rows = await warehouse.query(_sql(_STEPS, subject), values)
    return tuple(_funnel(int(active["within"]), row) for row in rows)


async def failure_rates(warehouse: Warehouse, subject: Subject, days: Days) -> tuple[FailureRate, ...]:
    """Answer how often each version that was tried within the window failed, and why; the newest first.

    Raises:
        WarehouseUnavailable: ClickHouse cannot answer.
    """
    values = subject.values() | days.values()
    tried = await warehouse.query(_sql(_FAILED, subject), values)
    rows = await warehouse.query(_sql(_REASONS, subject), values)
    reasons = {version: list(of) for version, of in groupby(rows, lambda row: int(row["version"]))}
    return tuple(_failure_rate(row, reasons.get(int(row["version"]), [])) for row in tried)


async def download_times(warehouse: Warehouse, subject: Subject, days: Days) -> DownloadTimes:
    """Answer how long downloads took within the window.

    Raises:
        WarehouseUnavailable: ClickHouse cannot answer.
    """
    rows = await warehouse.query(_sql(_TIMES, subject), subject.values() | days.values())
    times = [
        DownloadTime(int(row["number"]) or None, int(row["downloads"]), *map(float, row["percentiles"])) for row in rows
    ]
    overall = next((time for time in times if time.version is None and time.downloads), None)
    return DownloadTimes(overall, tuple(time for time in times if time.version is not None))


async def bytes_sent(warehouse: Warehouse, subject: Subject, days: Days) -> BytesSent:
    """Answer how many bytes downloads took within the window, and how many patches saved.

    Raises:
        WarehouseUnavailable: ClickHouse cannot answer.
    """
    rows = await warehouse.query(_sql(_BYTES, subject), subject.values() | days.values())
    by_day = [(date.fromisoformat(day), list(of)) for day, of in groupby(rows, lambda row: str(row["of_day"]))]
    ordered = sorted(rows, key=lambda row: str(row["encoded"]))
    by_encoding = [(name, list(of)) for name, of in groupby(ordered, lambda row: str(row["encoded"]))]
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
    first_day = deployed_at.astimezone(UTC).date()
    values = subject.values() | {"version": version, "first_day": first_day}
    values |= {"active_since": Days(first_day, first_day).seconds()[0]}
    (row,) = await warehouse.query(_sql(_ACTIVE_SINCE, subject), values)
    active = int(row["devices"])
    needed = [math.ceil(active * share) for share in SHARES_TO_REACH]
    values |= {f"needed_{place}": max(number, 1) for place, number in enumerate(needed)}
    (row,) = await warehouse.query(_sql(_ADOPTED, subject, active=""), values)
    if int(row["earlier"]):
        (row,) = await warehouse.query(_sql(_ADOPTED, subject, active=_sql(_IS_ACTIVE, subject)), values)
    reached = tuple(map(_reach, SHARES_TO_REACH, row["reached"], repeat(deployed_at)))
    return TimeToAdopt(version, deployed_at, active, int(row["devices"]), reached)


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
    values = subject.values() | {
        "version": version,
        "before": int((now - after).timestamp()),
        "active_since": last_days(days, now).seconds()[0],
        "limit": limit,
    }
    rows = await warehouse.query(_sql(_STUCK, subject, trying=_sql(_TRYING, subject)), values)
    reasons = [StuckReason(STEPS[int(row["step"])], str(row["last_error"]), int(row["devices"])) for row in rows]
    oldest = sorted((texts, reason) for row, reason in zip(rows, reasons, strict=True) for texts in row["oldest"])
    devices = tuple(_stuck_device(texts, reason) for texts, reason in oldest[:limit])
    return Stuck(version, sum(reason.devices for reason in reasons), tuple(reasons[:MAX_REASONS]), devices)


def _by_period(subject: Subject, period: str, what: str) -> str:
    """Return a ``PeriodQuestion``'s SQL that counts the devices of each period by what they said last in it."""
    text = _SHARED_BY_PERIOD if subject.shares_names else _BY_PERIOD
    return _sql(text, subject, "held_here", period=period, what=what, held=_HELD)


def _sql(text: str, subject: Subject, version: str = "version", **parts: str) -> str:
    """Complete a question.

    Args:
        version: the column that says whose a row is, where another model had one of the names (``Subject.condition``).
    """
    return subject.sql(
        text,
        window=_WINDOW,
        hours=IN_HOURS,
        own=subject.condition(version, "day"),
        max_versions=str(MAX_VERSIONS),
        many_groups=_MANY_GROUPS,
        max_versions_and_all=str(MAX_VERSIONS + 1),
        **parts,
    )


def _day_devices(start: int, found: list[Figure]) -> DayDevices:
    counts = sorted((-one.numbers[0], one.value) for one in found)
    total = -sum(negative for negative, _ in counts)
    values = [ValueDevices(value, -negative, -negative / total) for negative, value in counts[:MAX_VALUES]]
    return DayDevices(moment(start).date(), total, tuple(values), total - sum(value.devices for value in values))


def _funnel(checked: int, row: Row) -> Funnel:
    tried = int(row["tried"])
    reached = [int(row["downloaded"]), int(row["verified"]), int(row["activated"])]
    # A device may have checked before the window began.
    counts = [max(checked, reached[0]), *reached]
    lost = [before - after for before, after in pairwise(counts)] + [0]
    leaks = [before - after for before, after in pairwise([tried, *reached])]
    leak = STEPS[leaks.index(max(leaks))] if max(leaks) > 0 else None
    return Funnel(
        int(row["version"]), tuple(map(FunnelStep, STEPS, counts, lost)), leak, tried, int(row["failed_for_good"])
    )


def _failure_rate(row: Row, reasons: list[Row]) -> FailureRate:
    tried, failed = int(row["tried"]), int(row["failed"])
    low, high = wilson(failed, tried)
    found = [FailureReason(str(one["error"]), int(one["errors"]), int(one["devices"])) for one in reasons]
    errors = sum(reason.count for reason in found)
    rate = failed / tried
    return FailureRate(int(row["version"]), tried, failed, rate, low, high, errors, tuple(found[:MAX_REASONS]))


def _sums(rows: Iterable[Row]) -> tuple[int, int, int, int]:
    downloads = sent = whole = saved = 0
    for row in rows:
        downloads += int(row["downloads"])
        sent += int(row["bytes_sent"])
        whole += int(row["bytes_whole"])
        saved += int(row["bytes_left_out"]) if row["encoded"] in PATCH_ENCODINGS else 0
    return downloads, sent, whole, saved


def _reach(share: float, second: Any, deployed_at: datetime) -> Reach:
    """Return when the share was reached, given the second at which enough devices had activated, 0 for not yet."""
    if not int(second):
        return Reach(share, None, None)
    # Devices may have had the version from an earlier deploy.
    at = max(moment(int(second)), deployed_at)
    return Reach(share, at, round((at - deployed_at).total_seconds()))


def _stuck_device(texts: Sequence[str], reason: StuckReason) -> StuckDevice:
    since, device_id, held, last_seen = texts
    return StuckDevice(
        device_id=device_id,
        held=int(held) or None,
        since=moment(int(since)),
        last_seen=moment(int(last_seen)),
        step=reason.step,
        error=reason.error,
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
