"""What is true of a population's events, counted while they are generated: exactly, in numpy, without a database.

A day is folded at a time. Of a day are kept: counts of devices by what they were and held; of a device: what it told
last and when; of the events of updates, which are few, all that is asked about. So memory grows with devices, days and
updates, and not with the checks that are most of all events.

Every delivery counts on the day on which it comes: an event that comes again tomorrow says that its device is active
tomorrow too. It is one event all the same.
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
_OF_UPDATES: Final = (
    *("received_ms", "device", "kind", "version", "bytes", "full_bytes", "duration_ms", "encoding", "error"),
    *("id_high", "id_low"),
)


@dataclass
class Day:
    """What was delivered on one day.

    Args:
        active: devices that were heard of, a bit each.
        held: devices by the version they held at last; 0 is none.
        values: by dimension, devices by the code of what they told last.
        hours: as ``held``, by hours since 1970.
    """

    active: Column
    held: Column
    values: dict[str, Column] = field(default_factory=dict)
    hours: dict[int, Column] = field(default_factory=dict)


@dataclass(frozen=True)
class Updates:
    """Deliveries of events of updates, in order of arrival; columns as those of `Rows`."""

    columns: dict[str, Column]

    def __getitem__(self, name: str) -> Column:
        """Return a column."""
        return self.columns[name]

    def where(self, mask: Column) -> Updates:
        """Return some of them."""
        return Updates({name: column[mask] for name, column in self.columns.items()})

    def events(self) -> Updates:
        """Return the last delivery of each event."""
        ids = np.stack([self["id_high"], self["id_low"]])[:, ::-1]
        _, places = np.unique(ids, axis=1, return_index=True)
        mask = np.zeros(ids.shape[1], bool)
        mask[ids.shape[1] - 1 - places] = True
        return self.where(mask)

    def devices(self) -> int:
        """Return how many devices there are."""
        return len(np.unique(self["device"]))


class Truth:
    """The truth about a population's model.

    Args:
        population: the one that is asked about.
    """

    def __init__(self, population: Population) -> None:
        count = len(population.devices)
        self.population = population
        self.days: dict[date, Day] = {}
        self.told = np.zeros(count, np.int32)
        self.seen = np.zeros(count, np.int64)
        self.deliveries = 0
        self.events = 0
        self._parts: list[Updates] = []

    @property
    def now(self) -> datetime:
        """The window's last second."""
        settings = self.population.settings
        return datetime.fromtimestamp(settings.first_second + settings.days * DAY - 1, UTC)

    def counting(self, days: Iterable[Rows]) -> Iterator[Rows]:
        """Pass on the rows of each day, counted."""
        for number, rows in enumerate(days):
            ours = rows.take((rows["source"] == self.population.source) & (rows["model"] == r.SUBJECT))
            self._add(self.population.settings.first_day + timedelta(days=number), ours)
            yield rows

    def within(self, first: date, last: date) -> Iterator[tuple[date, Day]]:
        """Yield the days of a window on which something was delivered."""
        for day, facts in self.days.items():
            if first <= day <= last and facts.active.any():
                yield day, facts

    def active(self, first: date, last: date) -> Column:
        """Return which devices were heard of in a window, a place a device."""
        heard = np.zeros((len(self.population.devices) + 7) // 8, np.uint8)
        for _, facts in self.within(first, last):
            heard |= facts.active
        return np.unpackbits(heard, count=len(self.population.devices)).astype(bool)

    def updates(self, first: date = date.min, last: date = date.max) -> Updates:
        """Return what was delivered about updates in a window."""
        if len(self._parts) > 1:
            self._parts = [
                Updates({name: np.concatenate([part[name] for part in self._parts]) for name in _OF_UPDATES})
            ]
        whole = self._parts[0]
        day = whole["received_ms"] // (DAY * 1000)
        return whole.where((day >= _number(first)) & (day <= _number(last)))

    def _add(self, day: date, rows: Rows) -> None:
        """Add what arrived on a day, in order of arrival, about the model alone."""
        self.deliveries += len(rows)
        self.events += int(rows["last"].sum())
        tells, told = what_is_told(rows)
        device = rows["device"]
        self.days[day] = self._day(rows, tells, told)
        # Where a place comes twice the last value stays, which is that of the last arrival.
        self.told[device[tells]] = told[tells]
        self.seen[device] = rows["received_ms"] // 1000
        updates = np.isin(rows["kind"], UPDATES)
        self._parts.append(Updates({name: rows[name][updates] for name in _OF_UPDATES}))

    def _day(self, rows: Rows, tells: Column, told: Column) -> Day:
        device, hour = rows["device"], rows["received_ms"] // (HOUR * 1000)
        active = np.zeros(len(self.population.devices), bool)
        active[device] = True
        day = Day(np.packbits(active), self._held(device, tells, told))
        for now in np.unique(hour).tolist():
            within = hour == now
            day.hours[now] = self._held(device[within], tells[within], told[within])
        for name in r.DIMENSIONS:
            codes = np.zeros(len(active), np.int64)
            codes[device] = rows[name]
            day.values[name] = np.bincount(codes[active], minlength=len(r.TEXTS[name]))
        return day

    def _held(self, device: Column, tells: Column, told: Column) -> Column:
        """Return how many devices held each version: what each told last, and none when it told nothing."""
        held = np.zeros(len(self.population.devices), np.int64)
        held[device[tells]] = told[tells]
        heard = np.zeros(len(held), bool)
        heard[device] = True
        return np.bincount(held[heard], minlength=len(self.population.deployments) + 1)


def what_is_told(rows: Rows) -> tuple[Column, Column]:
    """Return which rows tell what a device holds, and what (0 is no version); ``docs/telemetry.md``, "Version held"."""
    says = (rows["kind"] == r.CHECK) | (rows["kind"] == r.ACTIVATE)
    tells: Column = says | (rows["from_version"] != r.NONE)
    return tells, np.where(says, rows["version"], rows["from_version"]).clip(0)


def _number(day: date) -> int:
    return (day - date(1970, 1, 1)).days
