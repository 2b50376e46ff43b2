"""Adoption: which version the devices of a model hold, day by day and now, how many ever installed one, what failed.

``docs/telemetry.md`` has the definitions in words. The questions are plain SQL over ``device_days``, ``devices`` and
``events``, understood by every version of ClickHouse since 18.16. Days are days of UTC by the server's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Any, Final

from telemetry.literals import Value
from telemetry.warehouse import Row, Warehouse

MAX_DAYS: Final = 730
"""The daily table is kept for two years."""
MAX_FAILURES: Final = 100
"""Pairs of version and error that are listed, most frequent first; ``failures_total`` counts all."""

BY_DAY: Final = """
SELECT day, held, count() AS devices
FROM (
    SELECT day, device_id, argMaxMerge(version) AS held
    FROM device_days
    WHERE organization_id = {organization_id} AND application_id = {application_id}
      AND environment = {environment} AND model = {model} AND day >= {first_day} AND day <= {last_day}
    GROUP BY day, device_id
) AS device_day
GROUP BY day, held
ORDER BY day, held
"""

NOW: Final = """
SELECT held, count() AS devices
FROM (
    SELECT device_id, argMaxMerge(version) AS held, maxMerge(last_day) AS heard
    FROM devices
    WHERE organization_id = {organization_id} AND application_id = {application_id}
      AND environment = {environment} AND model = {model}
    GROUP BY device_id
) AS device
WHERE heard >= {first_day}
GROUP BY held
ORDER BY held
"""

INSTALLATIONS: Final = """
SELECT count() AS installations
FROM (
    SELECT device_id, maxMerge(activated) AS installed
    FROM devices
    WHERE organization_id = {organization_id} AND application_id = {application_id}
      AND environment = {environment} AND model = {model}
    GROUP BY device_id
) AS device
WHERE installed = 1
"""

FAILURES: Final = """
SELECT ifNull(version, toUInt32(0)) AS failed_version, error, count() AS failures, uniqExact(device_id) AS devices
FROM raw_events FINAL
WHERE organization_id = {organization_id} AND application_id = {application_id}
  AND environment = {environment} AND model = {model} AND type = 'error' AND day >= {first_day} AND day <= {last_day}
GROUP BY failed_version, error
ORDER BY failures DESC, failed_version DESC, error ASC
LIMIT {max_failures}
"""

FAILURES_TOTAL: Final = """
SELECT count() AS failures
FROM raw_events FINAL
WHERE organization_id = {organization_id} AND application_id = {application_id}
  AND environment = {environment} AND model = {model}
  AND type = 'error' AND day >= {first_day} AND day <= {last_day}
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
    model: str,
    days: int,
    now: datetime,
) -> AdoptionReport:
    """Answer how a model's versions are adopted in one environment.

    Args:
        environment, model: names, as devices and edges write them.
        days: how many days back, today included; 1 to ``MAX_DAYS``.
        now: the present, with its zone; the last day is its day in UTC.

    Raises:
        ValueError: ``days`` is out of range.
        WarehouseUnavailable: ClickHouse cannot answer; that is not the same as "no data".
    """
    if not 1 <= days <= MAX_DAYS:
        raise ValueError(f"days is between 1 and {MAX_DAYS}")
    last_day = now.astimezone(UTC).date()
    first_day = last_day - timedelta(days=days - 1)
    values: Mapping[str, Value] = {
        "organization_id": organization_id,
        "application_id": application_id,
        "environment": environment,
        "model": model,
        "first_day": first_day,
        "last_day": last_day,
        "max_failures": MAX_FAILURES,
    }
    return AdoptionReport(
        model=model,
        environment=environment,
        first_day=first_day,
        last_day=last_day,
        by_day=_by_day(await warehouse.query(BY_DAY, values)),
        now=_shares(await warehouse.query(NOW, values)),
        installations=int((await warehouse.query(INSTALLATIONS, values))[0]["installations"]),
        failures=tuple(_failure(row) for row in await warehouse.query(FAILURES, values)),
        failures_total=int((await warehouse.query(FAILURES_TOTAL, values))[0]["failures"]),
    )


def _by_day(rows: list[Row]) -> tuple[DayAdoption, ...]:
    days = []
    for day, of_day in groupby(rows, key=lambda row: str(row["day"])):
        shares = _shares(of_day)
        days.append(DayAdoption(date.fromisoformat(day), sum(share.devices for share in shares), shares))
    return tuple(days)


def _shares(rows: Iterable[Row]) -> tuple[VersionShare, ...]:
    """Turn device counts into shares of their sum, the newest version first and "none" last."""
    counts = sorted(((int(row["held"]), int(row["devices"])) for row in rows), reverse=True)
    total = sum(devices for _, devices in counts)
    return tuple(VersionShare(held or None, devices, devices / total) for held, devices in counts)


def _failure(row: Row) -> Failure:
    version = int(row["failed_version"]) or None
    return Failure(version, str(row["error"]), int(row["failures"]), int(row["devices"]))


def _share_json(share: VersionShare) -> dict[str, Any]:
    return {"version": share.version, "devices": share.devices, "share": share.share}
