"""Hours of the day in which nobody is woken."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

_HOURS = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)")


@dataclass(frozen=True, slots=True)
class QuietHours:
    """A span of each day, in one time zone; it may go over midnight.

    Args:
        begins, ends: local times of day.
        zone: of these times.
    """

    begins: time
    ends: time
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str, zone: str) -> QuietHours:
        """Return the hours of a text such as ``22:00-07:00``.

        Raises:
            ValueError: it is none, or there is no such zone.
        """
        found = _HOURS.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is not HH:MM-HH:MM")
        first, second, third, fourth = (int(part) for part in found.groups())
        begins, ends = time(first, second), time(third, fourth)
        if begins == ends:
            raise ValueError("quiet hours begin and end at the same time")
        try:
            return cls(begins, ends, ZoneInfo(zone))
        except (KeyError, OSError, ValueError):
            raise ValueError(f"there is no time zone {zone!r}") from None

    def end_of(self, now: datetime) -> datetime | None:
        """Return when the quiet hours end that it is in now; None when it is in none.

        Args:
            now: with its zone.
        """
        local = now.astimezone(self.zone)
        clock = local.time()
        over_midnight = self.ends < self.begins
        inside = clock >= self.begins or clock < self.ends if over_midnight else self.begins <= clock < self.ends
        if not inside:
            return None
        day = local.date() + timedelta(days=1 if over_midnight and clock >= self.begins else 0)
        return datetime.combine(day, self.ends, self.zone)
