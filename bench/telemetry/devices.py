"""The devices of a population: where they are, what they are, how often they call, and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.telemetry.deployments import BUCKETS, DAY
from bench.telemetry.rows import (
    APP_VERSIONS,
    DEVICE_MODELS,
    FIRST_ANDROID,
    IPHONES,
    SYSTEM_VERSIONS,
    Column,
)

NEVER: Final = 1 << 30
"""A day, or a version, that does not come."""
TEXT_BYTES: Final = 36
"""A device id is a UUID as text."""

# Time zone in hours, its share of devices, and the places in LOCALES of those who live there.
ZONES: Final[tuple[tuple[float, float, tuple[int, ...]], ...]] = (
    (-8, 0.10, (1,)),
    (-5, 0.17, (1, 2)),
    (-3, 0.08, (3,)),
    (0, 0.09, (4,)),
    (1, 0.22, (5, 6, 7, 8, 9)),
    (3, 0.06, (10,)),
    (5.5, 0.12, (11,)),
    (8, 0.08, (12,)),
    (9, 0.06, (13, 14)),
    (10, 0.02, (15,)),
)
IOS_SHARE: Final = 0.55
SYSTEM_SHARES: Final = {"ios": (0.1, 0.2, 0.4, 0.25, 0.05), "android": (0.15, 0.3, 0.35, 0.2)}
HOLDS_FIRST_VERSION: Final = 0.9
"""Of the devices that are there from the first day on; the others have the app and no model yet."""
INSTALLED_LATER, GONE_FOR_GOOD, LONG_AWAY = 0.25, 0.05, 0.08
STUCK_SHARE: Final = 0.01
WRONG_CLOCKS: Final = ((0.01, 3 * 365 * DAY), (0.01, -7 * 3600), (0.005, 26 * 3600))
"""Share of devices, and how far their clocks are off, in seconds."""
CLOCK_OF_1970: Final = 0.01


@dataclass(frozen=True)
class Devices:
    """Drawn once from a seed; a place in the columns is a device."""

    ids: Column  # TEXT_BYTES characters each
    zone: Column  # seconds that its clock on the wall is ahead
    locale: Column
    os: Column
    device_model: Column
    first_os_version: Column
    os_updates_on: Column  # the day on which it takes the next version of its system
    app_lags: Column  # a column an app version after the first: days after its release
    checks: Column  # mean of a day on which it is used
    used: Column  # share of days on which it is used
    installed_on: Column
    gone_on: Column
    away_from: Column
    away_until: Column
    patience: Column  # share of checks at which it may download: on Wi-Fi, charging
    buckets: Column
    stuck_from: Column  # from this version on it fails, every time
    stuck_stage: Column
    stuck_error: Column
    thrifty: Column  # reports once a day, all at once
    clock_ahead: Column
    clock_of_1970: Column
    first_version: Column

    def __len__(self) -> int:
        """Devices."""
        return len(self.zone)

    def os_version(self, day: int) -> Column:
        """Return the place in SYSTEM_VERSIONS of each device on a day."""
        last = np.where(self.os == 1, FIRST_ANDROID - 1, len(SYSTEM_VERSIONS) - 1)
        taken: Column = np.minimum(self.first_os_version + (day >= self.os_updates_on), last)
        return taken

    def app_version(self, day: int, releases: Column) -> Column:
        """Return the place in APP_VERSIONS of each device on a day.

        Args:
            day: counted from the first.
            releases: days on which the versions after the first came out.
        """
        taken: Column = (releases[None, :] + self.app_lags <= day).sum(axis=1)
        return taken + 1

    def present(self, day: int) -> Column:
        """Return which devices are there on a day, in use or not."""
        away = (self.away_from <= day) & (day < self.away_until)
        there: Column = (self.installed_on <= day) & (day < self.gone_on) & ~away
        return there


def draw_devices(chance: np.random.Generator, count: int, days: int, deployments: int) -> Devices:
    """Draw so many devices for a window of so many days."""
    zones = chance.choice(len(ZONES), count, p=[share for _, share, _ in ZONES])
    ios = chance.random(count) < IOS_SHARE
    installed_on = np.where(chance.random(count) < INSTALLED_LATER, chance.integers(1, max(2, days), count), 0)
    away = chance.random(count) < LONG_AWAY
    away_from = np.where(away, chance.integers(0, days, count), NEVER)
    stuck = chance.random(count) < STUCK_SHARE
    stage = chance.integers(1, 4, count)
    return Devices(
        ids=_ids(chance, count),
        zone=np.array([hours * 3600 for hours, _, _ in ZONES])[zones],
        locale=_locales(chance, zones),
        os=np.where(ios, 1, 2).astype(np.uint8),
        device_model=_device_models(chance, ios),
        first_os_version=_system_versions(chance, ios),
        os_updates_on=np.where(chance.random(count) < 0.5, chance.integers(0, 2 * days, count), NEVER),
        app_lags=chance.geometric(0.2, (count, len(APP_VERSIONS) - 2)) - 1,
        checks=1 + chance.gamma(2.0, 1.6, count),
        used=chance.beta(6, 1.5, count),
        installed_on=installed_on,
        gone_on=np.where(chance.random(count) < GONE_FOR_GOOD, chance.integers(1, days + 1, count), NEVER),
        away_from=away_from,
        away_until=away_from + chance.integers(5, 40, count),
        patience=chance.uniform(0.3, 1.0, count),
        buckets=chance.integers(0, BUCKETS, (count, deployments), dtype=np.uint16),
        stuck_from=np.where(stuck, chance.integers(2, deployments + 1, count), NEVER),
        stuck_stage=stage.astype(np.uint8),
        stuck_error=np.array([0, 3, 4, 7], np.uint8)[stage],
        thrifty=chance.random(count) < 0.15,
        clock_ahead=_clocks(chance, count),
        clock_of_1970=chance.random(count) < CLOCK_OF_1970,
        first_version=((installed_on == 0) & (chance.random(count) < HOLDS_FIRST_VERSION)).astype(np.int32),
    )


def _ids(chance: np.random.Generator, count: int) -> Column:
    """Return UUIDs as texts: what a device draws for itself."""
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[chance.integers(0, 16, (count, 32), dtype=np.uint8)]
    digits[:, 12] = ord("4")
    dash = np.full((count, 1), ord("-"), np.uint8)
    cut = (digits[:, :8], digits[:, 8:12], digits[:, 12:16], digits[:, 16:20], digits[:, 20:])
    pieces: list[Column] = [cut[0]]
    for piece in cut[1:]:
        pieces += [dash, piece]
    return np.ascontiguousarray(np.concatenate(pieces, axis=1)).view(f"S{TEXT_BYTES}").reshape(count)


def _locales(chance: np.random.Generator, zones: Column) -> Column:
    spoken = [languages for _, _, languages in ZONES]
    width = max(map(len, spoken))
    table = np.array([[languages[place % len(languages)] for place in range(width * 2)] for languages in spoken])
    return table[zones, chance.integers(0, width * 2, len(zones))].astype(np.uint8)


def _device_models(chance: np.random.Generator, ios: Column) -> Column:
    """Few models are common and many are rare."""
    androids = len(DEVICE_MODELS) - 1 - IPHONES
    common = 1 / np.arange(1, IPHONES + 1)
    drawn = chance.choice(IPHONES, len(ios), p=common / common.sum())
    other = 1 / np.arange(1, androids + 1)
    drawn_other = chance.choice(androids, len(ios), p=other / other.sum())
    return np.where(ios, 1 + drawn, 1 + IPHONES + drawn_other).astype(np.uint8)


def _system_versions(chance: np.random.Generator, ios: Column) -> Column:
    apple, android = SYSTEM_SHARES["ios"], SYSTEM_SHARES["android"]
    return np.where(
        ios,
        1 + chance.choice(len(apple), len(ios), p=apple),
        FIRST_ANDROID + chance.choice(len(android), len(ios), p=android),
    )


def _clocks(chance: np.random.Generator, count: int) -> Column:
    """Most clocks are right within a minute; some are hours or years off."""
    ahead: Column = chance.normal(0, 15, count)
    drawn = chance.random(count)
    for share, seconds in WRONG_CLOCKS:
        ahead[drawn < share] += seconds
        drawn = np.where(drawn < share, 1.0, drawn - share)
    return ahead
