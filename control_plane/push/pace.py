"""A pace for sending: so many a second, unevenly, so that the devices that are woken do not all come at one moment."""

from __future__ import annotations

import asyncio
import random

# Sending begins in lots, one each turn; shorter turns would cost more than they smooth.
TURN_SECONDS = 0.02


class Pace:
    """Hands out permits at a rate.

    Args:
        per_second: permits.
        rng: for the unevenness: a turn lasts between half and one and a half of its length.
    """

    def __init__(self, per_second: float, rng: random.Random | None = None) -> None:
        self._per_second = per_second
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._permits = 0.0
        self._counted_at: float | None = None

    async def permit(self) -> None:
        """Return when the next one may go."""
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            if self._counted_at is None:
                self._counted_at = now
                self._permits = 1.0
            # What was not used in a pause is lost: there is no burst after it.
            passed = min(now - self._counted_at, 2 * TURN_SECONDS)
            self._permits += passed * self._per_second
            self._counted_at = now
            if self._permits >= 1.0:
                self._permits -= 1.0
                return
            missing = (1.0 - self._permits) / self._per_second
            await asyncio.sleep(max(missing, TURN_SECONDS * (0.5 + self._rng.random())))
