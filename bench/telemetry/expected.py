"""The answers as they must be: the truth in the shape of ``telemetry.queries``, as plain mappings.

A field has the name that it has there. Definitions are those of ``docs/telemetry.md``, worked out a second time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np

from bench.telemetry import rows as r
from bench.telemetry.deployments import Deployment
from bench.telemetry.rows import Column
from bench.telemetry.truth import NOT_YET, UPDATES, Fold

Plain = dict[str, Any]
RANK_TOLERANCE = 0.01
"""Of all values: so many ranks beside the exact one a percentile may lie, and one at least, since there are several
definitions of it."""
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


def adoption_curve(fold: Fold, first: date, last: date) -> list[Plain]:
    """Return the share of active devices that held each version, by day."""
    return [{"day": day, **_held(facts.held)} for day, facts in fold.within(first, last)]


def adoption_curve_by_hour(fold: Fold, deployed_at: datetime, hours: int) -> list[Plain]:
    """Return the same by hour since a deploy."""
    start = int(deployed_at.timestamp()) // 3600
    by_hour: dict[int, Column] = {}
    for facts in fold.days.values():
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


def active_devices(fold: Fold, first: date, last: date, dimension: str) -> list[Plain]:
    """Return the devices of each day by a dimension."""
    answer = []
    for day, facts in fold.within(first, last):
        total = int(facts.values[dimension].sum())
        values = [
            {"value": r.TEXTS[dimension][code], "devices": devices, "share": devices / total}
            for code, devices in enumerate(facts.values[dimension].tolist())
            if devices
        ]
        answer.append({"day": day, "active_devices": total, "values": values, "other_devices": 0})
    return answer


def installations(fold: Fold) -> Plain:
    """Return the devices that ever activated a version."""
    activated = fold.activated_at < NOT_YET
    versions = [
        {"version": version, "devices": int(devices)}
        for version, devices in enumerate(activated.sum(axis=1))
        if devices
    ]
    return {"devices": int(activated.any(axis=0).sum()), "versions": versions}


def version_mix(fold: Fold, first: date, _: date) -> list[Plain]:
    """Return what is held now by those that were heard of since the window's first day."""
    heard = fold.union(facts.active for _, facts in fold.within(first, date.max))
    return _shares(dict(enumerate(np.bincount(fold.told[heard]).tolist())))


def funnel(fold: Fold, first: date, last: date) -> list[Plain]:
    """Return how far devices came on the way to each version."""
    checked = int(fold.union(facts.checked for _, facts in fold.within(first, last)).sum())
    answer = []
    for version in _tried_versions(fold, first, last):
        kinds = {kind: _tried(fold, first, last, version, [kind]) for kind in UPDATES}
        verified = kinds[r.VERIFY] | kinds[r.ACTIVATE]
        reached = [int(one.sum()) for one in (kinds[r.DOWNLOAD] | verified, verified, kinds[r.ACTIVATE])]
        counts = [max(checked, reached[0]), *reached]
        lost = [counts[place] - counts[place + 1] for place in range(3)] + [0]
        tried = int(_tried(fold, first, last, version, UPDATES).sum())
        leaks = [tried - reached[0], lost[1], lost[2]]
        answer.append(
            {
                "version": version,
                "steps": [
                    {"step": step, "devices": devices, "lost": gone}
                    for step, devices, gone in zip(STEPS, counts, lost, strict=True)
                ],
                "leak": STEPS[leaks.index(max(leaks))] if max(leaks) else None,
                "tried_devices": tried,
                "failed_devices": int((kinds[r.ERROR] & ~kinds[r.ACTIVATE]).sum()),
            }
        )
    return answer


def failure_rates(fold: Fold, first: date, last: date) -> list[Plain]:
    """Return how often each version failed, and why."""
    answer = []
    for version in _tried_versions(fold, first, last):
        tried = int(_tried(fold, first, last, version, UPDATES).sum())
        failed = int(_tried(fold, first, last, version, [r.ERROR]).sum())
        counts: Counter[int] = Counter()
        for _, facts in fold.within(first, last):
            counts.update({error: number for (of, error), (number, _) in facts.failed.items() if of == version})
        reasons = [
            {
                "error": r.ERRORS[error],
                "count": number,
                "devices": int(_failed(fold, first, last, version, error).sum()),
            }
            for error, number in counts.items()
        ]
        answer.append(
            {
                "version": version,
                "tried_devices": tried,
                "failed_devices": failed,
                "rate": failed / tried,
                "errors": counts.total(),
                "reasons": reasons,
            }
        )
    return answer


def download_times(fold: Fold, first: date, last: date) -> Plain:
    """Return the exact percentiles of durations: the smallest value that so many do not exceed."""
    by_version: dict[int, list[Column]] = {}
    for _, facts in fold.within(first, last):
        for version, durations in facts.durations.items():
            by_version.setdefault(version, []).append(durations)
    times = {version: np.concatenate(parts) for version, parts in by_version.items()}
    overall = np.concatenate(list(times.values())) if times else None
    return {
        "overall": None if overall is None else _times(None, overall),
        "versions": [_times(version, durations) for version, durations in times.items()],
    }


def _times(version: int | None, durations: Column) -> Plain:
    ordered = np.sort(durations)
    p50, p95 = (Percentile.of(ordered, share) for share in (0.5, 0.95))
    return {"version": version, "downloads": len(ordered), "p50_ms": p50, "p95_ms": p95}


def bytes_sent(fold: Fold, first: date, last: date) -> Plain:
    """Return what downloads took, and what patches saved."""
    by_day: dict[date, Column] = {}
    by_encoding: dict[int, Column] = {}
    for day, facts in fold.within(first, last):
        for encoding, sums in facts.bytes.items():
            by_day[day] = by_day.get(day, np.zeros(4, np.int64)) + sums
            by_encoding[encoding] = by_encoding.get(encoding, np.zeros(4, np.int64)) + sums
    total = sum(by_day.values(), np.zeros(4, np.int64))
    return {
        **_sums(total),
        "days": [{"day": day, **_sums(sums)} for day, sums in by_day.items()],
        "encodings": [{"encoding": r.ENCODINGS[encoding], **_sums(sums)} for encoding, sums in by_encoding.items()],
    }


def _sums(sums: Column) -> Plain:
    return dict(zip(("downloads", "bytes", "full_bytes", "saved_bytes"), map(int, sums), strict=True))


def time_to_adopt(fold: Fold, deployment: Deployment) -> Plain:
    """Return when a version had reached shares of the devices that were heard of since its deploy."""
    active = fold.seen >= deployment.at
    seconds = np.sort(fold.activated_at[deployment.version][active])
    seconds = seconds[seconds < NOT_YET]
    reached = []
    for share in (0.5, 0.9, 0.99):
        needed = math.ceil(int(active.sum()) * share)
        second = int(seconds[needed - 1]) if 0 < needed <= len(seconds) else None
        at = None if second is None else datetime.fromtimestamp(max(second, deployment.at), UTC)
        reached.append(
            {"share": share, "at": at, "seconds": None if second is None else max(0, second - deployment.at)}
        )
    return {
        "version": deployment.version,
        "active_devices": int(active.sum()),
        "adopted_devices": len(seconds),
        "reached": reached,
    }


def stuck_devices(fold: Fold, version: int, before: int, limit: int) -> Plain:
    """Return who is stuck on the way to a version, of those heard of in the last days.

    Args:
        before: second by which a device must have tried first.
        limit: devices to list.
    """
    way = fold.ways[version]
    stuck = np.flatnonzero((way.since <= before) & ~way.activated & (fold.recent_told != version))
    ids = fold.population.device_ids(stuck)
    order = np.lexsort((ids, way.since[stuck]))
    reasons = Counter((STEPS[way.step[one]], r.ERRORS[way.error[one]]) for one in stuck.tolist())
    return {
        "version": version,
        "total": len(stuck),
        "reasons": [{"step": step, "error": error, "devices": count} for (step, error), count in reasons.items()],
        "devices": [_stuck(fold, version, int(stuck[place])) for place in order[:limit].tolist()],
    }


def _stuck(fold: Fold, version: int, device: int) -> Plain:
    way = fold.ways[version]
    return {
        "device_id": fold.population.device_ids(np.array([device]))[0].decode(),
        "held": int(fold.recent_told[device]) or None,
        "since": datetime.fromtimestamp(int(way.since[device]), UTC),
        "last_seen": datetime.fromtimestamp(int(fold.recent_seen[device]), UTC),
        "step": STEPS[way.step[device]],
        "error": r.ERRORS[way.error[device]],
    }


def _tried_versions(fold: Fold, first: date, last: date) -> list[int]:
    return sorted({version for _, facts in fold.within(first, last) for _, version in facts.tried})


def _tried(fold: Fold, first: date, last: date, version: int, kinds: Iterable[int]) -> Column:
    wanted = [(kind, version) for kind in kinds]
    return fold.union(facts.tried[one] for _, facts in fold.within(first, last) for one in wanted if one in facts.tried)


def _failed(fold: Fold, first: date, last: date, version: int, error: int) -> Column:
    days = fold.within(first, last)
    return fold.union(facts.failed[version, error][1] for _, facts in days if (version, error) in facts.failed)
