"""The answers about a release as flat tables, one fact a row: what CSV and Parquet hold.

Shares and rates are between 0 and 1. ``version`` is empty for devices that hold none, and where a row is about all
versions together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from skafos.cli.export import Column, Table

if TYPE_CHECKING:
    from skafos import figures

_DAY: Final = Column("day", "day")
_VERSION: Final = Column("version", "integer")
_HELD: Final = Column("version", "integer", optional=True)
_DEVICES: Final = Column("devices", "integer")
_ACTIVE: Final = Column("active_devices", "integer")
_SHARE: Final = Column("share", "number")
_BYTES: Final = tuple(Column(name, "integer") for name in ("downloads", "bytes", "full_bytes", "saved_bytes"))


def curve_table(answer: figures.AdoptionCurve) -> Table:
    """A row for each day and version."""
    return Table(
        (_DAY, _HELD, _DEVICES, _ACTIVE, _SHARE),
        [
            (day.day, held.version, held.devices, day.active_devices, held.share)
            for day in answer.by_day
            for held in day.versions
        ],
    )


def hours_table(answer: figures.HourlyAdoption) -> Table:
    """A row for each hour and version."""
    return Table(
        (Column("hour", "moment"), Column("hours_since_deploy", "integer"), _HELD, _DEVICES, _ACTIVE, _SHARE),
        [
            (hour.hour, hour.hours_since_deploy, held.version, held.devices, hour.active_devices, held.share)
            for hour in answer.by_hour
            for held in hour.versions
        ],
    )


def devices_table(answer: figures.ActiveDevices) -> Table:
    """A row for each day and value; one more, with ``others``, for the values of a day that are not listed."""
    rows: list[tuple[object, ...]] = []
    for day in answer.by_day:
        rows += [
            (day.day, answer.dimension, each.value, False, each.devices, day.active_devices, each.share)
            for each in day.values
        ]
        if day.other_devices:
            share = day.other_devices / day.active_devices
            rows.append((day.day, answer.dimension, "", True, day.other_devices, day.active_devices, share))
    columns = (Column("dimension", "text"), Column("value", "text"), Column("others", "flag"))
    return Table((_DAY, *columns, _DEVICES, _ACTIVE, _SHARE), rows)


def installations_table(answer: figures.Installations) -> Table:
    """A row for each version, and one for all together, in which a device counts once."""
    rows: list[tuple[object, ...]] = [(each.version, each.devices) for each in answer.versions]
    return Table((_HELD, _DEVICES), [(None, answer.devices), *rows] if answer.devices else rows)


def mix_table(answer: figures.VersionMix) -> Table:
    """A row for each version."""
    rows = [(each.version, each.devices, answer.active_devices, each.share) for each in answer.versions]
    return Table((_HELD, _DEVICES, _ACTIVE, _SHARE), rows)


def funnel_table(answer: figures.Funnel) -> Table:
    """A row for each version and step; ``leak`` marks the step that most did not get beyond."""
    return Table(
        (_VERSION, Column("step", "text"), _DEVICES, Column("lost", "integer"), Column("leak", "flag")),
        [
            (funnel.version, step.step, step.devices, step.lost, step.step == funnel.leak)
            for funnel in answer.versions
            for step in funnel.steps
        ],
    )


def failures_table(answer: figures.FailureRates) -> Table:
    """A row for each version."""
    integers = tuple(Column(name, "integer") for name in ("tried_devices", "failed_devices"))
    numbers = tuple(Column(name, "number") for name in ("rate", "low", "high"))
    return Table(
        (_VERSION, *integers, *numbers, Column("errors", "integer")),
        [
            (each.version, each.tried_devices, each.failed_devices, each.rate, each.low, each.high, each.errors)
            for each in answer.versions
        ],
    )


def reasons_table(answer: figures.FailureRates) -> Table:
    """A row for each version and reason."""
    return Table(
        (_VERSION, Column("error", "text"), Column("count", "integer"), _DEVICES),
        [
            (each.version, reason.error, reason.count, reason.devices)
            for each in answer.versions
            for reason in each.reasons
        ],
    )


def download_times_table(answer: figures.DownloadTimes) -> Table:
    """A row for each version, and one for all downloads together."""
    times = [answer.overall] if answer.overall else []
    return Table(
        (_HELD, Column("downloads", "integer"), Column("p50_ms", "number"), Column("p95_ms", "number")),
        [(each.version, each.downloads, each.p50_ms, each.p95_ms) for each in [*times, *answer.versions]],
    )


def bytes_table(answer: figures.BytesSent) -> Table:
    """A row for each day."""
    rows = [(each.day, each.downloads, each.bytes, each.full_bytes, each.saved_bytes) for each in answer.days]
    return Table((_DAY, *_BYTES), rows)


def encodings_table(answer: figures.BytesSent) -> Table:
    """A row for each encoding."""
    rows = [(each.encoding, each.downloads, each.bytes, each.full_bytes, each.saved_bytes) for each in answer.encodings]
    return Table((Column("encoding", "text"), *_BYTES), rows)


def time_to_adopt_table(answer: figures.TimeToAdopt) -> Table:
    """A row for each share; without a moment where it is not reached yet. None without active devices."""
    columns = (_VERSION, Column("deployed_at", "moment"), _ACTIVE, Column("adopted_devices", "integer"), _SHARE)
    release = (answer.version, answer.deployed_at, answer.active_devices, answer.adopted_devices)
    rows = [(*release, each.share, each.at, each.seconds) for each in answer.reached] if answer.active_devices else []
    return Table((*columns, Column("at", "moment", optional=True), Column("seconds", "integer", optional=True)), rows)


def stuck_table(answer: figures.StuckDevices) -> Table:
    """A row for each device that is listed."""
    device = (_VERSION, Column("device_id", "text"), Column("held", "integer", optional=True))
    stuck = (Column("since", "moment"), Column("last_seen", "moment"), Column("step", "text"), Column("error", "text"))
    return Table(
        (*device, *stuck),
        [
            (answer.version, each.device_id, each.held, each.since, each.last_seen, each.step, each.error)
            for each in answer.devices
        ],
    )
