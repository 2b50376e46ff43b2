"""Loops that end when they are told to.

On Python 3.11 `asyncio.wait_for`, which the Redis client calls for each command, returns normally instead of raising a
cancellation that arrives just as its work completes (CPython issue 86296, fixed in 3.12). A loop that goes round for
ever would then never hear of it; the task itself still knows.
"""

from __future__ import annotations

import asyncio


def heed_cancellation() -> None:
    """Raise the cancellation of the running task if it was requested and then swallowed.

    Raises:
        asyncio.CancelledError: it was.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
