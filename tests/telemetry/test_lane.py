"""A lane: one call after the other, a bound on what waits, and an end that waits for nobody."""

from __future__ import annotations

import asyncio
import threading

import pytest

from telemetry.lane import Lane
from telemetry.warehouse import WarehouseUnavailable


def nothing() -> None:
    return None


async def test_calls_run_one_after_the_other_in_one_thread() -> None:
    lane = Lane("test", 10)
    seen = await asyncio.gather(*(lane.run(lambda n=n: (n, threading.get_ident())) for n in range(10)))  # type: ignore[misc]

    assert [n for n, _ in seen] == list(range(10))
    assert len({thread for _, thread in seen}) == 1
    await lane.close(nothing)


async def test_more_than_may_wait_are_told_to_come_again_and_places_are_given_back() -> None:
    lane, gate = Lane("test", 2), threading.Event()
    waiting = [asyncio.create_task(lane.run(gate.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(WarehouseUnavailable, match="too many"):
        await lane.run(nothing)

    waiting[0].cancel()  # whoever asked is gone, the call is not
    with pytest.raises(WarehouseUnavailable, match="too many"):
        await lane.run(nothing)
    gate.set()
    await waiting[1]
    await lane.run(nothing)
    await lane.close(nothing)


async def test_closing_waits_for_the_call_that_runs_and_refuses_those_that_wait() -> None:
    lane, gate, started = Lane("test", 10), threading.Event(), threading.Event()

    def hold() -> str:
        started.set()
        gate.wait()
        return "done"

    running = asyncio.create_task(lane.run(hold))
    waiting = asyncio.create_task(lane.run(nothing))
    await asyncio.to_thread(started.wait)
    last: list[str] = []
    closing = asyncio.create_task(lane.close(lambda: last.append("closed")))
    await asyncio.sleep(0.05)
    gate.set()
    await closing

    assert await running == "done"
    with pytest.raises(WarehouseUnavailable, match="closed"):
        await waiting
    with pytest.raises(WarehouseUnavailable, match="closed"):
        await lane.run(nothing)
    assert last == ["closed"]
