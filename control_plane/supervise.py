"""Background tasks that are meant to run for ever: one that ends is started again, after a while, and counted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from control_plane.metrics import TASK_RESTARTS

# The first pause is short because most failures are a connection that broke; the last one keeps a broken part from
# filling the log. A task that ran for a minute has recovered, and begins anew with the first pause.
FIRST_PAUSE_SECONDS = 0.5
LAST_PAUSE_SECONDS = 30.0
RECOVERED_SECONDS = 60.0
# What a task may take to finish what it has begun when it is cancelled.
STOP_SECONDS = 10.0

_log = structlog.get_logger(__name__)


class Supervisor:
    """Runs background tasks and ends them in the reverse order of their start."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, run: Callable[[], Awaitable[object]]) -> None:
        """Run ``run()`` from now on.

        Args:
            name: for logs and metrics.
            run: a coroutine function that returns only when it is cancelled.
        """
        self._tasks.append(asyncio.create_task(_keep_running(name, run), name=name))

    async def stop(self) -> None:
        """Cancel every task, the last one first, and wait for each for a bounded time."""
        while self._tasks:
            task = self._tasks.pop()
            task.cancel()
            _, still_running = await asyncio.wait({task}, timeout=STOP_SECONDS)
            if still_running:
                _log.warning("task_would_not_stop", task=task.get_name())


async def _keep_running(name: str, run: Callable[[], Awaitable[object]]) -> None:
    loop = asyncio.get_running_loop()
    pause = FIRST_PAUSE_SECONDS
    while True:
        started = loop.time()
        await _run_once(name, run)
        TASK_RESTARTS.labels(name).inc()
        if loop.time() - started > RECOVERED_SECONDS:
            pause = FIRST_PAUSE_SECONDS
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries, keeps no secret
        pause = min(2 * pause, LAST_PAUSE_SECONDS)


async def _run_once(name: str, run: Callable[[], Awaitable[object]]) -> None:
    try:
        await run()
        _log.warning("task_ended", task=name)
    except Exception:
        _log.exception("task_failed", task=name)
