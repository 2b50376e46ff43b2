"""The figures of the page Monitor, one line each: whom to ask, and how the answer is shown and written down.

The rows of CSV are those of `skafos adoption … --csv`, one fact a row. Beside a chart over days stands a table with a
row for each day, which is what the chart shows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final, TypeVar

from control_plane.api import figure_schemas as s
from control_plane.api import figures as api
from control_plane.dashboard.charts import DEVICES, Axis, Bars, Chart, Lines
from control_plane.dashboard.render import show_count, show_size
from control_plane.dashboard.sheets import Column, Sheet, show_duration, show_share

# Lines of a chart, those with the most devices; the others are one line. More are not told apart.
MAX_LINES: Final = 12
# Versions of a chart, the newest; the table has all.
MAX_BARS: Final = 12
MAX_GROUPED_BARS: Final = 5

SHARE: Final = Axis("Share of the active devices", "0.[00]%")
DIMENSIONS: Final[Mapping[str, str]] = {
    "os_version": "OS version",
    "device_model": "Device model",
    "app_version": "App version",
    "os": "OS",
    "locale": "Locale",
}
_OTHERS: Final = "others"
_NOT_TOLD: Final = "not told"
_NO_VERSION: Final = "no version"
_MAJOR: Final = re.compile(r"[0-9]{1,4}(?![0-9])")
_UNITS: Final = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3), ("bytes", 1))

_DAY: Final = Column("day", "day")
_VERSION: Final = Column("version", "text")
_HELD: Final = Column("version", "text", empty=_NO_VERSION)
_OF_ALL: Final = Column("version", "text", empty="all")
_DEVICES: Final = Column("devices")
_ACTIVE: Final = Column("active_devices")
_SHARE: Final = Column("share", "share")
_BYTES: Final = (
    Column("downloads"),
    Column("bytes", "bytes", "Sent"),
    Column("full_bytes", "bytes", "Without patches"),
    Column("saved_bytes", "bytes", "Saved"),
)

_NO_DEVICE: Final = "A device counts once an app with the SDK has asked for the model."
_NO_TRY: Final = "A version shows here once it is deployed and a device has tried it."

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of the table of figures.

    Args:
        title: its heading.
        ask: the management API's handler.
        query: what the handler takes.
        sheets: by the name of its file, each a heading and how the answer becomes its rows; the first has a row
            whenever there is data.
        says: the answer in a sentence.
        nothing: what to do while there is no data.
        chart: what the answer looks like.
        table: what stands beside the chart in place of the first sheet.
    """

    title: str
    ask: Callable[..., Awaitable[Any]]
    query: type[s.FiguresQuery]
    sheets: Mapping[str, tuple[str, Callable[[Any], Sheet]]]
    says: Callable[[Any], str]
    nothing: str
    chart: Callable[[Any], Chart]
    table: Callable[[Any], Sheet] | None = None


# --- Over days --------------------------------------------------------------------------------------------------------


def curve_sheet(answer: s.CurveOut) -> Sheet:
    """A row for each day and version."""
    return Sheet(
        (_DAY, _HELD, _DEVICES, _ACTIVE, _SHARE),
        [
            (day.day, held.version, held.devices, day.active_devices, held.share)
            for day in answer.by_day
            for held in day.versions
        ],
    )


def curve_table(answer: s.CurveOut) -> Sheet:
    """A row for each day, the newest first, with a column for each version."""
    names, days = _curve(answer)
    rows = [(day, active, *(count / active for count in counts)) for day, active, counts in reversed(days)]
    return Sheet((_DAY, _ACTIVE, *(Column(name, "share", name) for name in names)), rows)


def curve_chart(answer: s.CurveOut) -> Lines:
    """A line for each version; a gap where no device was heard of."""
    names, days = _curve(answer)
    shares = {day: [count / active for count in counts] for day, active, counts in days}
    return _over_days(answer, names, shares, None, SHARE)


def devices_sheet(answer: s.DevicesOut) -> Sheet:
    """A row for each day and value; one more, with ``others``, for the values of a day that are not listed."""
    rows: list[tuple[Any, ...]] = []
    for day in answer.by_day:
        rows += [
            (day.day, answer.dimension, each.value, False, each.devices, day.active_devices, each.share)
            for each in day.values
        ]
        if day.other_devices:
            share = day.other_devices / day.active_devices
            rows.append((day.day, answer.dimension, "", True, day.other_devices, day.active_devices, share))
    told = (Column("dimension", "text"), Column("value", "text"), Column("others", "flag"))
    return Sheet((_DAY, *told, _DEVICES, _ACTIVE, _SHARE), rows)


def devices_table(answer: s.DevicesOut) -> Sheet:
    """A row for each day, the newest first, with a column for each value."""
    names, days = _devices(answer)
    rows = [(day, active, *counts) for day, active, counts in reversed(days)]
    return Sheet((_DAY, _ACTIVE, *(Column(name, "integer", name) for name in names)), rows)


def devices_chart(answer: s.DevicesOut) -> Lines:
    """A line for each value; versions of an OS by their first number."""
    names, days = _devices(answer)
    return _over_days(answer, names, {day: counts for day, _, counts in days}, 0, DEVICES)


def bytes_sheet(answer: s.BytesSentOut) -> Sheet:
    """A row for each day with downloads."""
    rows = [(each.day, each.downloads, each.bytes, each.full_bytes, each.saved_bytes) for each in answer.days]
    return Sheet((_DAY, *_BYTES), rows)


def encodings_sheet(answer: s.BytesSentOut) -> Sheet:
    """A row for each encoding."""
    rows = [(each.encoding, each.downloads, each.bytes, each.full_bytes, each.saved_bytes) for each in answer.encodings]
    return Sheet((Column("encoding", "text"), *_BYTES), rows)


def bytes_chart(answer: s.BytesSentOut) -> Lines:
    """What was sent and what patches saved, by day."""
    most = max((max(each.bytes, each.saved_bytes) for each in answer.days), default=0)
    unit, size = next((unit for unit in _UNITS if most >= unit[1]), _UNITS[-1])
    days = {each.day: [each.bytes / size, each.saved_bytes / size] for each in answer.days}
    return _over_days(answer, ["sent", "saved by patches"], days, 0, Axis(unit, "0,0.[00]"))


def major_of(os_version: str) -> str:
    """Return the versions of an OS that one is shown with: 17.X for 17.1."""
    found = _MAJOR.match(os_version)
    return f"{found[0]}.X" if found else os_version


def _curve(answer: s.CurveOut) -> tuple[list[str], list[tuple[date, int, list[int]]]]:
    counted = [
        (day.day, day.active_devices, {held.version: held.devices for held in day.versions}) for day in answer.by_day
    ]
    versions, days = _widened(counted, lambda version: -(version or 0))
    names = [_version(version) for version in versions]
    return _with_others(names, days)


def _devices(answer: s.DevicesOut) -> tuple[list[str], list[tuple[date, int, list[int]]]]:
    counted = []
    for day in answer.by_day:
        devices: Counter[str] = Counter()
        for each in day.values:
            devices[major_of(each.value) if answer.dimension == "os_version" else each.value] += each.devices
        counted.append((day.day, day.active_devices, devices))
    values, days = _widened(counted, None)
    return _with_others([value or _NOT_TOLD for value in values], days)


def _widened(
    counted: Iterable[tuple[date, int, Mapping[Key, int]]], order: Callable[[Key], int] | None
) -> tuple[list[Key], list[tuple[date, int, list[int]]]]:
    """Return the keys with the most devices, and for each day how many had each, and at last how many had others."""
    counted = list(counted)
    total: Counter[Key] = Counter()
    for _, _, devices in counted:
        total.update(devices)
    keys = [key for key, _ in total.most_common(MAX_LINES)]
    if order is not None:
        keys.sort(key=order)
    days = []
    for day, active, devices in counted:
        counts = [devices.get(key, 0) for key in keys]
        days.append((day, active, [*counts, active - sum(counts)]))
    return keys, days


def _with_others(
    names: list[str], days: list[tuple[date, int, list[int]]]
) -> tuple[list[str], list[tuple[date, int, list[int]]]]:
    if any(counts[-1] for _, _, counts in days):
        return [*names, _OTHERS], days
    return names, [(day, active, counts[:-1]) for day, active, counts in days]


def _over_days(
    answer: s.DaysOut, names: Sequence[str], values: Mapping[date, Sequence[float]], missing: float | None, axis: Axis
) -> Lines:
    """Return lines over all the days that were asked for."""
    days = [answer.first_day + timedelta(at) for at in range((answer.last_day - answer.first_day).days + 1)]
    series = [(name, [values[day][at] if day in values else missing for day in days]) for at, name in enumerate(names)]
    return Lines(days, series, axis)


# --- By version -------------------------------------------------------------------------------------------------------


def installations_sheet(answer: s.InstallationsOut) -> Sheet:
    """A row for each version, and one for all together, in which a device counts once."""
    rows: list[tuple[Any, ...]] = [(each.version, each.devices) for each in answer.versions]
    return Sheet((_OF_ALL, _DEVICES), [(None, answer.devices), *rows] if answer.devices else rows)


def installations_chart(answer: s.InstallationsOut) -> Bars:
    """A bar for each version."""
    shown = _oldest_first(answer.versions[:MAX_BARS])
    return Bars(_names(shown), [("devices", [each.devices for each in shown])], DEVICES)


def mix_sheet(answer: s.MixOut) -> Sheet:
    """A row for each version."""
    rows = [(each.version, each.devices, answer.active_devices, each.share) for each in answer.versions]
    return Sheet((_HELD, _DEVICES, _ACTIVE, _SHARE), rows)


def mix_chart(answer: s.MixOut) -> Bars:
    """A bar for each version."""
    most = sorted(answer.versions, key=lambda each: -each.devices)[:MAX_BARS]
    shown = sorted(most, key=lambda each: each.version or 0)
    return Bars(_names(shown), [("share", [each.share for each in shown])], SHARE)


def funnel_sheet(answer: s.FunnelsOut) -> Sheet:
    """A row for each version and step; ``leak`` marks the step that most did not get beyond."""
    return Sheet(
        (_VERSION, Column("step", "text"), _DEVICES, Column("lost"), Column("leak", "flag", "Most stop here")),
        [
            (funnel.version, step.step, step.devices, step.lost, step.step == funnel.leak)
            for funnel in answer.versions
            for step in funnel.steps
        ],
    )


def funnel_chart(answer: s.FunnelsOut) -> Bars:
    """A group of bars for each step, one for each of the newest versions."""
    shown = _oldest_first(answer.versions[:MAX_GROUPED_BARS])
    series = [(_version(each.version), [step.devices for step in each.steps]) for each in shown]
    return Bars([step.step for step in shown[0].steps], series, DEVICES)


def failures_sheet(answer: s.FailureRatesOut) -> Sheet:
    """A row for each version."""
    rates = (Column("rate", "share"), Column("low", "share", "At least"), Column("high", "share", "At most"))
    return Sheet(
        (_VERSION, Column("tried_devices"), Column("failed_devices"), *rates, Column("errors")),
        [
            (each.version, each.tried_devices, each.failed_devices, each.rate, each.low, each.high, each.errors)
            for each in answer.versions
        ],
    )


def reasons_sheet(answer: s.FailureRatesOut) -> Sheet:
    """A row for each version and reason."""
    return Sheet(
        (_VERSION, Column("error", "text"), Column("count"), _DEVICES),
        [
            (each.version, reason.error, reason.count, reason.devices)
            for each in answer.versions
            for reason in each.reasons
        ],
    )


def failures_chart(answer: s.FailureRatesOut) -> Bars:
    """A bar for each version, and between which bounds the rate is."""
    shown = _oldest_first(answer.versions[:MAX_BARS])
    axis = Axis("Failed of the devices that tried", "0.[00]%")
    return Bars(_names(shown), [("failed", [each.rate for each in shown])], axis, [(e.low, e.high) for e in shown])


def times_sheet(answer: s.DownloadTimesOut) -> Sheet:
    """A row for each version, and one for all downloads together."""
    percentiles = (Column("p50_ms", "milliseconds", "Median"), Column("p95_ms", "milliseconds", "95th percentile"))
    rows: list[tuple[Any, ...]] = [(each.version, each.downloads, each.p50_ms, each.p95_ms) for each in answer.versions]
    if answer.overall is not None:
        rows.insert(0, (None, answer.overall.downloads, answer.overall.p50_ms, answer.overall.p95_ms))
    return Sheet((_OF_ALL, Column("downloads"), *percentiles), rows)


def times_chart(answer: s.DownloadTimesOut) -> Bars:
    """Two bars for each version."""
    shown = _oldest_first(answer.versions[:MAX_BARS])
    series = [("median", [each.p50_ms for each in shown]), ("95th percentile", [each.p95_ms for each in shown])]
    return Bars(_names(shown), series, Axis("Milliseconds"))


def _version(number: int | None) -> str:
    return _NO_VERSION if number is None else f"version {number}"


def _names(shown: Iterable[Any]) -> list[str]:
    return [_version(each.version) for each in shown]


def _oldest_first(shown: Sequence[Any]) -> list[Any]:
    return list(reversed(shown))


# --- In a sentence ----------------------------------------------------------------------------------------------------


def _say_curve(answer: s.CurveOut) -> str:
    last = answer.by_day[-1]
    return f"{show_count(last.active_devices, 'active device')} on {last.day}."


def _say_devices(answer: s.DevicesOut) -> str:
    last = answer.by_day[-1]
    return f"{show_count(last.active_devices, 'active device')} on {last.day}, by {DIMENSIONS[answer.dimension]}."


def _say_installations(answer: s.InstallationsOut) -> str:
    return f"{show_count(answer.devices, 'device')} ever activated a version."


def _say_mix(answer: s.MixOut) -> str:
    devices = show_count(answer.active_devices, "active device")
    return f"What {devices} {'holds' if answer.active_devices == 1 else 'hold'} now."


def _say_funnel(answer: s.FunnelsOut) -> str:
    newest = answer.versions[0]
    if newest.leak is None:
        return f"Every device that tried version {newest.version} activated it."
    return f"Of the devices that tried version {newest.version}, most that stop do so after: {newest.leak}."


def _say_failures(answer: s.FailureRatesOut) -> str:
    newest = answer.versions[0]
    tried = show_count(newest.tried_devices, "device")
    return f"Version {newest.version} failed on {newest.failed_devices:,} of {tried}, {show_share(newest.rate)}."


def _say_times(answer: s.DownloadTimesOut) -> str:
    if answer.overall is None:
        return ""
    median, slow = show_duration(answer.overall.p50_ms), show_duration(answer.overall.p95_ms)
    return f"Half of {show_count(answer.overall.downloads, 'download')} took {median} at most, 95 % took {slow}."


def _say_bytes(answer: s.BytesSentOut) -> str:
    saved = f"patches saved {show_size(answer.saved_bytes)}"
    if answer.full_bytes:
        saved += f", {show_share(answer.saved_bytes / answer.full_bytes)}"
    return f"{show_count(answer.downloads, 'download')} took {show_size(answer.bytes)}; {saved}."


FIGURES: Final[Mapping[str, Figure]] = {
    "curve": Figure(
        "Adoption by version",
        api.show_curve,
        s.DaysQuery,
        {"curve": ("By day", curve_sheet)},
        _say_curve,
        _NO_DEVICE,
        curve_chart,
        curve_table,
    ),
    "devices": Figure(
        "Active devices",
        api.show_devices,
        s.DevicesQuery,
        {"devices": ("By day", devices_sheet)},
        _say_devices,
        _NO_DEVICE,
        devices_chart,
        devices_table,
    ),
    "installations": Figure(
        "Total installations",
        api.show_installations,
        s.FiguresQuery,
        {"installations": ("By version", installations_sheet)},
        _say_installations,
        "A device counts once it has activated a version, in whatever year.",
        installations_chart,
    ),
    "mix": Figure(
        "Version mix",
        api.show_mix,
        s.DaysQuery,
        {"mix": ("By version", mix_sheet)},
        _say_mix,
        _NO_DEVICE,
        mix_chart,
    ),
    "funnel": Figure(
        "Funnel",
        api.show_funnel,
        s.DaysQuery,
        {"funnel": ("By version and step", funnel_sheet)},
        _say_funnel,
        _NO_TRY,
        funnel_chart,
    ),
    "failures": Figure(
        "Failures",
        api.show_failures,
        s.DaysQuery,
        {"failures": ("By version", failures_sheet), "reasons": ("Reasons", reasons_sheet)},
        _say_failures,
        _NO_TRY,
        failures_chart,
    ),
    "download-times": Figure(
        "Download time",
        api.show_download_times,
        s.DaysQuery,
        {"download-times": ("By version", times_sheet)},
        _say_times,
        _NO_TRY,
        times_chart,
    ),
    "bytes": Figure(
        "Bytes saved",
        api.show_bytes,
        s.DaysQuery,
        {"bytes": ("By day", bytes_sheet), "encodings": ("By encoding", encodings_sheet)},
        _say_bytes,
        "Patches are made from the versions that devices hold, once there is a second version.",
        bytes_chart,
    ),
}
"""In the order of the page."""

SHEETS: Final[Mapping[str, tuple[Figure, Callable[[Any], Sheet]]]] = {
    name: (figure, sheet) for figure in FIGURES.values() for name, (_, sheet) in figure.sheets.items()
}
"""What can be saved, by the name of its file."""
