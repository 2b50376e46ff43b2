"""Several applications at once, as a warehouse holds them: one is asked about, the others are in the way."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Final

from bench.telemetry.population import Population, Settings
from bench.telemetry.rows import Rows, joined
from telemetry.segment import EventLabels

APPS: Final = 12
ORGANIZATIONS: Final = 4
DEVELOPMENT_SHARE: Final = 50
"""The subject's other environment has this part of its devices."""
EVENTS_PER_DEVICE_DAY: Final = 3.07
"""Measured; from it follows how many devices give a wanted number of events."""


class Fleet:
    """The populations whose events are mixed; the first is the one that is asked about.

    Args:
        devices: of the subject, and about as many of every other app.
        first_day: of UTC.
        days: the window's length.
        apps: applications that are drawn, the subject among them.
        seed: of everything that is drawn.
        copies: applications beside them that do what the last of these does; ``copying`` makes them.
    """

    def __init__(
        self, devices: int, first_day: date, days: int, apps: int = APPS, seed: int = 1, copies: int = 0
    ) -> None:
        self.populations = [
            Population(Settings(labels, max(1, count), first_day, days, seed), source)
            for source, (labels, count) in enumerate(_applications(devices, apps))
        ]
        self.copies = [labels_of(app) for app in range(apps, apps + copies)]
        self.apps = apps + copies

    @property
    def subject(self) -> Population:
        """Whose figures are asked for."""
        return self.populations[0]

    @property
    def copied(self) -> EventLabels:
        """The application that copies are made of."""
        return self.populations[-1].settings.labels

    @property
    def devices(self) -> int:
        """Devices of all applications."""
        drawn = [len(population.devices) for population in self.populations]
        return sum(drawn) + len(self.copies) * drawn[-1]

    def days(self) -> Iterator[Rows]:
        """Yield what arrives on each day, of all populations, in order of arrival."""
        for parts in zip(*(population.days() for population in self.populations), strict=True):
            yield joined(parts).in_order_of_arrival()


def devices_for(events: int, days: int, apps: int = APPS) -> int:
    """Return how many devices an app needs for about so many events of all."""
    return max(1, round(events / days / EVENTS_PER_DEVICE_DAY / (apps + 1 / DEVELOPMENT_SHARE)))


def labels_of(app: int, environment: str = "prod") -> EventLabels:
    """Return the labels of an application."""
    organization = app % ORGANIZATIONS + 1
    return EventLabels(
        organization_id=f"org-{organization}",
        organization=f"Organization {organization}",
        application_id=f"app-{app + 1}",
        application=f"Application {app + 1}",
        environment=environment,
    )


def _applications(devices: int, apps: int) -> Iterator[tuple[EventLabels, int]]:
    yield labels_of(0), devices
    yield labels_of(0, "dev"), devices // DEVELOPMENT_SHARE
    for app in range(1, apps):
        yield labels_of(app), devices
