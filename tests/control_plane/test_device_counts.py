"""Counts of devices: exact while counting is quick, kept for a while when it is not, and bounded in number."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from control_plane import device_counts
from control_plane.device_counts import KEPT_FOR, DeviceCounts
from control_plane.tables import Device
from tests.control_plane.world import World, open_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


class SlowClock:
    """A clock by which each count takes some seconds."""

    def __init__(self, seconds: float) -> None:
        self.now = 0.0
        self._seconds = seconds

    def __call__(self) -> float:
        self.now += self._seconds / 2
        return self.now


async def register(world: World, environment_id: str, *names: str) -> None:
    async with world.database.write() as session:
        session.add_all(Device(environment_id=environment_id, device_id=name) for name in names)


async def count(world: World, counts: DeviceCounts, *ids: str) -> dict[str, int]:
    async with world.database.read() as session:
        return await counts.of(session, ids)


async def test_a_quick_count_is_made_anew_each_time(world: World) -> None:
    dev, prod = world.dev, world.prod
    counts = DeviceCounts(lambda: 0.0)
    await register(world, dev.id, "one", "two")
    assert await count(world, counts, dev.id, prod.id) == {dev.id: 2, prod.id: 0}
    await register(world, dev.id, "three")
    assert await count(world, counts, dev.id, prod.id) == {dev.id: 3, prod.id: 0}


async def test_a_slow_count_is_kept_for_a_hundred_times_as_long_as_it_took(world: World) -> None:
    dev, prod = world.dev, world.prod
    clock = SlowClock(0.1)
    counts = DeviceCounts(clock)
    await register(world, dev.id, "one")
    assert await count(world, counts, dev.id) == {dev.id: 1}
    await register(world, dev.id, "two")
    assert await count(world, counts, dev.id, prod.id) == {dev.id: 1, prod.id: 0}
    clock.now += 0.1 * KEPT_FOR
    assert await count(world, counts, dev.id) == {dev.id: 2}


async def test_not_more_than_so_many_are_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_counts, "MAX_KEPT", 3)
    counts: Any = DeviceCounts(SlowClock(0.1))
    for number in range(7):
        await count(world, counts, f"environment-{number}")
    assert len(counts._kept) <= 3
