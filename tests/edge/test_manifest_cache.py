"""Manifests in memory: revisions never go back, the feed heals itself, the snapshot survives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import Missing, Unavailable
from edge.manifest_cache import MAX_DOCUMENT_BYTES, ManifestCache, Unsound
from edge.manifest_feed import ManifestFeed
from edge.manifest_snapshot import ManifestSnapshot
from manifests.store import (
    CorruptPublication,
    MemoryManifestStore,
    Notice,
    Publication,
    Resubscribed,
    StoreUnavailable,
    Withdrawn,
)
from tests.edge.site import LABELS, eventually


def publication(revision: int, key: str = "prod-a-b", files: Mapping[str, bytes] = MappingProxyType({})) -> Publication:
    named = {"1.root.json": b"root", "timestamp.json": b"%d" % revision, f"{revision}.snapshot.json": b"snapshot"}
    return Publication(key, revision, b"body %d" % revision, f'"{revision}"', {**named, **files}, LABELS)


@given(st.permutations([1, 2, 3, 4]))
@settings(max_examples=24, deadline=None)
def test_whatever_the_order_of_arrival_the_newest_revision_is_served(order: list[int]) -> None:
    cache = ManifestCache()
    for revision in order:
        cache.take(publication(revision))
    assert cache.require("prod-a-b").manifest.body == b"body 4"


def test_the_same_revision_again_changes_nothing() -> None:
    cache = ManifestCache()
    assert cache.take(publication(1))
    assert not cache.take(publication(1))


def test_listeners_hear_of_changes_and_withdrawals_only() -> None:
    cache, heard = ManifestCache(), list[str]()
    cache.on_change(heard.append)
    cache.take(publication(2))
    cache.take(publication(1))
    cache.withdraw("another")
    cache.withdraw("prod-a-b")
    assert heard == ["prod-a-b", "prod-a-b"]


@pytest.mark.parametrize(
    "unsound",
    [
        replace(publication(2), etag='W/"1"'),
        replace(publication(2), etag="1"),
        replace(publication(2), etag='"1", "2"'),
        replace(publication(2), etag='"1"\r\nX: y'),
        replace(publication(2), body=b""),
        replace(publication(2), body=b"x" * (MAX_DOCUMENT_BYTES + 1)),
        publication(2, files={"x.json": b"x" * (MAX_DOCUMENT_BYTES + 1)}),
    ],
)
def test_what_must_not_be_served_is_refused_and_what_was_served_stays(unsound: Publication) -> None:
    cache = ManifestCache()
    cache.take(publication(1))
    with pytest.raises(Unsound):
        cache.take(unsound)
    assert cache.require("prod-a-b").manifest.body == b"body 1"


def test_a_revision_that_is_not_positive_is_never_served() -> None:
    with pytest.raises(Unsound):
        ManifestCache().take(replace(publication(1), revision=0, key="new"))


def test_the_files_of_one_generation_before_are_still_found() -> None:
    cache = ManifestCache()
    for revision in (1, 2, 3):
        cache.take(publication(revision))
    files = cache.require("prod-a-b").files
    assert {name for name in files if "snapshot" in name} == {"2.snapshot.json", "3.snapshot.json"}
    assert files["timestamp.json"].body == b"3"


def test_until_there_is_a_picture_an_unknown_key_is_unavailable_then_missing() -> None:
    cache = ManifestCache()
    with pytest.raises(Unavailable):
        cache.require("unknown")
    cache.complete()
    with pytest.raises(Missing):
        cache.require("unknown")


# --- the feed ---


@asynccontextmanager
async def feeding(store: MemoryManifestStore, cache: ManifestCache, poll: float = 3600) -> AsyncIterator[ManifestFeed]:
    feed = ManifestFeed(store, cache, poll)
    tasks = [asyncio.create_task(feed.follow()), asyncio.create_task(feed.poll())]
    try:
        yield feed
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def serves(cache: ManifestCache, revision: int, key: str = "prod-a-b") -> Callable[[], Awaitable[bool]]:
    async def served() -> bool:
        return cache.revision(key) == revision

    return served


async def test_notices_bring_new_revisions_and_withdrawals() -> None:
    store, cache = MemoryManifestStore(), ManifestCache()
    await store.publish(publication(1))
    async with feeding(store, cache):
        await eventually(serves(cache, 1))
        await store.publish(publication(2))
        await eventually(serves(cache, 2))
        await store.withdraw("prod-a-b", 2)
        await eventually(serves(cache, 0))


class LossyStore(MemoryManifestStore):
    """A store whose notices never arrive, as if every connection were cut at the wrong moment."""

    async def notices(self) -> AsyncIterator[Notice | Resubscribed]:
        yield Resubscribed()
        await asyncio.Event().wait()


async def test_the_slow_poll_finds_what_notices_lost() -> None:
    store, cache = LossyStore(), ManifestCache()
    async with feeding(store, cache, poll=0.02):
        await asyncio.sleep(0.01)
        await store.publish(publication(1))
        await eventually(serves(cache, 1))
        await store.withdraw("prod-a-b", 1)
        await eventually(serves(cache, 0))


async def test_an_emptied_store_takes_nothing_away() -> None:
    store, cache = MemoryManifestStore(), ManifestCache()
    await store.publish(publication(7))
    feed = ManifestFeed(store, cache, 1)
    assert await feed.synchronize()
    assert await ManifestFeed(MemoryManifestStore(), cache, 1).synchronize()
    assert cache.revision("prod-a-b") == 7


async def test_only_a_store_that_was_filled_can_tell_that_a_key_does_not_exist() -> None:
    store, cache = MemoryManifestStore(), ManifestCache()
    feed = ManifestFeed(store, cache, 1)
    assert await feed.synchronize()
    with pytest.raises(Unavailable):
        cache.require("unknown")
    await store.publish(publication(1))
    assert await feed.synchronize()
    with pytest.raises(Unavailable):
        cache.require("unknown")
    await store.set_generation("filled")
    assert await feed.synchronize()
    with pytest.raises(Missing):
        cache.require("unknown")


class BrokenStore(MemoryManifestStore):
    """A store with one entry that is no publication."""

    async def load(self, key: str) -> Publication | Withdrawn | None:
        if key == "broken":
            raise CorruptPublication("broken")
        if key == "stranger":
            return await super().load("prod-a-b")
        return await super().load(key)


async def test_one_broken_entry_does_not_keep_the_others_away() -> None:
    store, cache = BrokenStore(), ManifestCache()
    for key in ("broken", "stranger", "prod-a-b", "zzz"):
        await store.publish(publication(1, key))
    assert await ManifestFeed(store, cache, 1).synchronize()
    assert cache.revision("prod-a-b") == cache.revision("zzz") == 1
    assert cache.revision("broken") == cache.revision("stranger") == 0


class LostStore(MemoryManifestStore):
    """A store that is away."""

    async def revisions(self) -> dict[str, int]:
        raise StoreUnavailable("away")


async def test_a_store_that_is_away_is_told_and_gives_no_picture() -> None:
    cache = ManifestCache()
    assert not await ManifestFeed(LostStore(), cache, 1).synchronize()
    assert not cache.can_serve


# --- the snapshot ---


async def test_a_snapshot_restores_what_was_served_and_forgets_what_was_withdrawn(tmp_path: Path) -> None:
    cache = ManifestCache()
    snapshot = ManifestSnapshot(tmp_path, cache)
    assert snapshot.restore() == 0
    for key in ("prod-a-b", "dev-a-b", "gone-a-b"):
        cache.take(publication(1, key))
    cache.take(publication(2))
    assert await snapshot.flush()
    cache.withdraw("gone-a-b")
    assert await snapshot.flush()

    again = ManifestCache()
    assert ManifestSnapshot(tmp_path, again).restore() == 2
    assert again.require("prod-a-b").publication == publication(2)
    assert again.get("gone-a-b") is None
    assert again.can_serve
    with pytest.raises(Unavailable):  # it may have been published since
        again.require("newer-a-b")


@pytest.mark.parametrize("keep", [0, 10, 32, 33, 100])
async def test_a_torn_file_is_dropped_and_the_others_are_read(tmp_path: Path, keep: int) -> None:
    cache = ManifestCache()
    snapshot = ManifestSnapshot(tmp_path, cache)
    snapshot.restore()
    cache.take(publication(1))
    cache.take(publication(1, "dev-a-b"))
    await snapshot.flush()
    torn = tmp_path / "dev-a-b.manifest"
    torn.write_bytes(torn.read_bytes()[:keep])
    (tmp_path / "half.partial").write_bytes(b"half")

    again = ManifestCache()
    assert ManifestSnapshot(tmp_path, again).restore() == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prod-a-b.manifest"]


async def test_a_file_under_another_name_is_not_served(tmp_path: Path) -> None:
    cache = ManifestCache()
    snapshot = ManifestSnapshot(tmp_path, cache)
    snapshot.restore()
    cache.take(publication(1))
    await snapshot.flush()
    (tmp_path / "prod-a-b.manifest").rename(tmp_path / "dev-a-b.manifest")
    assert ManifestSnapshot(tmp_path, ManifestCache()).restore() == 0


async def test_a_key_that_could_name_another_place_is_never_written(tmp_path: Path) -> None:
    cache = ManifestCache()
    snapshot = ManifestSnapshot(tmp_path / "inner", cache)
    snapshot.restore()
    for key in ("../evil", "a/b", "", ".", "A", "a" * 101, "a\x00"):
        cache.take(publication(1, key))
    assert await snapshot.flush()
    assert list((tmp_path / "inner").iterdir()) == []
    assert list(tmp_path.iterdir()) == [tmp_path / "inner"]


async def test_what_the_disk_refuses_is_written_once_it_takes_it(tmp_path: Path) -> None:
    cache = ManifestCache()
    snapshot = ManifestSnapshot(tmp_path / "manifests", cache)
    snapshot.restore()
    (tmp_path / "manifests").rmdir()
    cache.take(publication(1))
    assert not await snapshot.flush()
    (tmp_path / "manifests").mkdir()
    assert await snapshot.flush()
    assert ManifestSnapshot(tmp_path / "manifests", ManifestCache()).restore() == 1
