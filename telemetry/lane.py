"""A lane: one thread that does one kind of blocking work in order, with a bound on what waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from telemetry.warehouse import WarehouseUnavailable

P = ParamSpec("P")
R = TypeVar("R")


class Lane:
    """A thread of its own, started with its first call.

    Args:
        name: the thread's name.
        max_waiting: calls in the lane at a time; one more raises ``WarehouseUnavailable``.
        initializer: runs in the thread before the first call.
    """

    def __init__(self, name: str, max_waiting: int, initializer: Callable[[], None] | None = None) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=initializer)
        self._max_waiting = max_waiting
        self._waiting = 0
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many calls are in the lane, the one that runs among them."""
        return self._waiting

    async def run(self, call: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        """Run ``call`` in the lane's thread.

        Raises:
            WarehouseUnavailable: too many calls wait, or the lane is closed.
        """
        if self._waiting >= self._max_waiting:
            raise WarehouseUnavailable("too many questions wait for ClickHouse")
        try:
            future = asyncio.wrap_future(self._executor.submit(self._unless_closed, lambda: call(*arguments, **named)))
        except RuntimeError:
            raise WarehouseUnavailable("the warehouse is closed") from None
        self._waiting += 1
        # A caller that is cancelled leaves its call running, so the place is given back when the call ends.
        future.add_done_callback(self._left)
        return await asyncio.shield(future)

    def _left(self, future: asyncio.Future[R]) -> None:
        self._waiting -= 1
        if not future.cancelled():
            future.exception()  # seen, even when the caller went away

    def _unless_closed(self, call: Callable[[], R]) -> R:
        if self._closed:
            raise WarehouseUnavailable("the warehouse is closed")
        return call()

    async def close(self, last: Callable[[], None]) -> None:
        """Wait for the call that runs, refuse those that wait, run ``last`` in the thread and end it. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._executor.submit(last)
        await asyncio.to_thread(self._executor.shutdown, wait=True)
