"""The questions that decide whether a release goes on, each described once; `skafos.client` asks them.

``org``, ``app``, ``model`` and ``environment`` are names or ids; days are of UTC, today included. A question without
data has an empty answer; when ClickHouse cannot be asked, all raise `UnavailableError`.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

from skafos.calls import Call, Steps, ask
from skafos.exceptions import InvalidParamError
from skafos.figures import (
    ActiveDevices,
    AdoptionCurve,
    BytesSent,
    DownloadTimes,
    FailureRates,
    Funnel,
    HourlyAdoption,
    Installations,
    StuckDevices,
    TimeToAdopt,
    VersionMix,
)
from skafos.operations import of_model

T = TypeVar("T")
Value = str | int | datetime | None


def adoption_curve(org: str, app: str, model: str, *, environment: str, days: int = 30) -> Steps[AdoptionCurve]:
    """Return which share of the active devices held each version, by day."""
    return _ask((org, app, model), "curve", AdoptionCurve, environment=environment, days=days)


def hourly_adoption(
    org: str,
    app: str,
    model: str,
    *,
    environment: str,
    version: int | None = None,
    since: datetime | None = None,
    hours: int = 72,
) -> Steps[HourlyAdoption]:
    """Return the same by hour since a version was first deployed there.

    Args:
        version: the one that was deployed last unless given.
        since: another moment to count from, with its zone.
        hours: how many, the first included.
    """
    asked: dict[str, Value] = {"version": version, "since": since, "hours": hours}
    return _ask((org, app, model), "hours", HourlyAdoption, environment=environment, **asked)


def active_devices(
    org: str, app: str, model: str, *, environment: str, dimension: str = "os_version", days: int = 30
) -> Steps[ActiveDevices]:
    """Return the active devices by day and by a dimension.

    Args:
        dimension: ``os``, ``os_version``, ``device_model``, ``app_version`` or ``locale``.
    """
    return _ask((org, app, model), "devices", ActiveDevices, environment=environment, dimension=dimension, days=days)


def installations(org: str, app: str, model: str, *, environment: str) -> Steps[Installations]:
    """Return how many devices ever activated the model."""
    return _ask((org, app, model), "installations", Installations, environment=environment)


def version_mix(org: str, app: str, model: str, *, environment: str, days: int = 30) -> Steps[VersionMix]:
    """Return which versions are held now by the devices that were active in the last days."""
    return _ask((org, app, model), "mix", VersionMix, environment=environment, days=days)


def funnel(org: str, app: str, model: str, *, environment: str, days: int = 30) -> Steps[Funnel]:
    """Return how far devices came on the way to each version, and where most of them stopped."""
    return _ask((org, app, model), "funnel", Funnel, environment=environment, days=days)


def failure_rates(org: str, app: str, model: str, *, environment: str, days: int = 30) -> Steps[FailureRates]:
    """Return how often each version failed, with the bounds of the rate, and why."""
    return _ask((org, app, model), "failures", FailureRates, environment=environment, days=days)


def download_times(org: str, app: str, model: str, *, environment: str, days: int = 30) -> Steps[DownloadTimes]:
    """Return how long downloads took, at the median and at the 95th percentile."""
    return _ask((org, app, model), "download-times", DownloadTimes, environment=environment, days=days)


def bytes_sent(org: str, app: str, model: str, *, environment: str, days: int = 30) -> Steps[BytesSent]:
    """Return how many bytes downloads took, and how many patches saved."""
    return _ask((org, app, model), "bytes", BytesSent, environment=environment, days=days)


def time_to_adopt(
    org: str, app: str, model: str, *, environment: str, version: int | None = None, since: datetime | None = None
) -> Steps[TimeToAdopt]:
    """Return how long a version took from its first deploy there to 50, 90 and 99 % of the active devices.

    Args:
        version: the one that was deployed last unless given.
        since: another moment to count from, with its zone.
    """
    asked: dict[str, Value] = {"version": version, "since": since}
    return _ask((org, app, model), "time-to-adopt", TimeToAdopt, environment=environment, **asked)


def stuck_devices(
    org: str,
    app: str,
    model: str,
    *,
    environment: str,
    version: int | None = None,
    hours: int = 24,
    days: int = 14,
    limit: int = 100,
) -> Steps[StuckDevices]:
    """Return which devices are stuck on the way to a version, since when, and why.

    Args:
        version: the one that was deployed last unless given.
        hours: for how long a device has tried, at least.
        days: only devices that were heard of in so many days.
        limit: devices to list; all are counted.
    """
    asked: dict[str, Value] = {"version": version, "hours": hours, "days": days, "limit": limit}
    return _ask((org, app, model), "stuck", StuckDevices, environment=environment, **asked)


def _ask(names: tuple[str, str, str], question: str, kind: type[T], **asked: Value) -> Steps[T]:
    query = {name: _text(value) for name, value in asked.items() if value is not None}
    return ask(Call("GET", of_model(*names, "adoption", question), query=query), kind)


def _text(value: Value) -> str:
    if not isinstance(value, datetime):
        return str(value)
    if value.tzinfo is None:
        raise InvalidParamError("A moment needs its zone.")
    return value.isoformat()
