"""What is true of a population's events, counted while they are generated: exactly, in numpy, without a database.

A day is folded at a time. Of a day are kept: counts, sets of devices (a bit each) and the durations of downloads; of a
device: what it told last and when it activated what. So memory grows with devices and days, not with events.

An event that is delivered again is one event, and yet its second delivery says something on the day on which it comes.
So there are two folds: of every delivery, and of the last one of each event, which is the one that stays in
``raw_events``. `bench.telemetry.expected` says which of the two an answer is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Final

import numpy as np

from bench.telemetry import rows as r
from bench.telemetry.deployments import DAY, HOUR
from bench.telemetry.population import Population
from bench.telemetry.rows import Column, Rows

UPDATES: Final = (r.DOWNLOAD, r.VERIFY, r.ACTIVATE, r.ERROR)
"""Events that say that a version was tried."""
NOT_YET: Final = 1 << 62
"""A second that has not come."""
RECENT_DAYS: Final = 14
"""The window in which stuck devices are looked for."""


@dataclass
class Day:
    """What was delivered on one day; sets of devices have a bit a device."""

    active: Column
    held: Column  # devices by the version they held at last; 0 is none
    values: dict[str, Column] = field(default_factory=dict)  # by dimension: devices by code
    hours: dict[int, Column] = field(default_factory=dict)  # as held, by hours since 1970
    tried: dict[tuple[int, int], Column] = field(default_factory=dict)  # by kind and version: devices
    failed: dict[tuple[int, int], tuple[int, Column]] = field(default_factory=dict)  # by version and error
    checked: Column = field(default_factory=lambda: np.zeros(0, np.uint8))
    durations: dict[int, Column] = field(default_factory=dict)  # by version: of downloads, in milliseconds
    bytes: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)  # by encoding: number, sent, full, saved


@dataclass
class Way:
    """How far each device came on the way to a version, within the last days; a place a device."""

    since: Column
    step: Column
    error: Column
    activated: Column


class Fold:
    """What follows from some deliveries.

    Args:
        population: whose they are.
    """

    def __init__(self, population: Population) -> None:
        count, versions = len(population.devices), len(population.deployments) + 1
        self.population = population
        self.days: dict[date, Day] = {}
        self.told = np.zeros(count, np.int32)
        self.seen = np.zeros(count, np.int64)
        self.activated_at = np.full((versions, count), NOT_YET, np.int64)
        self.recent_told = np.zeros(count, np.int32)
        self.recent_seen = np.zeros(count, np.int64)
        self.ways = [
            Way(np.full(count, NOT_YET), np.zeros(count, np.uint8), np.zeros(count, np.uint8), np.zeros(count, bool))
            for _ in range(versions)
        ]
        self.rows = 0

    def add(self, day: date, rows: Rows) -> None:
        """Add what arrived on a day, in order of arrival, about the model alone."""
        self.rows += len(rows)
        tells, told = what_is_told(rows)
        device, second = rows["device"], rows["received_ms"] // 1000
        self.days[day] = self._day(rows, tells, told)
        # Where a place comes twice the last value stays, which is that of the last arrival.
        self.told[device[tells]] = told[tells]
        self.seen[device] = second
        activates = rows["kind"] == r.ACTIVATE
        np.minimum.at(self.activated_at, (rows["version"][activates], device[activates]), second[activates])
        last = self.population.settings.first_day + timedelta(days=self.population.settings.days - 1)
        if day > last - timedelta(days=RECENT_DAYS):
            self.recent_told[device[tells]] = told[tells]
            self.recent_seen[device] = second
            self._go_on(rows, second)

    def within(self, first: date, last: date) -> Iterator[tuple[date, Day]]:
        """Yield the days of a window on which something was delivered."""
        for day, facts in self.days.items():
            if first <= day <= last and facts.active.any():
                yield day, facts

    def union(self, sets: Iterable[Column]) -> Column:
        """Return which devices are in one of the sets, a place a device."""
        united = np.zeros((len(self.population.devices) + 7) // 8, np.uint8)
        for one in sets:
            united |= one
        return np.unpackbits(united, count=len(self.population.devices)).astype(bool)

    def _day(self, rows: Rows, tells: Column, told: Column) -> Day:
        versions, count = len(self.population.deployments) + 1, len(self.population.devices)
        device, hour = rows["device"], rows["received_ms"] // (HOUR * 1000)
        day = Day(
            self._set(device),
            self._held(device, tells, told, versions),
            checked=self._set(device[rows["kind"] == r.CHECK]),
        )
        for now in np.unique(hour):
            within = hour == now
            day.hours[int(now)] = self._held(device[within], tells[within], told[within], versions)
        for name in r.DIMENSIONS:
            codes = np.zeros(count, np.int64)
            codes[device] = rows[name]
            active = np.zeros(count, bool)
            active[device] = True
            day.values[name] = np.bincount(codes[active], minlength=len(r.TEXTS[name]))
        self._add_updates(day, rows)
        return day

    def _add_updates(self, day: Day, rows: Rows) -> None:
        kind, version, device = rows["kind"], rows["version"], rows["device"]
        for one in UPDATES:
            for number in np.unique(version[kind == one]).tolist():
                day.tried[one, number] = self._set(device[(kind == one) & (version == number)])
        errors = rows.take(kind == r.ERROR)
        for number, error in np.unique(np.stack([errors["version"], errors["error"]]), axis=1).T.tolist():
            of = (errors["version"] == number) & (errors["error"] == error)
            day.failed[number, error] = int(of.sum()), self._set(errors["device"][of])
        downloads = rows.take(kind == r.DOWNLOAD)
        for number in np.unique(downloads["version"]).tolist():
            day.durations[number] = downloads["duration_ms"][downloads["version"] == number]
        for encoding in np.unique(downloads["encoding"]).tolist():
            of = downloads["encoding"] == encoding
            sent, full = downloads["bytes"][of], downloads["full_bytes"][of]
            saved = int((full - sent).clip(0).sum()) if encoding == r.PATCH else 0
            day.bytes[encoding] = int(of.sum()), int(sent.sum()), int(full.sum()), saved

    def _go_on(self, rows: Rows, second: Column) -> None:
        kind, device = rows["kind"], rows["device"]
        for number, way in enumerate(self.ways):
            tries = (rows["version"] == number) & np.isin(kind, UPDATES)
            np.minimum.at(way.since, device[tries], second[tries])
            np.maximum.at(way.step, device[tries & (kind == r.DOWNLOAD)], 1)
            np.maximum.at(way.step, device[tries & (kind == r.VERIFY)], 2)
            failed = tries & (kind == r.ERROR)
            way.error[device[failed]] = rows["error"][failed]
            way.activated[device[tries & (kind == r.ACTIVATE)]] = True

    def _set(self, device: Column) -> Column:
        mask = np.zeros(len(self.population.devices), bool)
        mask[device] = True
        return np.packbits(mask)

    def _held(self, device: Column, tells: Column, told: Column, versions: int) -> Column:
        """Return how many devices held each version: what each told last, and none when it told nothing."""
        held = np.zeros(len(self.population.devices), np.int64)
        held[device[tells]] = told[tells]
        heard = np.zeros(len(held), bool)
        heard[device] = True
        return np.bincount(held[heard], minlength=versions)


class Truth:
    """Both folds of a population's events.

    Args:
        population: the one that is asked about.
    """

    def __init__(self, population: Population) -> None:
        self.population = population
        self.every = Fold(population)
        self.kept = Fold(population)

    @property
    def now(self) -> datetime:
        """The window's last second."""
        settings = self.population.settings
        return _moment(settings.first_second + settings.days * DAY - 1)

    def counting(self, days: Iterable[Rows]) -> Iterator[Rows]:
        """Pass on the rows of each day, counted."""
        for number, rows in enumerate(days):
            ours = rows.take((rows["source"] == self.population.source) & (rows["model"] == r.SUBJECT))
            day = self.population.settings.first_day + timedelta(days=number)
            self.every.add(day, ours)
            self.kept.add(day, ours.take(ours["last"]))
            yield rows


def what_is_told(rows: Rows) -> tuple[Column, Column]:
    """Return which rows tell what a device holds, and what (0 is no version): ``docs/telemetry.md``, "Version held"."""
    says = (rows["kind"] == r.CHECK) | (rows["kind"] == r.ACTIVATE)
    tells: Column = says | (rows["from_version"] != r.NONE)
    return tells, np.where(says, rows["version"], rows["from_version"]).clip(0)


def _moment(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)
