"""Names lately found to be absent, so that asking for them again costs nothing: bounded in number and time."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable


class RecentlyAbsent:
    """A bounded memory of absences.

    Args:
        seconds: how long an absence is believed; short, because what is absent may be published.
        max_names: the oldest absences are forgotten beyond it.
        clock: monotonic, in seconds.
    """

    def __init__(self, seconds: float, max_names: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._max_names = max_names
        self._clock = clock
        self._until: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def add(self, name: str) -> None:
        """Remember that ``name`` is absent now."""
        self._until[name] = self._clock() + self._seconds
        self._until.move_to_end(name)
        if len(self._until) > self._max_names:
            self._until.popitem(last=False)

    def __contains__(self, name: str) -> bool:
        until = self._until.get(name)
        if until is None:
            return False
        if until > self._clock():
            return True
        del self._until[name]
        return False
