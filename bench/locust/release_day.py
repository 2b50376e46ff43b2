"""A release day, compressed: night and day, a deploy, a push that wakes devices up, and the rest who come by and by.

``locust -f bench/locust/release_day.py --host … --environment-key … --users 200 --day-seconds 600``. Users are the mean
over the day; the push needs many times as many for a while. Nothing has to be deployed: devices that are behind ask
with an old entity tag.
"""

from __future__ import annotations

import time
from typing import Any

from locust import LoadTestShape

from bench.locust.devices import Device
from bench.locust.load import SECONDS_PER_DAY, SWING, Plan, behind_at, users_at

MINUTE, HOUR = 60, 3600
# The shape is asked each second; locust advises against more.
SPAWN_RATE = 100.0


def plan_of(options: Any, swing: float = SWING) -> Plan:
    """Return the day that the command line asks for."""
    share = options.day_seconds / SECONDS_PER_DAY
    return Plan(
        users=options.num_users or 10,
        day=options.day_seconds,
        interval=options.check_hours * HOUR * share,
        release=options.release_at * options.day_seconds,
        pushed=options.pushed,
        window=options.push_minutes * MINUTE * share,
        swing=swing,
    )


class ReleaseDayDevice(Device):
    """A device on that day."""

    swing = SWING
    _began = 0.0

    def on_start(self) -> None:
        """Read the settings; the day begins with the first user."""
        super().on_start()
        self._plan = plan_of(self.environment.parsed_options, self.swing)
        if not ReleaseDayDevice._began:
            ReleaseDayDevice._began = time.monotonic()

    def behind(self) -> float:
        """Return the share that the day's hour brings."""
        return behind_at(self._plan, time.monotonic() - ReleaseDayDevice._began, super().behind())


class ReleaseDay(LoadTestShape):  # type: ignore[misc]
    """As many users as there are visits, for one day."""

    use_common_options = True
    swing = SWING

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users now; None at the end of the day."""
        assert self.runner is not None
        plan = plan_of(self.runner.environment.parsed_options, self.swing)
        now = self.get_run_time()
        return None if now >= plan.day else (users_at(plan, now), SPAWN_RATE)


# The base class is no scenario of its own here.
del Device
