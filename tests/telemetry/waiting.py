"""Waiting for something that another task, thread or process does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PATIENCE_SECONDS = 30.0


async def until(true: Callable[[], object]) -> None:
    """Return as soon as ``true()`` holds; fail when it does not within ``PATIENCE_SECONDS``."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.02)
