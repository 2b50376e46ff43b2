"""Metadata is signed anew before it expires: spread over time, without a change, and past any one failure."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from sqlalchemy import func, select
from tuf.api.metadata import Metadata, Root  # type: ignore[attr-defined]

from control_plane import tables
from control_plane.repository import resign_at
from control_plane.resign import Resigner
from control_plane.tables import utc_now
from manifests.trust import Lifetimes
from tests.control_plane.world import World, open_world

LIFETIMES = Lifetimes()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path, lifetimes=LIFETIMES) as world:
        yield world


@pytest.fixture
def resigner(world: World) -> Resigner:
    return Resigner(world.database, world.publisher, LIFETIMES)


async def newest_root(world: World) -> tables.Root:
    async with world.database.read() as session:
        version = select(func.max(tables.Root.version)).where(tables.Root.environment_id == world.prod.id)
        return await session.get_one(tables.Root, (world.prod.id, await session.scalar(version)))


@given(st.floats(0, 1), st.timedeltas(timedelta(minutes=1), timedelta(days=400)))
@settings(max_examples=100)
def test_a_manifest_is_due_in_the_third_quarter_of_its_life(chance: float, life: timedelta) -> None:
    now = datetime.fromisoformat("2026-05-01T00:00:00Z")
    due = resign_at(now, now + life, chance)
    assert now + life * 0.5 <= due <= now + life * 0.75 + timedelta(microseconds=1)


async def test_what_is_not_due_is_left_alone(world: World, resigner: Resigner) -> None:
    assert await resigner.step(utc_now() + timedelta(days=3)) == 0
    assert (await world.manifest()).revision == 1


async def test_what_is_due_is_signed_and_published(world: World, resigner: Resigner) -> None:
    assert await resigner.step(utc_now() + timedelta(days=6)) == 2
    assert (await world.manifest()).revision == 2
    await world.assert_published(world.dev)
    await world.assert_published(world.prod)
    assert (await world.manifest()).resign_at > utc_now() + timedelta(days=3)


async def test_what_is_next_is_told_for_alerts(world: World, resigner: Resigner) -> None:
    await resigner.step(utc_now())
    async with world.database.read() as session:
        due = await session.scalar(select(func.min(tables.Manifest.resign_at)))
    assert due is not None
    assert REGISTRY.get_sample_value("skafos_control_resign_due_timestamp_seconds") == due.timestamp()
    root = (await newest_root(world)).expires_at.timestamp()
    assert REGISTRY.get_sample_value("skafos_control_root_expiry_timestamp_seconds") == pytest.approx(root, abs=60)


async def test_environments_made_at_once_fall_due_at_different_times(world: World) -> None:
    assert (await world.manifest(world.dev)).resign_at != (await world.manifest(world.prod)).resign_at


async def test_an_environment_that_cannot_be_signed_does_not_keep_the_others_from_it(
    world: World, resigner: Resigner
) -> None:
    key = world.folder / "keys" / world.dev.id / "online-1.pem"
    key.rename(key.with_suffix(".lost"))
    assert await resigner.step(utc_now() + timedelta(days=6)) == 1
    assert (await world.manifest(world.dev)).revision == 1
    assert (await world.manifest(world.prod)).revision == 2
    key.with_suffix(".lost").rename(key)
    await resigner.step(utc_now() + timedelta(days=6))
    assert (await world.manifest(world.dev)).revision == 2


async def test_a_root_is_renewed_with_the_same_keys_while_a_quarter_of_its_life_is_left(
    world: World, resigner: Resigner
) -> None:
    await resigner.step(utc_now() + timedelta(days=270))
    assert (await newest_root(world)).version == 1
    await resigner.step(utc_now() + timedelta(days=275))
    root = await newest_root(world)
    assert root.version == 2
    assert (await world.manifest()).root == 2
    async with world.database.read() as session:
        first = await session.get_one(tables.Root, (world.prod.id, 1))
    old, new = (Metadata[Root].from_bytes(row.metadata_bytes).signed for row in (first, root))
    assert old.roles["root"].keyids == new.roles["root"].keyids
    assert old.roles["timestamp"].keyids == new.roles["timestamp"].keyids
    await world.assert_published()
