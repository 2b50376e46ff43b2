"""A push in the middle of an even load: devices that it wakes up come within minutes, all of them to update.

``locust -f bench/locust/push_burst.py --host … --environment-key … --users 200 --day-seconds 600 --push-minutes 15``.
It is the release day without night, so that the burst stands alone.
"""

from __future__ import annotations

from bench.locust.release_day import ReleaseDay, ReleaseDayDevice


class PushedDevice(ReleaseDayDevice):
    """A device that a push may wake up."""

    swing = 0.0


class PushBurst(ReleaseDay):
    """Even load, then the burst, then even load."""

    swing = 0.0


# Only what is defined here is a scenario of this file.
del ReleaseDay, ReleaseDayDevice
