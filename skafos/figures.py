"""What the questions about a release's figures answer, as plain values.

A list is empty where there is no data. When ClickHouse cannot be asked there is no such value, but an
`UnavailableError`. Days, hours and moments are texts in UTC, as the API writes them.
"""

from __future__ import annotations

from msgspec import Struct

from skafos.records import DayAdoption, VersionShare


class Figures(Struct, frozen=True, kw_only=True):
    """Whose figures they are."""

    model: str
    environment: str


class DaysFigures(Figures, frozen=True, kw_only=True):
    """And of which days, both included."""

    first_day: str
    last_day: str


class AdoptionCurve(DaysFigures, frozen=True, kw_only=True):
    """Which share of the active devices held each version, by day."""

    by_day: list[DayAdoption]


class HourAdoption(Struct, frozen=True, kw_only=True):
    """An hour with at least one active device."""

    hour: str
    hours_since_deploy: int
    active_devices: int
    versions: list[VersionShare]


class HourlyAdoption(Figures, frozen=True, kw_only=True):
    """Which share of the active devices held each version, by hour since a version was deployed."""

    version: int
    deployed_at: str
    by_hour: list[HourAdoption]


class ValueDevices(Struct, frozen=True, kw_only=True):
    """Active devices with a value of a dimension; the empty value is that of devices that do not tell."""

    value: str
    devices: int
    share: float


class DayDevices(Struct, frozen=True, kw_only=True):
    """A day with at least one active device; `other_devices` have values that are not listed."""

    day: str
    active_devices: int
    values: list[ValueDevices]
    other_devices: int


class ActiveDevices(DaysFigures, frozen=True, kw_only=True):
    """Active devices by day and by a dimension."""

    dimension: str
    by_day: list[DayDevices]


class VersionDevices(Struct, frozen=True, kw_only=True):
    """Devices that ever activated a version."""

    version: int
    devices: int


class Installations(Figures, frozen=True, kw_only=True):
    """Devices that ever activated the model, in total and for each version."""

    devices: int
    versions: list[VersionDevices]


class VersionMix(DaysFigures, frozen=True, kw_only=True):
    """Which versions are held now, by the devices that were active in these days."""

    active_devices: int
    versions: list[VersionShare]


class FunnelStep(Struct, frozen=True, kw_only=True):
    """A step of an update: devices that came at least so far, and how many of them went no further."""

    step: str
    devices: int
    lost: int


class VersionFunnel(Struct, frozen=True, kw_only=True):
    """How far devices came on the way to a version; `leak` is the step where most of those that tried stopped."""

    version: int
    steps: list[FunnelStep]
    leak: str | None
    tried_devices: int
    failed_devices: int


class Funnel(DaysFigures, frozen=True, kw_only=True):
    """How far devices came on the way to each version that was tried."""

    versions: list[VersionFunnel]


class FailureReason(Struct, frozen=True, kw_only=True):
    """How often an error was reported, and by how many devices."""

    error: str
    count: int
    devices: int


class FailureRate(Struct, frozen=True, kw_only=True):
    """How often a version fails: `rate` with the bounds `low` and `high` of its 95 % confidence interval."""

    version: int
    tried_devices: int
    failed_devices: int
    rate: float
    low: float
    high: float
    errors: int
    reasons: list[FailureReason]


class FailureRates(DaysFigures, frozen=True, kw_only=True):
    """How often each version that was tried fails, and why."""

    versions: list[FailureRate]


class DownloadTime(Struct, frozen=True, kw_only=True):
    """Percentiles of the time that downloads took, in milliseconds; `version` is None for all of them together."""

    downloads: int
    p50_ms: float
    p95_ms: float
    version: int | None = None


class DownloadTimes(DaysFigures, frozen=True, kw_only=True):
    """How long downloads took; `overall` is None when there was none."""

    overall: DownloadTime | None
    versions: list[DownloadTime]


class DayBytes(Struct, frozen=True, kw_only=True):
    """What the downloads of a day took, and what patches saved."""

    day: str
    downloads: int
    bytes: int
    full_bytes: int
    saved_bytes: int


class EncodingBytes(Struct, frozen=True, kw_only=True):
    """What the downloads in an encoding took, and what patches saved."""

    encoding: str
    downloads: int
    bytes: int
    full_bytes: int
    saved_bytes: int


class BytesSent(DaysFigures, frozen=True, kw_only=True):
    """What downloads took, and what patches saved: in total, by day and by encoding."""

    downloads: int
    bytes: int
    full_bytes: int
    saved_bytes: int
    days: list[DayBytes]
    encodings: list[EncodingBytes]


class Reach(Struct, frozen=True, kw_only=True):
    """When a share of the active devices had a version; None when they do not have it yet."""

    share: float
    at: str | None
    seconds: int | None


class TimeToAdopt(Figures, frozen=True, kw_only=True):
    """How long a version took to reach 50, 90 and 99 % of the active devices."""

    version: int
    deployed_at: str
    active_devices: int
    adopted_devices: int
    reached: list[Reach]


class StuckReason(Struct, frozen=True, kw_only=True):
    """How many devices are stuck after a step with an error, which is empty when none was reported."""

    step: str
    error: str
    devices: int


class StuckDevice(Struct, frozen=True, kw_only=True):
    """A device that tried a version, did not get it, and is still heard of; `held` is None when it holds none."""

    device_id: str
    held: int | None
    since: str
    last_seen: str
    step: str
    error: str


class StuckDevices(Figures, frozen=True, kw_only=True):
    """Devices that are stuck on the way to a version; `total` counts those that are not listed, too."""

    version: int
    total: int
    reasons: list[StuckReason]
    devices: list[StuckDevice]
