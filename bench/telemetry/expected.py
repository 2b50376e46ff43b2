"""The answers as they must be: the truth in the shape of ``telemetry.queries``, as plain mappings.

A field has the name that it has there. Definitions are those of ``docs/telemetry.md``, worked out a second time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

from bench.telemetry import rows as r
from bench.telemetry.deployments import DAY, Deployment
from bench.telemetry.rows import Column
from bench.telemetry.truth import Truth, Updates
from telemetry.queries import MAX_REASONS

Plain = dict[str, Any]
RANK_TOLERANCE = 0.01
"""Of all values: so many ranks beside the exact one a percentile may lie, and one at least, since there are several
definitions of it."""
NEVER = 1 << 62
"""A second that does not come."""
STEPS = ("check", "download", "verify", "activate")


@dataclass(frozen=True)
class Percentile:
    """An exact percentile (nearest rank), and the values around it that will do as well."""

    value: float
    least: float
    greatest: float

    @classmethod
    def of(cls, ordered: Column, share: float) -> Percentile:
        """Return the percentile of at least one value; ``share`` is 0.95 for the 95th."""
        last = len(ordered) - 1
        rank, around = math.ceil(share * len(ordered)) - 1, max(1, round(len(ordered) * RANK_TOLERANCE))
        places = (rank, max(0, rank - around), min(last, rank + around))
        return cls(*(float(ordered[place]) for place in places))

    def deviation(self, told: float) -> float:
        """Return how far a figure lies outside, as a share of the exact value."""
        return max(self.least - told, told - self.greatest, 0.0) / self.value


def adoption_curve(truth: Truth, first: date, last: date) -> list[Plain]:
    """Return the share of active devices that held each version, by day."""
    return [{"day": day, **_held(facts.held)} for day, facts in truth.within(first, last)]


def adoption_curve_by_hour(truth: Truth, deployed_at: datetime, hours: int) -> list[Plain]:
    """Return the same by hour since a deploy."""
    start = int(deployed_at.timestamp()) // 3600
    by_hour: dict[int, Column] = {}
    for facts in truth.days.values():
        by_hour |= facts.hours
    return [
        {"hour": datetime.fromtimestamp(hour * 3600, UTC), "hours_since_deploy": hour - start, **_held(counts)}
        for hour, counts in sorted(by_hour.items())
        if start <= hour < start + hours
    ]


def _held(counts: Column) -> Plain:
    return {"active_devices": int(counts.sum()), "versions": _shares(dict(enumerate(counts.tolist())))}


def _shares(counts: Mapping[int, int]) -> list[Plain]:
    total = sum(counts.values())
    return [
        {"version": version or None, "devices": devices, "share": devices / total}
        for version, devices in counts.items()
        if devices
    ]


def active_devices(truth: Truth, first: date, last: date, dimension: str) -> list[Plain]:
    """Return the devices of each day by a dimension."""
    answer = []
    for day, facts in truth.within(first, last):
        total = int(facts.values[dimension].sum())
        values = [
            {"value": r.TEXTS[dimension][code], "devices": devices, "share": devices / total}
            for code, devices in enumerate(facts.values[dimension].tolist())
            if devices
        ]
        answer.append({"day": day, "active_devices": total, "values": values, "other_devices": 0})
    return answer


def installations(truth: Truth) -> Plain:
    """Return the devices that ever activated a version."""
    activations = truth.updates().where(truth.updates()["kind"] == r.ACTIVATE)
    versions = [
        {"version": version, "devices": activations.where(activations["version"] == version).devices()}
        for version in np.unique(activations["version"]).tolist()
    ]
    return {"devices": activations.devices(), "versions": versions}


def version_mix(truth: Truth, first: date, _: date) -> list[Plain]:
    """Return what is held now by those that were heard of since the window's first day."""
    heard = truth.active(first, date.max)
    return _shares(dict(enumerate(np.bincount(truth.told[heard]).tolist())))


def funnel(truth: Truth, first: date, last: date) -> list[Plain]:
    """Return how far devices came on the way to each version; all active devices stand at the first step."""
    active = int(truth.active(first, last).sum())
    answer = []
    for version, tried in _by_version(truth.updates(first, last)):
        of_kinds = [tried.where(np.isin(tried["kind"], kinds)).devices() for kinds in _REACHED]
        reached = [max(active, of_kinds[0]), *of_kinds]
        lost = [reached[place] - reached[place + 1] for place in range(3)] + [0]
        leaks = [tried.devices() - of_kinds[0], *lost[1:3]]
        ended = tried.where(np.isin(tried["kind"], (r.ERROR, r.ACTIVATE))).devices()
        steps = zip(STEPS, reached, lost, strict=True)
        answer.append(
            {
                "version": version,
                "steps": [{"step": step, "devices": devices, "lost": gone} for step, devices, gone in steps],
                "leak": STEPS[leaks.index(max(leaks))] if max(leaks) else None,
                "tried_devices": tried.devices(),
                "failed_devices": ended - of_kinds[2],
            }
        )
    return answer


_REACHED = ((r.DOWNLOAD, r.VERIFY, r.ACTIVATE), (r.VERIFY, r.ACTIVATE), (r.ACTIVATE,))
"""Events that say that a device came to a step, or beyond it."""


def failure_rates(truth: Truth, first: date, last: date) -> list[Plain]:
    """Return how often each version failed, and why; an error that was delivered twice is one."""
    answer = []
    for version, tried in _by_version(truth.updates(first, last)):
        errors = tried.where(tried["kind"] == r.ERROR)
        reasons = []
        for error in np.unique(errors["error"]).tolist():
            same = errors.where(errors["error"] == error)
            reasons.append({"error": r.ERRORS[error], "count": len(same.events()["kind"]), "devices": same.devices()})
        answer.append(
            {
                "version": version,
                "tried_devices": tried.devices(),
                "failed_devices": errors.devices(),
                "rate": errors.devices() / tried.devices(),
                "errors": len(errors.events()["kind"]),
                "reasons": reasons,
            }
        )
    return answer


def download_times(truth: Truth, first: date, last: date) -> Plain:
    """Return the percentiles of durations."""
    downloads = _downloads(truth, first, last)
    durations = downloads["duration_ms"]
    versions = [_times(version, of["duration_ms"]) for version, of in _by_version(downloads)]
    return {"overall": _times(None, durations) if len(durations) else None, "versions": versions}


def _times(version: int | None, durations: Column) -> Plain:
    ordered = np.sort(durations)
    p50, p95 = (Percentile.of(ordered, share) for share in (0.5, 0.95))
    return {"version": version, "downloads": len(ordered), "p50_ms": p50, "p95_ms": p95}


def bytes_sent(truth: Truth, first: date, last: date) -> Plain:
    """Return what downloads took, and what patches saved; one counts on the day of its last delivery."""
    downloads = _downloads(truth, first, last)
    day = downloads["received_ms"] // (DAY * 1000)
    days = [
        {"day": date(1970, 1, 1) + timedelta(days=number), **_sums(downloads.where(day == number))}
        for number in np.unique(day).tolist()
    ]
    encodings = [
        {"encoding": r.ENCODINGS[code], **_sums(downloads.where(downloads["encoding"] == code))}
        for code in np.unique(downloads["encoding"]).tolist()
    ]
    return {**_sums(downloads), "days": days, "encodings": encodings}


def _sums(downloads: Updates) -> Plain:
    sent, full = downloads["bytes"], downloads["full_bytes"]
    saved = (full - sent)[downloads["encoding"] == r.PATCH]
    return {
        "downloads": len(sent),
        "bytes": int(sent.sum()),
        "full_bytes": int(full.sum()),
        "saved_bytes": int(saved.clip(0).sum()),
    }


def time_to_adopt(truth: Truth, deployment: Deployment) -> Plain:
    """Return when a version had reached shares of the devices that were heard of since the day of its deploy."""
    active = truth.seen // DAY >= deployment.at // DAY
    updates = truth.updates()
    activations = updates.where((updates["kind"] == r.ACTIVATE) & (updates["version"] == deployment.version))
    seconds = _first_seconds(truth, activations)
    firsts = np.sort(seconds[active & (seconds < NEVER)])
    reached: list[Plain] = []
    for share in (0.5, 0.9, 0.99):
        needed = math.ceil(int(active.sum()) * share)
        if not 0 < needed <= len(firsts):
            reached.append({"share": share, "at": None, "seconds": None})
            continue
        first = max(int(firsts[needed - 1]), deployment.at)
        reached.append({"share": share, "at": datetime.fromtimestamp(first, UTC), "seconds": first - deployment.at})
    return {
        "version": deployment.version,
        "active_devices": int(active.sum()),
        "adopted_devices": len(firsts),
        "reached": reached,
    }


def stuck_devices(truth: Truth, version: int, before: int, active_since: int, limit: int) -> Plain:
    """Return who is stuck on the way to a version.

    Args:
        before: second by which a device must have tried first.
        active_since: second since which it must have been heard of.
        limit: devices to list.
    """
    updates = truth.updates()
    tries = updates.where(updates["version"] == version)
    count = len(truth.seen)
    step, error = np.zeros(count, np.uint8), np.zeros(count, np.uint8)
    activated = np.zeros(count, bool)
    since = _first_seconds(truth, tries)
    for kind, reached in ((r.DOWNLOAD, 1), (r.VERIFY, 2)):
        np.maximum.at(step, tries["device"][tries["kind"] == kind], reached)
    failed = tries["kind"] == r.ERROR
    error[tries["device"][failed]] = tries["error"][failed]
    activated[tries["device"][tries["kind"] == r.ACTIVATE]] = True
    stuck = np.flatnonzero((since <= before) & ~activated & (truth.told != version) & (truth.seen >= active_since))
    ids = truth.population.device_ids(stuck)
    counted = Counter((int(step[one]), r.ERRORS[error[one]]) for one in stuck.tolist())
    reasons = sorted(counted.items(), key=lambda reason: (-reason[1], reason[0]))[:MAX_REASONS]
    order = np.lexsort((ids, since[stuck]))[:limit]
    return {
        "version": version,
        "total": len(stuck),
        "reasons": [{"step": STEPS[way], "error": why, "devices": number} for (way, why), number in reasons],
        "devices": [
            {
                "device_id": name.decode(),
                "held": int(truth.told[one]) or None,
                "since": datetime.fromtimestamp(int(since[one]), UTC),
                "last_seen": datetime.fromtimestamp(int(truth.seen[one]), UTC),
                "step": STEPS[step[one]],
                "error": r.ERRORS[error[one]],
            }
            for one, name in zip(stuck[order].tolist(), ids[order].tolist(), strict=True)
        ],
    }


def _first_seconds(truth: Truth, updates: Updates) -> Column:
    """Return each device's first second, by the first delivery."""
    first = np.full(len(truth.seen), NEVER)
    np.minimum.at(first, updates["device"], updates["received_ms"] // 1000)
    return first


def _downloads(truth: Truth, first: date, last: date) -> Updates:
    updates = truth.updates(first, last)
    return updates.where(updates["kind"] == r.DOWNLOAD).events()


def _by_version(updates: Updates) -> Iterator[tuple[int, Updates]]:
    for version in np.unique(updates["version"]).tolist():
        yield version, updates.where(updates["version"] == version)
