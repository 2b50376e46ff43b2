"""The answers about a release as people read them on a terminal: a sentence, then a table.

Nothing to tell is a sentence of its own. That ClickHouse cannot be asked is an error, and never comes here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from skafos.cli.output import print_table

if TYPE_CHECKING:
    from skafos import figures
    from skafos.records import Adoption, VersionShare

NO_DEVICE: Final = "no device was active"
NO_TRY: Final = "no device tried a version"
NO_DOWNLOAD: Final = "nothing was downloaded"
# Columns that a table of a dimension has beside the day: as many as fit on a terminal.
SHOWN_VALUES: Final = 5


def show_adoption(answer: Adoption) -> None:
    """By day and now, then what failed."""
    print(f"{answer.model} in {answer.environment}: {answer.installations} installations in total\n")
    show_curve(answer)
    print(f"\nnow: {_shares(answer.now) or 'no device'}")
    if answer.failures:
        print(f"\n{answer.failures_total} failures:")
        failures = [[each.version, each.count, each.devices, each.error] for each in answer.failures]
        print_table(["VERSION", "COUNT", "DEVICES", "ERROR"], failures)
    else:
        print("no failures")


def show_curve(answer: Adoption | figures.AdoptionCurve) -> None:
    """By day."""
    rows = [[day.day, day.active_devices, _shares(day.versions)] for day in answer.by_day]
    print_table(["DAY", "ACTIVE", "VERSIONS"], rows, NO_DEVICE)


def show_hours(answer: figures.HourlyAdoption) -> None:
    """By hour."""
    print(f"version {answer.version} came to {answer.environment} at {moment(answer.deployed_at)}\n")
    rows = [
        [moment(hour.hour), f"+{hour.hours_since_deploy} h", hour.active_devices, _shares(hour.versions)]
        for hour in answer.by_hour
    ]
    print_table(["HOUR", "SINCE", "ACTIVE", "VERSIONS"], rows, NO_DEVICE)


def show_devices(answer: figures.ActiveDevices) -> None:
    """By day, a column for each of the values that most devices have."""
    totals: Counter[str] = Counter()
    for day in answer.by_day:
        totals.update({each.value: each.devices for each in day.values})
    values = [value for value, _ in totals.most_common(SHOWN_VALUES)]
    rows: list[list[object]] = []
    for day in answer.by_day:
        devices = {each.value: each.devices for each in day.values}
        shown = [devices.get(value, 0) for value in values]
        rest = day.active_devices - sum(shown)
        rows.append([day.day, day.active_devices, *(_of(each, day.active_devices) for each in [*shown, rest])])
    heads = [value or "(not told)" for value in values]
    print_table(["DAY", "ACTIVE", *heads, "OTHERS"], rows, NO_DEVICE)


def show_installations(answer: figures.Installations) -> None:
    """In total and by version."""
    print(f"{answer.devices} installations in total")
    if answer.versions:
        print()
        print_table(["VERSION", "DEVICES"], [[f"v{each.version}", each.devices] for each in answer.versions])


def show_mix(answer: figures.VersionMix) -> None:
    """By version."""
    rows = [[_name(each.version), each.devices, percent(each.share)] for each in answer.versions]
    print_table(["VERSION", "DEVICES", "SHARE"], rows, NO_DEVICE)


def show_funnel(answer: figures.Funnel) -> None:
    """By version, a column for each step."""
    rows = [
        [
            f"v{each.version}",
            *(step.devices for step in each.steps),
            each.failed_devices,
            "-" if each.leak is None else f"after {each.leak}",
        ]
        for each in answer.versions
    ]
    print_table(["VERSION", "CHECK", "DOWNLOAD", "VERIFY", "ACTIVATE", "FAILED", "MOST STOP"], rows, NO_TRY)


def show_failures(answer: figures.FailureRates) -> None:
    """By version, then the reasons."""
    rows = [
        [
            f"v{each.version}",
            each.tried_devices,
            each.failed_devices,
            f"{each.rate:.2%}",  # a hundredth of a per cent is many devices
            f"{each.low:.2%} to {each.high:.2%}",
            each.errors,
        ]
        for each in answer.versions
    ]
    print_table(["VERSION", "TRIED", "FAILED", "RATE", "95 % SURE", "ERRORS"], rows, NO_TRY)
    reasons = [
        [f"v{each.version}", reason.count, reason.devices, reason.error]
        for each in answer.versions
        for reason in each.reasons
    ]
    if reasons:
        print()
        print_table(["VERSION", "COUNT", "DEVICES", "ERROR"], reasons)


def show_download_times(answer: figures.DownloadTimes) -> None:
    """Of all downloads, then by version."""

    def row(name: str, each: figures.DownloadTime) -> list[object]:
        return [name, each.downloads, seconds(each.p50_ms / 1000), seconds(each.p95_ms / 1000)]

    rows = [row("all", answer.overall)] if answer.overall else []
    rows += [row(_name(each.version), each) for each in answer.versions]
    print_table(["VERSION", "DOWNLOADS", "MEDIAN", "95TH PERCENTILE"], rows, NO_DOWNLOAD)


def show_bytes(answer: figures.BytesSent) -> None:
    """In total, by day and by encoding."""
    if not answer.downloads:
        print(NO_DOWNLOAD)
        return
    saved = _of_whole(answer.saved_bytes, answer.full_bytes)
    print(f"{answer.downloads} downloads took {amount(answer.bytes)}; patches saved {saved}\n")

    def cells(each: figures.DayBytes | figures.EncodingBytes) -> list[object]:
        saved = _of_whole(each.saved_bytes, each.full_bytes)
        return [each.downloads, amount(each.bytes), amount(each.full_bytes), saved]

    heads = ["DOWNLOADS", "SENT", "WITHOUT PATCHES", "SAVED"]
    print_table(["DAY", *heads], [[day.day, *cells(day)] for day in answer.days])
    print()
    print_table(["ENCODING", *heads], [[each.encoding or "(not told)", *cells(each)] for each in answer.encodings])


def show_time_to_adopt(answer: figures.TimeToAdopt) -> None:
    """How far it came, then when each share was reached."""
    print(f"version {answer.version} came to {answer.environment} at {moment(answer.deployed_at)}")
    if not answer.active_devices:
        print(f"{NO_DEVICE} since")
        return
    have = _of(answer.adopted_devices, answer.active_devices)
    print(f"of {answer.active_devices} devices that were active since, {have} activated it\n")
    rows = [
        [f"{each.share:.0%}", moment(each.at) if each.at else "not yet", _after(each.seconds)]
        for each in answer.reached
    ]
    print_table(["SHARE", "REACHED", "AFTER"], rows)


def show_stuck(answer: figures.StuckDevices) -> None:
    """How many and why, then which."""
    if not answer.total:
        print(f"no device is stuck on the way to version {answer.version}")
        return
    print(f"{answer.total} devices are stuck on the way to version {answer.version}\n")
    reasons = [[each.devices, each.step, each.error or "(none)"] for each in answer.reasons]
    print_table(["DEVICES", "AFTER", "ERROR"], reasons)
    if answer.devices:
        print()
        rows = [
            [each.device_id, _name(each.held), moment(each.since), moment(each.last_seen), each.step, each.error or "-"]
            for each in answer.devices
        ]
        print_table(["DEVICE", "HOLDS", "SINCE", "LAST SEEN", "AFTER", "ERROR"], rows)


def _shares(versions: Iterable[VersionShare]) -> str:
    """Return versions with their shares and devices, in one line."""
    return "  ".join(f"{_name(each.version)} {percent(each.share)} ({each.devices})" for each in versions)


def percent(share: float) -> str:
    """Return a share in percent."""
    return f"{share:.1%}"


def amount(length: int) -> str:
    """Return a number of bytes in a unit that leaves few digits."""
    size = float(length)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{length} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def seconds(value: float) -> str:
    """Return a time in a unit that leaves few digits."""
    if value < 10:
        return f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    if value < 2 * 3600:
        return f"{value / 60:.0f} min"
    if value < 2 * 86_400:
        return f"{value / 3600:.1f} h"
    return f"{value / 86_400:.1f} days"


def moment(text: str) -> str:
    """Return a moment of the API's, to the minute."""
    return f"{text[:10]} {text[11:16]}"


def _after(value: int | None) -> str:
    return "-" if value is None else seconds(value)


def _of(part: int, whole: int) -> str:
    return f"{part} ({percent(part / whole)})"


def _of_whole(part: int, whole: int) -> str:
    return amount(part) if not whole else f"{amount(part)} ({percent(part / whole)})"


def _name(version: int | None) -> str:
    return "none" if version is None else f"v{version}"
