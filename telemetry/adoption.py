"""Adoption: which version the devices of a model hold, day by day and now, how many ever installed one, what failed.

``docs/telemetry.md`` has the definitions in words. The questions are plain SQL over ``device_days``, ``device_states``,
``devices`` and ``raw_events``, understood by every version of ClickHouse since 18.16. Days are days of UTC by the
server's clock. ``queries.py`` has the other questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import groupby
from typing import Any, Final

from telemetry.kept_figures import DAY_SECONDS, Figure, PeriodQuestion, figures, moment
from telemetry.subject import MAX_DAYS, Days, ModelName, Subject, last_days
from telemetry.warehouse import Row, Warehouse

__all__ = [
    "MAX_DAYS",
    "MAX_FAILURES",
    "AdoptionReport",
    "DayAdoption",
    "Failure",
    "ModelName",
    "VersionShare",
    "adoption",
    "held_now",
]

MAX_FAILURES: Final = 100
"""Pairs of version and error that are listed, most frequent first; ``failures_total`` counts all."""

# Of each device on each day, and of each device at last: the version held. A device that reported under several names
# counts once, for what it said last.
_DEVICE_DAYS: Final = """
    SELECT day, device_id, argMaxMerge(version) AS held
    FROM device_days
    WHERE $subject AND day >= {first_day} AND day <= {last_day}
    GROUP BY day, device_id"""
_DEVICES: Final = """
    SELECT argMax(held, if(kind % 2 = 1, arrival, toUInt64(0))) AS held_last, toDate(max(received_at)) AS last_day
    FROM device_states
    WHERE $subject
    GROUP BY device"""

BY_DAY: Final = """
SELECT toUInt32(toRelativeDayNum(day) * 86400) AS start, toString(held) AS value, [count()] AS numbers
FROM ($days
) AS device_day
GROUP BY day, held
"""

NOW: Final = """
SELECT held_last AS version, count() AS devices
FROM ($devices
) AS device
WHERE last_day >= {first_day}
GROUP BY held_last
ORDER BY version
"""

# The same for the versions that are asked about alone: what devices say may be anything, and stays out of the answer.
HELD: Final = """
SELECT if(held_last IN {versions}, held_last, toUInt32(0)) AS known, count() AS devices
FROM ($devices
) AS device
WHERE last_day >= {first_day}
GROUP BY known
ORDER BY devices DESC, known DESC
"""

INSTALLATIONS: Final = """
SELECT uniqExact(cityHash64(device_id)) AS installations
FROM devices
WHERE $subject AND finalizeAggregation(activated) = 1
"""

# The same where a name was shared: $own says which held versions are the model's. What a device holds under a newer
# name counts before what it holds under an older one.
_SHARED_DEVICE_DAYS: Final = """
    SELECT day, device_id, argMin(held_here, place) AS held
    FROM (
        SELECT day, device_id, model, argMaxMerge(version) AS held_here, $place AS place
        FROM device_days
        WHERE $subject AND day >= {first_day} AND day <= {last_day}
        GROUP BY day, device_id, model
    ) AS named
    WHERE $own
    GROUP BY day, device_id"""
_SHARED_DEVICES: Final = """
    SELECT argMin(held_here, place) AS held_last, max(heard) AS last_day
    FROM (
        SELECT device, model, argMax(held, if(kind % 2 = 1, arrival, toUInt64(0))) AS held_here,
            toDate(max(received_at)) AS heard, $place AS place
        FROM device_states
        WHERE $subject
        GROUP BY device, model
    ) AS named
    WHERE $own
    GROUP BY device"""

# That a device has activated a version does not say whose; that it has held one of these does.
SHARED_INSTALLATIONS: Final = """
SELECT uniqExact(device_id) AS installations
FROM (
    SELECT day, device_id, model, argMaxMerge(version) AS held_here
    FROM device_days
    WHERE $subject
    GROUP BY day, device_id, model
) AS named
WHERE held_here > 0 AND ($own) AND device_id IN (
    SELECT device_id
    FROM devices
    WHERE $subject
    GROUP BY device_id
    HAVING maxMerge(activated) = 1
)
"""

FAILURES: Final = """
SELECT ifNull(version, toUInt32(0)) AS failed_version, error, count() AS failures, uniqExact(device_id) AS devices
FROM raw_events FINAL
WHERE $subject AND type = 'error' AND day >= {first_day} AND day <= {last_day} AND ($own)
GROUP BY failed_version, error
ORDER BY failures DESC, failed_version DESC, error ASC
LIMIT {max_failures}
"""

FAILURES_TOTAL: Final = """
SELECT count() AS failures
FROM raw_events FINAL
WHERE $subject AND type = 'error' AND day >= {first_day} AND day <= {last_day} AND ($own)
"""


@dataclass(frozen=True, slots=True)
class VersionShare:
    """Devices that hold a version. ``version`` is None for those that hold none; ``share`` is between 0 and 1."""

    version: int | None
    devices: int
    share: float


@dataclass(frozen=True, slots=True)
class DayAdoption:
    """One day: the devices that were heard of, by the version each held at its last event of the day."""

    day: date
    active_devices: int
    versions: tuple[VersionShare, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """How often a version failed with an error, and on how many devices."""

    version: int | None
    error: str
    count: int
    devices: int


@dataclass(frozen=True, slots=True)
class AdoptionReport:
    """The answer. ``by_day`` has the days with at least one active device; ``now`` covers devices heard of in them."""

    model: str
    environment: str
    first_day: date
    last_day: date
    by_day: tuple[DayAdoption, ...]
    now: tuple[VersionShare, ...]
    installations: int
    failures: tuple[Failure, ...]
    failures_total: int

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {
            "model": self.model,
            "environment": self.environment,
            "first_day": self.first_day.isoformat(),
            "last_day": self.last_day.isoformat(),
            "by_day": [
                {
                    "day": day.day.isoformat(),
                    "active_devices": day.active_devices,
                    "versions": [_share_json(share) for share in day.versions],
                }
                for day in self.by_day
            ],
            "now": [_share_json(share) for share in self.now],
            "installations": self.installations,
            "failures": [
                {"version": one.version, "error": one.error, "count": one.count, "devices": one.devices}
                for one in self.failures
            ],
            "failures_total": self.failures_total,
        }


async def adoption(
    warehouse: Warehouse,
    organization_id: str,
    application_id: str,
    environment: str,
    names: Sequence[ModelName],
    days: int,
    now: datetime,
) -> AdoptionReport:
    """Answer how a model's versions are adopted in one environment.

    Args:
        environment: its name, as edges write it.
        names: all that the model has had, as devices write them; the present one first, then the newest.
        days: how many days back, today included; 1 to ``MAX_DAYS``.
        now: the present, with its zone; the last day is its day in UTC.

    Raises:
        ValueError: ``days`` is out of range.
        WarehouseUnavailable: ClickHouse cannot answer; that is not the same as "no data".
    """
    subject, window = Subject(organization_id, application_id, environment, names), last_days(days, now)
    values = subject.values() | window.values() | {"max_failures": MAX_FAILURES}
    failed = subject.condition("ifNull(version, toUInt32(0))", "day")
    failures = await warehouse.query(subject.sql(FAILURES, own=failed), values)
    (total,) = await warehouse.query(subject.sql(FAILURES_TOTAL, own=failed), values)
    return AdoptionReport(
        model=names[0].name,
        environment=environment,
        first_day=window.first,
        last_day=window.last,
        by_day=await held_by_day(warehouse, subject, window),
        now=await mix_now(warehouse, subject, window),
        installations=await devices_ever(warehouse, subject),
        failures=tuple(map(_failure, failures)),
        failures_total=int(total["failures"]),
    )


async def held_now(
    warehouse: Warehouse,
    organization_id: str,
    application_id: str,
    environment: str,
    names: Sequence[ModelName],
    versions: Sequence[int],
    days: int,
    now: datetime,
) -> tuple[VersionShare, ...]:
    """Answer which of some versions the active devices hold now: one question, and a row a version at most.

    Args:
        environment: its name, as edges write it.
        names: as for ``adoption``.
        versions: numbers of the model's versions, at least one; a device that holds another counts under None.
        days: a device that was heard of in so many days, today included, is active; 1 to ``MAX_DAYS``.
        now: the present, with its zone.

    Returns:
        The shares, most devices first.

    Raises:
        ValueError: ``days`` is out of range, or there are no versions.
        WarehouseUnavailable: ClickHouse cannot answer; that is not the same as "no devices".
    """
    subject, window = Subject(organization_id, application_id, environment, names), last_days(days, now)
    values = subject.values() | window.values() | {"versions": list(versions)}
    rows = await warehouse.query(subject.sql(HELD, devices=_devices(subject)), values)
    total = sum(int(row["devices"]) for row in rows)
    return tuple(
        VersionShare(int(row["known"]) or None, int(row["devices"]), int(row["devices"]) / total) for row in rows
    )


async def held_by_day(warehouse: Warehouse, subject: Subject, days: Days) -> tuple[DayAdoption, ...]:
    """Answer how many devices held each version on each day, by the last event of the day that tells.

    Raises:
        WarehouseUnavailable: ClickHouse cannot answer.
    """
    by_day = PeriodQuestion("held by day", DAY_SECONDS, subject.sql(BY_DAY, days=_days(subject)))
    return tuple(
        DayAdoption(moment(start).date(), sum(share.devices for share in held), held)
        for start, held in shares_by_period(await figures(warehouse, subject, by_day, *days.seconds()))
    )


async def mix_now(warehouse: Warehouse, subject: Subject, days: Days) -> tuple[VersionShare, ...]:
    """Answer how many devices hold each version now, over the devices that were heard of since the window's first day.

    Raises:
        WarehouseUnavailable: ClickHouse cannot answer.
    """
    rows = await warehouse.query(subject.sql(NOW, devices=_devices(subject)), subject.values() | days.values())
    return shares((int(row["version"]), int(row["devices"])) for row in rows)


async def devices_ever(warehouse: Warehouse, subject: Subject) -> int:
    """Answer how many devices ever activated the model.

    Raises:
        WarehouseUnavailable: ClickHouse cannot answer.
    """
    text = SHARED_INSTALLATIONS if subject.shares_names else INSTALLATIONS
    sql = subject.sql(text, own=subject.condition("held_here", "day"))
    (row,) = await warehouse.query(sql, subject.values())
    return int(row["installations"])


def _days(subject: Subject) -> str:
    """Return the SQL for the version of each device on each day; the cheaper one when no other model had the names."""
    text = _SHARED_DEVICE_DAYS if subject.shares_names else _DEVICE_DAYS
    return subject.sql(text, own=subject.condition("held_here", "day"))


def _devices(subject: Subject) -> str:
    """Return the SQL for the version of each device at last; the cheaper one when no other model had the names."""
    text = _SHARED_DEVICES if subject.shares_names else _DEVICES
    return subject.sql(text, own=subject.condition("held_here", "heard"))


def shares_by_period(found: Iterable[Figure]) -> Iterator[tuple[int, tuple[VersionShare, ...]]]:
    """Turn figures of versions, in the order of their periods, into shares."""
    for start, of_period in groupby(found, key=lambda one: one.start):
        yield start, shares((int(one.value), one.numbers[0]) for one in of_period)


def shares(held: Iterable[tuple[int, int]]) -> tuple[VersionShare, ...]:
    """Turn versions with their devices into shares of the sum, the newest version first and "none" last."""
    counts = sorted(held, reverse=True)
    total = sum(devices for _, devices in counts)
    return tuple(VersionShare(version or None, devices, devices / total) for version, devices in counts)


def _failure(row: Row) -> Failure:
    version = int(row["failed_version"]) or None
    return Failure(version, str(row["error"]), int(row["failures"]), int(row["devices"]))


def _share_json(share: VersionShare) -> dict[str, Any]:
    return {"version": share.version, "devices": share.devices, "share": share.share}
