"""What devices did within an hour after they were woken, and within the hour before.

Asked of ``raw_events``, a part of the devices at a time. The parts are in the order of their ids, as the events of a
type are, so a question reads the rows of its own devices and not those of all; their ids and moments travel as two
texts, which ClickHouse reads several times as fast as lists. Moments are those at which edges received events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from telemetry.subject import Subject
from telemetry.warehouse import Row, Warehouse

HOUR: Final = timedelta(hours=1)
"""How long after the push what a device does counts as its effect, and how long before it is looked at beside."""
MAX_ASKED: Final = 2_000
"""Devices in one question. With ids of 64 characters it takes 160 kB; engines read 256 KiB (max_query_size)."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MILLISECOND: Final = timedelta(milliseconds=1)

_WOKEN: Final = """
SELECT sum(checked) AS checked_after, sum(downloaded) AS downloaded_after, sum(activated) AS activated_after,
    sum(checked_earlier) AS checked_before, sum(downloaded_earlier) AS downloaded_before,
    sum(activated_earlier) AS activated_before
FROM (
    SELECT device_id, max(arrival >= sent) AS checked, max(arrival >= sent AND step >= 1) AS downloaded,
        max(arrival >= sent AND step = 2) AS activated, max(arrival < sent) AS checked_earlier,
        max(arrival < sent AND step >= 1) AS downloaded_earlier, max(arrival < sent AND step = 2) AS activated_earlier
    FROM (
        SELECT device_id, arrival, multiIf(ifNull(version, toUInt32(0)) != {version}, 0,
            type = 'activate', 2, type IN ('download', 'verify'), 1, 0) AS step
        FROM raw_events
        WHERE $subject AND day >= {first_day} AND day <= {last_day} AND arrival >= {start} AND arrival < {end}
            AND device_id >= {first_device} AND device_id <= {last_device} AND ($own)
    ) AS heard ALL INNER JOIN (
        SELECT device_id, {base} + toUInt64(moment) * 1000 AS sent
        FROM (SELECT splitByChar(',', {devices}) AS ids, splitByChar(',', {moments}) AS offsets) AS texts
        ARRAY JOIN ids AS device_id, offsets AS moment
    ) AS pushed USING device_id
    WHERE arrival >= sent - {hour} AND arrival < sent + {hour}
    GROUP BY device_id
) AS device
"""


@dataclass(frozen=True, slots=True)
class Steps:
    """Devices that came at least so far.

    Attributes:
        checked: an edge heard of them about the model: they asked for it, or did something with it.
        downloaded: they downloaded, verified or activated the version.
        activated: they activated it.
    """

    checked: int = 0
    downloaded: int = 0
    activated: int = 0

    def __add__(self, other: Steps) -> Steps:
        """Return both together."""
        return Steps(self.checked + other.checked, self.downloaded + other.downloaded, self.activated + other.activated)


@dataclass(frozen=True, slots=True)
class WakeUps:
    """What devices did within the hour after each was sent to, and within the hour before."""

    after: Steps = Steps()
    before: Steps = Steps()

    def __add__(self, other: WakeUps) -> WakeUps:
        """Return both together."""
        return WakeUps(self.after + other.after, self.before + other.before)


async def wake_ups(
    warehouse: Warehouse, subject: Subject, version: int, sent: Sequence[tuple[str, datetime]]
) -> WakeUps:
    """Answer what devices did around the moments at which they were sent to.

    Args:
        version: that they were told of.
        sent: ids of devices, each once, and when each was sent to, with its zone.

    Raises:
        WarehouseUnavailable: ClickHouse cannot answer; that is not the same as "they did nothing".
    """
    ordered = sorted(sent)
    total = WakeUps()
    for start in range(0, len(ordered), MAX_ASKED):
        total += await _part(warehouse, subject, version, ordered[start : start + MAX_ASKED])
    return total


async def _part(warehouse: Warehouse, subject: Subject, version: int, sent: Sequence[tuple[str, datetime]]) -> WakeUps:
    moments = [moment for _, moment in sent]
    base, last = min(moments), max(moments)
    values = subject.values() | {
        "version": version,
        "first_day": (base - HOUR).astimezone(UTC).date(),
        "last_day": (last + HOUR).astimezone(UTC).date(),
        "start": _microseconds(base - HOUR),
        "end": _microseconds(last + HOUR),
        "hour": HOUR // _MICROSECOND,
        "first_device": sent[0][0],
        "last_device": sent[-1][0],
        "base": _microseconds(base),
        "devices": ",".join(device_id for device_id, _ in sent),
        "moments": ",".join(str((moment - base) // _MILLISECOND) for moment in moments),
    }
    own = subject.condition("ifNull(version, toUInt32(0))", "day")
    (row,) = await warehouse.query(subject.sql(_WOKEN, own=own), values)
    return WakeUps(_steps(row, "after"), _steps(row, "before"))


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _steps(row: Row, when: str) -> Steps:
    return Steps(*(int(row[f"{step}_{when}"]) for step in ("checked", "downloaded", "activated")))
