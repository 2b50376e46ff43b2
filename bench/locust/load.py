"""How many devices call when: the arithmetic of a push burst and of a release day, in compressed time.

A locust user makes one visit every ``visit_seconds`` on average. With an interval between the checks of a device,
a user therefore stands for ``interval / visit_seconds`` devices. Gaps are drawn from the exponential distribution, as
clients spread their checks by chance; so of the devices that check by themselves, exp(-t / interval) have not called
t seconds after a release.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SECONDS_PER_DAY = 86_400
# A day's visits swing by this share around their mean, lowest at the beginning (at night) and highest in the middle.
SWING = 0.6


@dataclass(frozen=True)
class Plan:
    """A day, compressed, with a release and a push in it.

    Args:
        users: locust users on average over the day; 1 visit each per ``visit_seconds``.
        day: length of the simulated day in real seconds.
        interval: real seconds between two checks of a device.
        release: real seconds from the start at which the release is deployed.
        pushed: share of the devices that a push wakes up.
        window: real seconds within which they come, evenly.
        swing: see `SWING`; 0 for a day without night.
    """

    users: int
    day: float
    interval: float
    release: float
    pushed: float
    window: float
    swing: float = SWING

    def __post_init__(self) -> None:
        """Refuse what makes no day."""
        if min(self.day, self.interval, self.window) <= 0 or self.users < 1 or not 0 <= self.pushed <= 1:
            raise ValueError("day, interval, window and users are above zero, and pushed is between 0 and 1")

    def compressed(self, seconds: float) -> float:
        """Return how long so many seconds of the simulated day take here."""
        return seconds * self.day / SECONDS_PER_DAY


def regular(plan: Plan, moment: float) -> float:
    """Return the users whose devices check by themselves at a moment."""
    return plan.users * (1 - plan.swing * math.cos(2 * math.pi * moment / plan.day))


def woken(plan: Plan, moment: float) -> float:
    """Return the users whose devices come because of the push.

    All devices together are ``users * interval`` visits; the pushed share of them comes within the window.
    """
    if not plan.release <= moment < plan.release + plan.window:
        return 0.0
    return plan.users * plan.pushed * plan.interval / plan.window


def users_at(plan: Plan, moment: float) -> int:
    """Return how many users there are at a moment, at least one."""
    return max(1, round(regular(plan, moment) + woken(plan, moment)))


def behind_at(plan: Plan, moment: float, usual: float) -> float:
    """Return the share of visits at a moment that find another manifest.

    Args:
        plan: the day.
        moment: seconds from its start.
        usual: the share when there was no release.
    """
    since = moment - plan.release
    if since < 0:
        return usual
    reached = plan.pushed * min(1.0, since / plan.window)
    not_called = math.exp(-since / plan.interval)
    by_themselves, by_push = regular(plan, moment), woken(plan, moment)
    behind = by_themselves * not_called * (1 - reached) + by_push * not_called
    return max(usual, behind / (by_themselves + by_push))
