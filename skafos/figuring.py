"""The questions that decide whether a release goes on, each described once; `skafos.client` asks them.

``org``, ``app``, ``model`` and ``environment`` are names or ids; days are of UTC, today included. A question without
data has an empty answer; when ClickHouse cannot be asked, all raise `UnavailableError`.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

from skafos import figures
from skafos.calls import Call, Steps, ask
from skafos.exceptions import InvalidParamError
from skafos.operations import of_model

T = TypeVar("T")
Value = str | int | datetime | None


def adoption_curve(org: str, app: str, model: str, *, environment: str, days: int = 30) -> Steps[figures.AdoptionCurve]:
    """Return which share of the active devices held each version, by day."""
    return _ask((org, app, model), "curve", figures.AdoptionCurve, environment=environment, days=days)


def hourly_adoption(
    org: str,
    app: str,
    model: str,
    *,
    environment: str,
    version: int | None = None,
    since: datetime | None = None,
    hours: int = 72,
) -> Steps[figures.HourlyAdoption]:
    """Return the same by hour since a version was first deployed there.

    Args:
        version: the one that was deployed last unless given.
        since: another moment to count from, with its zone.
        hours: how many, the first included.
    """
    return _ask(
        (org, app, model),
        "hours",
        figures.HourlyAdoption,
        environment=environment,
        version=version,
        since=since,
        hours=hours,
    )


def active_devices(
    org: str, app: str, model: str, *, environment: str, dimension: str = "os_version", days: int = 30
) -> Steps[figures.ActiveDevices]:
    """Return the active devices by day and by a dimension.

    Args:
        dimension: ``os``, ``os_version``, ``device_model``, ``app_version`` or ``locale``.
    """
    return _ask(
        (org, app, model), "devices", figures.ActiveDevices, environment=environment, dimension=dimension, days=days
    )


def installations(org: str, app: str, model: str, *, environment: str) -> Steps[figures.Installations]:
    """Return how many devices ever activated the model."""
    return _ask((org, app, model), "installations", figures.Installations, environment=environment)


def version_mix(org: str, app: str, model: str, *, environment: str, days: int = 30) -> Steps[figures.VersionMix]:
    """Return which versions are held now by the devices that were active in the last days."""
    return _ask((org, app, model), "mix", figures.VersionMix, environment=environment, days=days)


def funnel(org: str, app: str, model: str, *, environment: str, days: int = 30) -> Steps[figures.Funnel]:
    """Return how far devices came on the way to each version, and where most of them stopped."""
    return _ask((org, app, model), "funnel", figures.Funnel, environment=environment, days=days)


def failure_rates(org: str, app: str, model: str, *, environment: str, days: int = 30) -> Steps[figures.FailureRates]:
    """Return how often each version failed, with the bounds of the rate, and why."""
    return _ask((org, app, model), "failures", figures.FailureRates, environment=environment, days=days)


def download_times(org: str, app: str, model: str, *, environment: str, days: int = 30) -> Steps[figures.DownloadTimes]:
    """Return how long downloads took, at the median and at the 95th percentile."""
    return _ask((org, app, model), "download-times", figures.DownloadTimes, environment=environment, days=days)


def bytes_sent(org: str, app: str, model: str, *, environment: str, days: int = 30) -> Steps[figures.BytesSent]:
    """Return how many bytes downloads took, and how many patches saved."""
    return _ask((org, app, model), "bytes", figures.BytesSent, environment=environment, days=days)


def time_to_adopt(
    org: str, app: str, model: str, *, environment: str, version: int | None = None, since: datetime | None = None
) -> Steps[figures.TimeToAdopt]:
    """Return how long a version took from its first deploy there to 50, 90 and 99 % of the active devices.

    Args:
        version: the one that was deployed last unless given.
        since: another moment to count from, with its zone.
    """
    return _ask(
        (org, app, model), "time-to-adopt", figures.TimeToAdopt, environment=environment, version=version, since=since
    )


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
) -> Steps[figures.StuckDevices]:
    """Return which devices are stuck on the way to a version, since when, and why.

    Args:
        version: the one that was deployed last unless given.
        hours: for how long a device has tried, at least.
        days: only devices that were heard of in so many days.
        limit: devices to list; all are counted.
    """
    return _ask(
        (org, app, model),
        "stuck",
        figures.StuckDevices,
        environment=environment,
        version=version,
        hours=hours,
        days=days,
        limit=limit,
    )


def _ask(names: tuple[str, str, str], question: str, kind: type[T], **asked: Value) -> Steps[T]:
    query = {name: _text(value) for name, value in asked.items() if value is not None}
    return ask(Call("GET", of_model(*names, "adoption", question), query=query), kind)


def _text(value: Value) -> str:
    if not isinstance(value, datetime):
        return str(value)
    if value.tzinfo is None:
        raise InvalidParamError("A moment needs its zone.")
    return value.isoformat()
