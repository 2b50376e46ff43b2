"""What the devices of one application do, day by day: visits become events, events batches, batches arrive.

A day is worked out for all devices at once, and what it gives that arrives later is carried along, so memory is bounded
by a day's events and not by the window. Everything is drawn from the seed; the same settings give the same rows.

A visit is: check; when another version is offered and the device may download, download, verify, activate, or an error
in the place of one of them. The events of a visit are a batch. Batches are late (the network was away), come again (the
answer was lost), hold an event twice; thrifty devices hand in a day's visits at once, before midnight of UTC or after.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Final

import numpy as np

from bench.telemetry import rows as r
from bench.telemetry.deployments import DAY, HOUR, Deployment, offered, usual_deployments
from bench.telemetry.devices import draw_devices
from bench.telemetry.rows import Column, Rows, joined, no_rows
from telemetry.segment import EventLabels

MAX_VISITS: Final = 12
"""A day and device."""
LEAST_GAP: Final = 1800
"""Seconds between two visits of a device; longer than the slowest download."""
LONGEST_DOWNLOAD_MS: Final = 1_500_000
RHYTHM: Final = np.array([2, 1, 1, 1, 1, 2, 5, 9, 9, 7, 6, 6, 8, 8, 6, 6, 6, 7, 9, 11, 12, 11, 8, 4], float)
"""Weights of the hours of a device's own day: people wake, commute, and sit down in the evening."""

LATE, LATEST_SECONDS = 0.02, 2 * DAY
AGAIN, AGAIN_SOON, SOON_SECONDS, AGAIN_LATEST_SECONDS = 0.015, 0.7, 60, 36 * HOUR
TWICE_IN_BATCH: Final = 0.003
OTHER_MODEL, UNKNOWN_TYPE, WITHOUT_MODEL = 0.1, 0.01, 0.005
LOST_DOWNLOAD, WRONG_BYTES = 0.03, 0.002
"""Shares: of batches, of events, of visits, of downloads."""
MILLISECONDS: Final = 4
"""Times of arrival divided by this leave 0 in time, 1 late, and 2 again, so two deliveries never share a time."""

NOTHING, NO_DOWNLOAD, NO_VERIFY, NO_ACTIVATE, DONE = range(5)
"""What a visit comes to."""


@dataclass(frozen=True)
class Settings:
    """A population.

    Args:
        labels: whose app it is.
        devices: that ever exist.
        first_day: of UTC.
        days: the window's length.
        seed: of everything that is drawn.
    """

    labels: EventLabels
    devices: int
    first_day: date
    days: int
    seed: int = 1

    @property
    def first_second(self) -> int:
        """When the window begins, in seconds since 1970."""
        return int(datetime.combine(self.first_day, time(), UTC).timestamp())


@dataclass(frozen=True)
class _Visits:
    """Visits of one day, those of a device together and in order; one place a visit in every column."""

    device: Column
    at: Column  # seconds since 1970, true time
    rank: Column  # which of the device's visits today
    held: Column
    wanted: Column
    outcome: Column
    error: Column
    download_ms: Column


class Population:
    """The devices of one application and what they send.

    Args:
        settings: see `Settings`.
        source: written into every row.
    """

    def __init__(self, settings: Settings, source: int = 0) -> None:
        self.settings = settings
        self.source = source
        self.deployments: Sequence[Deployment] = usual_deployments(settings.first_second, settings.days)
        self.devices = draw_devices(self._chance(0), settings.devices, settings.days, len(self.deployments))
        self._app_releases = np.array([(place * settings.days) // 5 for place in range(len(r.APP_VERSIONS) - 2)])

    def days(self) -> Iterator[Rows]:
        """Yield what arrives on each day of UTC of the window, in order of arrival."""
        held = self.devices.first_version.copy()
        last = self.settings.days - 1
        waiting: dict[int, list[Rows]] = {day: [] for day in range(self.settings.days)}
        for day in range(self.settings.days):
            arrived = self._sent_on(day, held)
            arrives_on = (arrived["received_ms"] // 1000 - self.settings.first_second) // DAY
            for later in np.unique(arrives_on):
                if later <= last:
                    waiting[int(later)].append(arrived.take(arrives_on == later))
            parts = waiting.pop(day)
            yield (joined(parts) if parts else no_rows()).in_order_of_arrival()

    def device_ids(self, places: Column) -> Column:
        """Return the ids of devices as bytes of text."""
        ids: Column = self.devices.ids[places]
        return ids

    def _chance(self, *what: int) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, self.source, *what])

    def _sent_on(self, day: int, held: Column) -> Rows:
        """Return all deliveries of the batches that are made on a day; ``held`` becomes what devices hold after it."""
        chance = self._chance(1, day)
        device, at, rank = self._calls(chance, day)
        visits = self._visits(chance, device, at, rank, held)
        events, visit, ends = self._events(chance, day, visits)
        return self._deliveries(chance, events, visit, visits, ends)

    def _calls(self, chance: np.random.Generator, day: int) -> tuple[Column, Column, Column]:
        """Return who calls when: device, seconds since 1970, and which call of its day it is."""
        devices = self.devices
        in_use = devices.present(day) & (chance.random(len(devices)) < devices.used)
        number = np.where(in_use, 1 + chance.poisson(devices.checks - 1), 0).clip(0, MAX_VISITS)
        device = np.repeat(np.arange(len(devices), dtype=np.int32), number)
        hour = np.searchsorted(np.cumsum(RHYTHM / RHYTHM.sum()), chance.random(len(device))).clip(0, 23)
        own = hour * HOUR + chance.random(len(device)) * HOUR
        at = self.settings.first_second + day * DAY + (own - devices.zone[device]) % DAY
        order = np.lexsort((at, device))
        device, at = device[order], at[order]
        apart = np.ones(len(device), bool)
        apart[1:] = (device[1:] != device[:-1]) | (at[1:] - at[:-1] >= LEAST_GAP)
        device, at = device[apart], at[apart]
        first = np.searchsorted(device, device)
        return device, at, np.arange(len(device)) - first

    def _visits(self, chance: np.random.Generator, device: Column, at: Column, rank: Column, held: Column) -> _Visits:
        """Work out what each visit comes to, the first of all devices, then the second, and so on."""
        count, devices = len(device), self.devices
        refused = np.array([0.0, *(one.refused for one in self.deployments)])
        may, lost, wrong, unfit = (chance.random(count) for _ in range(4))
        reason = chance.integers(0, 2, count)
        had, wanted, outcome = np.zeros(count, np.int32), np.zeros(count, np.int32), np.zeros(count, np.uint8)
        for turn in range(int(rank.max()) + 1 if count else 0):
            now = np.flatnonzero(rank == turn)
            who = device[now]
            had[now] = held[who]
            wanted[now] = offered(self.deployments, devices.buckets[who], at[now])
            tries = (wanted[now] != had[now]) & (may[now] < devices.patience[who])
            came_to = np.select(
                [
                    ~tries,
                    wanted[now] >= devices.stuck_from[who],
                    lost[now] < LOST_DOWNLOAD,
                    wrong[now] < WRONG_BYTES,
                    unfit[now] < refused[wanted[now]],
                ],
                [NOTHING, devices.stuck_stage[who].astype(np.int64), NO_DOWNLOAD, NO_VERIFY, NO_ACTIVATE],
                DONE,
            )
            outcome[now] = came_to
            held[who] = np.where(came_to == DONE, wanted[now], had[now])
        ordinary = np.array([(0, 0), r.DOWNLOAD_ERRORS[:2], r.VERIFY_ERRORS, r.ACTIVATE_ERRORS, (0, 0)], np.uint8)
        stuck = (wanted >= devices.stuck_from[device]) & (outcome != NOTHING)
        error = np.where(stuck, devices.stuck_error[device], ordinary[outcome, reason])
        patched = self._is_patch(had, wanted)
        return _Visits(device, at, rank, had, wanted, outcome, error, _download_ms(chance, patched))

    @staticmethod
    def _is_patch(held: Column, wanted: Column) -> Column:
        """Return where a patch is taken: from the version before, or back to it."""
        patched: Column = (held > 0) & (np.abs(wanted - held) == 1)
        return patched

    def _events(self, chance: np.random.Generator, day: int, visits: _Visits) -> tuple[Rows, Column, Column]:
        """Return the events of all visits, of which visit each is, and when visits end (seconds)."""
        count, outcome = len(visits.device), visits.outcome
        everyone = np.arange(count)
        steps = (
            (r.REGISTER, 0, everyone[chance.random(count) < WITHOUT_MODEL]),
            (r.CHECK, 1, everyone),
            (r.OPENED, 2, everyone[chance.random(count) < UNKNOWN_TYPE]),
            (r.CHECK, 3, everyone[chance.random(count) < OTHER_MODEL]),
            (r.DOWNLOAD, 4, everyone[outcome >= NO_VERIFY]),
            (r.VERIFY, 5, everyone[outcome >= NO_ACTIVATE]),
            (r.ACTIVATE, 6, everyone[outcome == DONE]),
            (r.ERROR, 7, everyone[(outcome > NOTHING) & (outcome < DONE)]),
        )
        visit = np.concatenate([who for _, _, who in steps])
        step = np.concatenate([np.full(len(who), number, np.uint8) for _, number, who in steps])
        kind = np.concatenate([np.full(len(who), number, np.uint8) for number, _, who in steps])
        order = np.argsort(visit.astype(np.int64) * 8 + step)
        visit, step, kind = visit[order], step[order], kind[order]
        return self._filled_in(chance, day, visits, visit, step, kind), visit, self._ends(visits)

    def _filled_in(
        self, chance: np.random.Generator, day: int, visits: _Visits, visit: Column, step: Column, kind: Column
    ) -> Rows:
        count, device = len(visit), visits.device[visit]
        held, wanted = visits.held[visit], visits.wanted[visit]
        model = np.where(step == 3, r.OTHER, np.where(step == 0, 0, r.SUBJECT))
        checks = kind == r.CHECK
        about = step >= 4  # an update
        version = np.where(checks, np.where(step == 3, 1, held), np.where(about, wanted, 0))
        downloads = kind == r.DOWNLOAD
        patched = self._is_patch(held, wanted)
        full, patch = self._sizes(wanted)
        at = visits.at[visit] + step * 0.05 + np.where(about, visits.download_ms[visit] / 1000, 0.0)
        clock = at + self.devices.clock_ahead[device]
        clock = np.where(self.devices.clock_of_1970[device], at % (40 * DAY), clock)
        high, low = (chance.integers(0, 2**64, count, np.uint64) for _ in range(2))
        return Rows({name: np.zeros(count, kind_of) for name, kind_of in r.TYPES.items()}).with_columns(
            source=np.full(count, self.source),
            device=device,
            kind=kind,
            model=model,
            version=np.where(version > 0, version, r.NONE),
            from_version=np.where(about & (held > 0), held, r.NONE),
            bytes=np.where(downloads, np.where(patched, patch, full * 9 // 10), r.NONE),
            full_bytes=np.where(downloads, full, r.NONE),
            duration_ms=np.where(
                downloads, visits.download_ms[visit], np.where(about | checks, chance.integers(5, 400, count), r.NONE)
            ),
            encoding=np.where(downloads, np.where(patched, r.PATCH, r.FULL), 0),
            error=np.where(kind == r.ERROR, visits.error[visit], 0),
            # Version and variant of a random UUID (RFC 9562 section 5.4).
            id_high=(high & np.uint64(0xFFFFFFFFFFFF0FFF)) | np.uint64(0x4000),
            id_low=(low & np.uint64(0x3FFFFFFFFFFFFFFF)) | np.uint64(0x8000000000000000),
            occurred=clock.clip(0, 2**32 - 1),
            os=self.devices.os[device],
            os_version=self.devices.os_version(day)[device],
            device_model=self.devices.device_model[device],
            app_version=self.devices.app_version(day, self._app_releases)[device],
            locale=self.devices.locale[device],
        )

    def _sizes(self, wanted: Column) -> tuple[Column, Column]:
        full = np.array([0, *(one.full_bytes for one in self.deployments)])
        patch = np.array([0, *(one.patch_bytes for one in self.deployments)])
        return full[wanted], patch[wanted]

    @staticmethod
    def _ends(visits: _Visits) -> Column:
        ends: Column = visits.at + 0.4 + np.where(visits.outcome > NOTHING, visits.download_ms / 1000, 0.0)
        return ends

    def _deliveries(
        self, chance: np.random.Generator, events: Rows, visit: Column, visits: _Visits, ends: Column
    ) -> Rows:
        """Return the events with the places they have in their batches, once for each delivery of their batch."""
        count = len(visits.device)
        # A batch is named for its first visit; a thrifty device has one a day, which leaves with its last visit.
        thrifty = self.devices.thrifty[visits.device]
        batch = np.where(thrifty, np.arange(count) - visits.rank, np.arange(count))
        leaves = np.zeros(count)
        np.maximum.at(leaves, batch, ends)
        leaves += 0.05 + chance.random(count) * 2
        late = chance.random(count) < LATE
        leaves = np.where(late, leaves + chance.uniform(LEAST_GAP, LATEST_SECONDS, count), leaves)
        again = chance.random(count) < AGAIN
        soon = chance.random(count) < AGAIN_SOON
        pause = np.where(soon, chance.uniform(1, SOON_SECONDS, count), chance.uniform(1, AGAIN_LATEST_SECONDS, count))
        first_ms = _milliseconds(leaves, late.astype(np.int64))
        again_ms = _milliseconds(leaves + pause, np.full(count, 2))
        ends_at = (self.settings.first_second + self.settings.days * DAY) * 1000
        again &= again_ms < ends_at  # what would come after the window does not come

        twice = np.flatnonzero(chance.random(len(events)) < TWICE_IN_BATCH)
        rows = joined([events, events.take(twice)])
        of_batch = batch[np.concatenate([visit, visit[twice]])]
        last = np.ones(len(rows), bool)
        last[twice] = False
        order = np.argsort(of_batch, kind="stable")
        rows, of_batch, last = rows.take(order), of_batch[order], last[order]
        rows = rows.with_columns(
            place=np.arange(len(rows)) - np.searchsorted(of_batch, of_batch),
            received_ms=first_ms[of_batch],
            last=last & ~again[of_batch],
        )
        repeated = again[of_batch]
        second = rows.take(repeated).with_columns(received_ms=again_ms[of_batch][repeated], last=last[repeated])
        return joined([rows, second])


def _milliseconds(seconds: Column, residue: Column) -> Column:
    whole: Column = (seconds * 1000).astype(np.int64) // MILLISECONDS * MILLISECONDS + residue
    return whole


def _download_ms(chance: np.random.Generator, patched: Column) -> Column:
    """Return how long downloads take: most some seconds, and a tail as long as on a train (log-normal, then Pareto)."""
    middle = np.where(patched, np.log(700.0), np.log(4_200.0))
    usual = np.exp(chance.normal(middle, 0.9))
    slow = np.where(chance.random(len(patched)) < 0.05, 1 + chance.pareto(1.3, len(patched)), 1.0)
    taken: Column = (usual * slow).clip(20, LONGEST_DOWNLOAD_MS).astype(np.int64)
    return taken
