"""What the questions about a release's figures take and answer, as types; `telemetry.queries` has what they mean.

A list is empty where there is no data. When ClickHouse cannot be asked there is no such answer at all, but a 503.
"""

from __future__ import annotations

from datetime import date, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from control_plane.api.schemas import MAX_ADOPTION_DAYS, MAX_VERSION, Answer, DayAdoptionOut, Reference, VersionShareOut
from telemetry.queries import MAX_HOURS, MAX_REASONS, MAX_STUCK_DEVICES, MAX_VALUES, Dimension, Step
from telemetry.retention import DEFAULT_KEEP_DAYS

DEFAULT_DAYS = 30
MAX_STUCK_HOURS = 24 * DEFAULT_KEEP_DAYS
"""As long as raw events are kept unless a setting says so, which tell since when a device is stuck."""

# What comes in


class FiguresQuery(BaseModel):
    """In which environment."""

    model_config = ConfigDict(extra="forbid")

    environment: Reference = "prod"


class DaysQuery(FiguresQuery):
    """The last days, today included, in UTC."""

    days: int = Field(DEFAULT_DAYS, ge=1, le=MAX_ADOPTION_DAYS)


class DevicesQuery(DaysQuery):
    """What to tell devices apart by."""

    dimension: Dimension = "os_version"


class VersionQuery(FiguresQuery):
    """Which version."""

    version: int | None = Field(None, ge=1, le=MAX_VERSION, description="The one that was deployed last unless given.")


class ReleaseQuery(VersionQuery):
    """And from when on."""

    since: AwareDatetime | None = Field(None, description="When it was first deployed there unless given.")


class HoursQuery(ReleaseQuery):
    """How many hours."""

    hours: int = Field(72, ge=1, le=MAX_HOURS, description="The hour of the deploy included.")


class StuckQuery(VersionQuery):
    """Which devices are stuck."""

    hours: int = Field(24, ge=0, le=MAX_STUCK_HOURS, description="For how long a device has tried, at least.")
    days: int = Field(14, ge=1, le=MAX_ADOPTION_DAYS, description="Only devices that were heard of in the last days.")
    limit: int = Field(100, ge=0, le=MAX_STUCK_DEVICES, description="Devices to list; all are counted.")


# What goes out


class FiguresOut(Answer):
    """Whose figures they are."""

    model: str
    environment: str


class DaysOut(FiguresOut):
    """And of which days, of UTC, both included."""

    first_day: date
    last_day: date


class CurveOut(DaysOut):
    """Which share of the active devices held each version, by day."""

    by_day: list[DayAdoptionOut] = Field(description="Days with at least one active device.")


class HourAdoptionOut(Answer):
    """An hour with at least one active device."""

    hour: datetime
    hours_since_deploy: int
    active_devices: int
    versions: list[VersionShareOut]


class HoursOut(FiguresOut):
    """Which share of the active devices held each version, by hour since a deploy."""

    version: int = Field(description="The version that was deployed.")
    deployed_at: datetime
    by_hour: list[HourAdoptionOut]


class ValueDevicesOut(Answer):
    """Active devices with a value of a dimension."""

    value: str = Field(description="Empty for devices that do not tell.")
    devices: int
    share: float


class DayDevicesOut(Answer):
    """A day with at least one active device."""

    day: date
    active_devices: int
    values: list[ValueDevicesOut] = Field(description=f"The {MAX_VALUES} with the most devices.")
    other_devices: int = Field(description="Devices with values that are not listed.")


class DevicesOut(DaysOut):
    """Active devices by day and by a dimension."""

    dimension: Dimension
    by_day: list[DayDevicesOut]


class VersionDevicesOut(Answer):
    """Devices that ever activated a version."""

    version: int
    devices: int


class InstallationsOut(FiguresOut):
    """Devices that ever activated a version of the model."""

    devices: int = Field(description="In total; a device counts once.")
    versions: list[VersionDevicesOut] = Field(description="The newest first.")


class MixOut(DaysOut):
    """Which versions are held now, by the devices that were active in these days."""

    active_devices: int
    versions: list[VersionShareOut]


class FunnelStepOut(Answer):
    """A step of an update."""

    step: Step
    devices: int = Field(description="That came at least so far.")
    lost: int = Field(description="Of those, the ones that went no further.")


class FunnelOut(Answer):
    """How far devices came on the way to a version."""

    version: int
    steps: list[FunnelStepOut]
    leak: Step | None = Field(description="The step that most of the devices that tried did not get beyond.")
    tried_devices: int
    failed_devices: int = Field(description="That reported an error and did not activate it.")


class FunnelsOut(DaysOut):
    """How far devices came on the way to each version that was tried, the newest first."""

    versions: list[FunnelOut]


class FailureReasonOut(Answer):
    """How often an error was reported, and by how many devices."""

    error: str
    count: int
    devices: int


class FailureRateOut(Answer):
    """How often a version fails."""

    version: int
    tried_devices: int
    failed_devices: int = Field(description="Of those, the ones that reported an error about it.")
    rate: float = Field(description="Failed of tried, 0 to 1.")
    low: float = Field(description="Lower bound of the rate, with a confidence of 95 % (Wilson).")
    high: float = Field(description="Upper bound of the rate.")
    errors: int = Field(description="Reported in all.")
    reasons: list[FailureReasonOut] = Field(description=f"The {MAX_REASONS} most frequent.")


class FailureRatesOut(DaysOut):
    """How often each version that was tried failed, and why; the newest first."""

    versions: list[FailureRateOut]


class DownloadTimeOut(Answer):
    """Percentiles of the time that downloads took, in milliseconds."""

    downloads: int
    p50_ms: float
    p95_ms: float


class VersionDownloadTimeOut(DownloadTimeOut):
    """The same of one version."""

    version: int


class DownloadTimesOut(DaysOut):
    """How long downloads took."""

    overall: DownloadTimeOut | None = Field(description="Null when nothing was downloaded.")
    versions: list[VersionDownloadTimeOut] = Field(description="The newest first.")


class BytesOut(Answer):
    """What downloads took."""

    downloads: int
    bytes: int = Field(description="Sent.")
    full_bytes: int = Field(description="What it would have been without patches.")
    saved_bytes: int = Field(description="What patches left out.")


class DayBytesOut(BytesOut):
    """The same of one day."""

    day: date


class EncodingBytesOut(BytesOut):
    """The same of one encoding."""

    encoding: str


class BytesSentOut(DaysOut, BytesOut):
    """What downloads took in these days."""

    days: list[DayBytesOut] = Field(description="Those with downloads.")
    encodings: list[EncodingBytesOut] = Field(description="Most bytes first.")


class ReachOut(Answer):
    """When a share of the active devices had a version."""

    share: float
    at: datetime | None = Field(description="Null when they do not have it yet.")
    seconds: int | None = Field(description="Since the deploy.")


class TimeToAdoptOut(FiguresOut):
    """How long a version took to reach the active devices."""

    version: int
    deployed_at: datetime
    active_devices: int = Field(description="Heard of since the deploy.")
    adopted_devices: int = Field(description="Of those, the ones that activated the version.")
    reached: list[ReachOut]


class StuckReasonOut(Answer):
    """How many devices are stuck at a step with an error."""

    step: Step = Field(description="The last one that succeeded.")
    error: str = Field(description="Empty when none was reported.")
    devices: int


class StuckDeviceOut(Answer):
    """A device that tried a version, did not get it, and is still heard of."""

    device_id: str
    held: int | None = Field(description="The version that it holds; null for none.")
    since: datetime = Field(description="When it first tried.")
    last_seen: datetime
    step: Step = Field(description="The last one that succeeded.")
    error: str = Field(description="The last one reported; empty when none was.")


class StuckOut(FiguresOut):
    """Devices that are stuck on the way to a version."""

    version: int
    total: int = Field(description="All of them, also those that are not listed.")
    reasons: list[StuckReasonOut] = Field(description="The most frequent first.")
    devices: list[StuckDeviceOut] = Field(description="Those first that are stuck for longest.")
