"""Single flight: many callers want the result of one piece of work, and it is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class TooManyFlights(Exception):
    """More different pieces of work are under way than the bound allows."""


class SingleFlight(Generic[Result]):
    """Work under way, by name.

    The work belongs to nobody who waits: it goes on when every caller has left, so that a device that reconnects finds
    it further on, and ends by the time limit that the work itself has.

    Args:
        max_flights: bound of different names at once.
    """

    def __init__(self, max_flights: int) -> None:
        self._max_flights = max_flights
        self._flights: dict[str, asyncio.Task[Result]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def do(self, name: str, work: Callable[[], Awaitable[Result]]) -> Result:
        """Return what ``work`` gives, or raise what it raises, joining work of this name that is under way.

        Raises:
            TooManyFlights: it would have to begin, and the bound is reached.
        """
        flight = self._flights.get(name)
        if flight is None:
            flight = self.begin(name, work)
        return await asyncio.shield(flight)

    def begin(self, name: str, work: Callable[[], Awaitable[Result]]) -> asyncio.Task[Result]:
        """Start work of a name that is not under way; nobody needs to wait for it.

        Raises:
            TooManyFlights: the bound is reached.
        """
        if len(self._flights) >= self._max_flights:
            raise TooManyFlights
        flight = asyncio.ensure_future(_run(work))
        self._flights[name] = flight
        flight.add_done_callback(lambda done: self._end(name, done))
        return flight

    def _end(self, name: str, flight: asyncio.Task[Result]) -> None:
        del self._flights[name]
        if not flight.cancelled():
            flight.exception()  # seen here, in case that everybody has left; callers get it as well

    async def cancel(self) -> None:
        """End all work and wait until it has ended."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)


async def _run(work: Callable[[], Awaitable[Result]]) -> Result:
    return await work()
