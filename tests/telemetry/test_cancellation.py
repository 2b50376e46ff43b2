"""A loop hears of its cancellation even when a library swallowed it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from telemetry.cancellation import heed_cancellation


async def test_without_a_cancellation_nothing_happens() -> None:
    heed_cancellation()


async def test_a_cancellation_that_was_swallowed_is_raised_again() -> None:
    async def loop() -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            heed_cancellation()

    task = asyncio.create_task(loop())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_time_limit_that_ran_out_is_no_cancellation() -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.sleep(60)
    heed_cancellation()
