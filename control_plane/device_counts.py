"""How many devices are registered with environments, without counting millions of them for every page.

A database counts rows one by one: a million take a tenth of a second. A count that took long is kept for a while, so
that counting takes a hundredth of the time at most; one that was quick is made anew each time, and is exact.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.tables import Device

# Some 50,000 devices. Nobody notices it.
QUICK_SECONDS: Final = 0.005
# For each second that a count took, so long is it kept: ten seconds with a million devices.
KEPT_FOR: Final = 100
# Environments whose counts are kept, a hundred bytes each.
MAX_KEPT: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Kept:
    count: int
    until: float


class DeviceCounts:
    """Counts registered devices, for the whole process.

    Args:
        clock: seconds that no correction of the clock moves.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[str, _Kept] = {}

    async def of(self, session: AsyncSession, environment_ids: Sequence[str]) -> dict[str, int]:
        """Return how many devices are registered with each environment, zero among it."""
        now = self._clock()
        told = {one: kept.count for one in environment_ids if (kept := self._kept.get(one)) and kept.until > now}
        asked = [one for one in environment_ids if one not in told]
        if not asked:
            return told
        query = (
            select(Device.environment_id, func.count())
            .where(Device.environment_id.in_(asked))
            .group_by(Device.environment_id)
        )
        counted = dict.fromkeys(asked, 0) | {row[0]: row[1] for row in (await session.execute(query)).all()}
        self._keep(counted, self._clock() - now)
        return told | counted

    def _keep(self, counted: dict[str, int], seconds: float) -> None:
        if seconds < QUICK_SECONDS:
            return
        if len(self._kept) + len(counted) > MAX_KEPT:
            self._kept.clear()
        until = self._clock() + seconds * KEPT_FOR
        self._kept |= {one: _Kept(count, until) for one, count in counted.items()}
