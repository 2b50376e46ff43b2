"""A few requests in each turn of the event loop, so that short work is not kept waiting by long work.

A turn of the loop answers everything that was read before it reads again. A request of aiohttp's takes ten times as
long as a check in the lane, so a flood of them over N connections would keep every check waiting for N of them.
"""

from __future__ import annotations

import asyncio
from collections import deque

from edge import metrics

# Together they take a few tenths of a millisecond; with fewer, the loop's own work in each turn would be felt.
REQUESTS_A_TURN = 4


class Turnstile:
    """Lets requests through in their order, so many in each turn of the loop.

    No more wait than there are connections, since each has one request under way.

    Args:
        places: in each turn.
    """

    def __init__(self, places: int = REQUESTS_A_TURN) -> None:
        self._places = places
        self._free = places
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turning = False

    async def enter(self) -> None:
        """Return in this turn if there is a place, or in a later one."""
        loop = asyncio.get_running_loop()
        if not self._turning:
            self._turning = True
            loop.call_soon(self._turn, loop)
        if self._free:
            self._free -= 1
            return
        metrics.WAITED.inc()
        place = loop.create_future()
        self._waiting.append(place)
        await place

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the places of the next turn to those who have waited longest."""
        used = self._free < self._places
        self._free = self._places
        while self._free and self._waiting:
            place = self._waiting.popleft()
            if not place.done():  # else its request was given up
                place.set_result(None)
                self._free -= 1
        self._turning = used or self._free < self._places
        if self._turning:
            loop.call_soon(self._turn, loop)
