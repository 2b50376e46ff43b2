"""A thread that waits for the disk, so that an event loop need not.

An executor's futures do the same for any number of threads and waiters; for one of each they are most of the cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

Result = TypeVar("Result")

_Job = tuple[Callable[[], Any], Callable[[Any], None], Callable[[BaseException], None]]


class DiskThread:
    """Runs one job after another, and tells the loop how each ended.

    Args:
        name: of the thread, for who looks at the process.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin; ``loop`` is where results are told."""
        self._loop = loop
        self._thread.start()

    def run(
        self, job: Callable[[], Result], done: Callable[[Result], None], failed: Callable[[BaseException], None]
    ) -> None:
        """Have a job done after those before it.

        Args:
            job: called in the thread.
            done: called in the loop with what it returned.
            failed: called in the loop with what it raised.
        """
        self._jobs.put((job, done, failed))

    def stop(self) -> None:
        """End when all jobs are done, and wait for that."""
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._do(*job)
            del job  # while it waits it keeps nothing in memory

    def _do(self, job: Callable[[], Any], done: Callable[[Any], None], failed: Callable[[BaseException], None]) -> None:
        assert self._loop is not None
        try:
            result = job()
        except BaseException as error:  # whoever gave the job is told of everything
            self._loop.call_soon_threadsafe(failed, error)
        else:
            self._loop.call_soon_threadsafe(done, result)
