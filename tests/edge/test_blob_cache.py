"""The blob cache: bounded, filled once, whole or not at all, and still serving when the store is away."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.store import BlobCorrupt, BlobMissing, StoreUnavailable, open_store
from edge.absent import RecentlyAbsent
from edge.blob_cache import BlobCache
from edge.blob_directory import BlobDirectory, NoRoom
from edge.blob_fill import BlobSource
from edge.errors import Missing, Unavailable
from edge.single_flight import SingleFlight, TooManyFlights
from tests.edge.site import sha256


def made(directory: Path, max_bytes: int = 1000) -> BlobDirectory:
    blobs = BlobDirectory(directory, max_bytes)
    blobs.recover()
    return blobs


def add(blobs: BlobDirectory, content: bytes) -> str:
    with blobs.room(sha256(content), len(content)) as path:
        path.write_bytes(content)
        blobs.admit(sha256(content), path, len(content))
    return sha256(content)


def read(blobs: BlobDirectory, digest: str) -> bytes | None:
    blob = blobs.open(digest)
    if blob is None:
        return None
    with blob:
        return blob.read(0, blob.length)


def on_disk(directory: Path) -> int:
    return sum(path.stat().st_size for path in (directory / "blobs").rglob("*") if path.is_file())


# --- the directory ---


def test_what_is_admitted_is_read_back(tmp_path: Path) -> None:
    blobs = made(tmp_path)
    assert read(blobs, add(blobs, b"content")) == b"content"
    assert read(blobs, add(blobs, b"")) == b""
    assert read(blobs, sha256(b"other")) is None


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    blobs = made(tmp_path, 300)
    old, used, young = (add(blobs, bytes([n]) * 100) for n in (1, 2, 3))
    assert read(blobs, old) is not None
    add(blobs, b"x" * 100)
    assert used not in blobs
    assert old in blobs
    assert young in blobs
    assert on_disk(tmp_path) == blobs.stored_bytes == 300


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 400)), max_size=40))
@settings(max_examples=60, deadline=None)
def test_the_bound_holds_whatever_comes(
    tmp_path_factory: pytest.TempPathFactory, arrivals: list[tuple[int, int]]
) -> None:
    directory = tmp_path_factory.mktemp("blobs")
    blobs = made(directory, 500)
    for seed, length in arrivals:
        add(blobs, bytes([seed]) * length)
        assert on_disk(directory) == blobs.stored_bytes <= 500
    assert made(directory, 500).stored_bytes == blobs.stored_bytes


def test_room_that_is_kept_counts(tmp_path: Path) -> None:
    blobs = made(tmp_path, 300)
    add(blobs, b"a" * 100)
    with blobs.room(sha256(b"b"), 250):
        assert len(blobs) == 0
        with pytest.raises(NoRoom) as caught, blobs.room(sha256(b"c"), 100):
            pass
        assert not caught.value.for_ever
    assert blobs.reserved_bytes == 0
    with pytest.raises(NoRoom) as caught, blobs.room(sha256(b"c"), 301):
        pass
    assert caught.value.for_ever


def test_a_download_survives_the_eviction_of_its_blob(tmp_path: Path) -> None:
    blobs = made(tmp_path, 100)
    blob = blobs.open(add(blobs, b"a" * 100))
    assert blob is not None
    with blob:
        add(blobs, b"b" * 100)
        assert blob.read(0, 200) == b"a" * 100


def test_a_restart_keeps_whole_blobs_and_removes_torn_ones(tmp_path: Path) -> None:
    blobs = made(tmp_path)
    kept = add(blobs, b"whole")
    (tmp_path / "incoming" / sha256(b"torn")).write_bytes(b"to")
    (tmp_path / "blobs" / "notes.txt").write_text("not ours")
    again = made(tmp_path)
    assert read(again, kept) == b"whole"
    assert len(again) == 1
    assert list((tmp_path / "incoming").iterdir()) == []


def test_a_restart_remembers_the_order_of_use_and_a_smaller_bound(tmp_path: Path) -> None:
    moment = [1000.0]
    blobs = BlobDirectory(tmp_path, 300, now=lambda: moment[0])
    blobs.recover()
    digests = [add(blobs, bytes([n]) * 100) for n in range(3)]
    for place, digest in enumerate(digests):
        os.utime(tmp_path / "blobs" / digest[:2] / digest, (place, place))
    moment[0] = 2000.0
    assert read(blobs, digests[0]) is not None
    again = made(tmp_path, 200)
    assert digests[1] not in again
    assert digests[0] in again
    assert digests[2] in again


@pytest.mark.parametrize("damage", ["removed", "shorter", "longer", "replaced by a link"])
def test_a_file_that_somebody_changed_is_not_served(tmp_path: Path, damage: str) -> None:
    blobs = made(tmp_path)
    digest = add(blobs, b"content")
    path = tmp_path / "blobs" / digest[:2] / digest
    if damage == "removed":
        path.unlink()
    elif damage == "replaced by a link":
        path.unlink()
        path.symlink_to("/etc/hostname")
    else:
        path.write_bytes(b"con" if damage == "shorter" else b"content!")
    assert read(blobs, digest) is None
    assert digest not in blobs
    assert blobs.stored_bytes == 0
    assert read(blobs, add(blobs, b"content")) == b"content"


# --- absence and single flight ---


def test_an_absence_is_believed_for_its_time_and_in_bounded_number() -> None:
    moment = [0.0]
    absent = RecentlyAbsent(5, 3, clock=lambda: moment[0])
    for name in "abcd":
        absent.add(name)
    assert len(absent) == 3
    assert "a" not in absent
    assert "d" in absent
    moment[0] = 5.0
    assert "d" not in absent


async def test_callers_of_one_name_share_one_piece_of_work_and_its_failure() -> None:
    flights: SingleFlight[int] = SingleFlight(1)
    begun: list[int] = []
    go = asyncio.Event()

    async def work() -> int:
        begun.append(1)
        await go.wait()
        raise KeyError("no")

    callers = [asyncio.create_task(flights.do("a", work)) for _ in range(5)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyFlights):
        await flights.do("b", work)
    callers[0].cancel()
    go.set()
    ended = await asyncio.gather(*callers, return_exceptions=True)
    assert len(begun) == 1
    assert isinstance(ended[0], asyncio.CancelledError)
    assert all(isinstance(one, KeyError) for one in ended[1:])
    assert len(flights) == 0


# --- the cache ---


class Source:
    """A source that counts, waits and fails as told; the bytes are real files of an object store otherwise."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.contents = contents
        self.lengths = 0
        self.fetches = 0
        self.go = asyncio.Event()
        self.go.set()
        self.failure: Exception | None = None
        self.excess = b""

    async def length(self, sha256: str) -> int:
        self.lengths += 1
        if isinstance(self.failure, StoreUnavailable):
            raise self.failure
        if sha256 not in self.contents:
            raise BlobMissing(sha256)
        return len(self.contents[sha256])

    async def stream(self, sha256: str) -> AsyncIterator[bytes]:
        self.fetches += 1
        content = self.contents[sha256]
        yield content[: len(content) // 2]
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        yield content[len(content) // 2 :] + self.excess


CONTENT = bytes(range(256)) * 40
DIGEST = sha256(CONTENT)


@pytest.fixture
def source() -> Source:
    return Source({DIGEST: CONTENT, sha256(b"b" * 8000): b"b" * 8000, sha256(b""): b""})


def cache_of(
    directory: Path, source: BlobSource, max_bytes: int = 20_000, wait: float = 30, fills: int = 4
) -> BlobCache:
    return BlobCache(made(directory, max_bytes), source, fills=fills, fill_timeout=30, wait=wait)


async def content_of(cache: BlobCache, digest: str) -> bytes:
    with await cache.open(digest) as blob:
        await blob.ready(blob.length, blob.length)
        return blob.read(0, blob.length)


async def test_a_blob_is_filled_from_a_real_store_and_then_served_without_it(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/objects")
    (tmp_path / "up").write_bytes(CONTENT)
    await store.put_file(DIGEST, tmp_path / "up")
    cache = cache_of(tmp_path / "edge", store)
    assert await cache.length(DIGEST) == len(CONTENT)
    assert await content_of(cache, DIGEST) == CONTENT
    await store.delete(DIGEST)
    assert await content_of(cache, DIGEST) == CONTENT
    assert await cache.length(DIGEST) == len(CONTENT)


async def test_damaged_bytes_of_a_real_store_are_never_served(tmp_path: Path) -> None:
    place = tmp_path / "objects" / "blobs" / DIGEST[:2]
    place.mkdir(parents=True)
    (place / DIGEST).write_bytes(CONTENT[:-1] + b"!")
    cache = cache_of(tmp_path / "edge", open_store(f"file://{tmp_path}/objects"))
    with pytest.raises(Unavailable):
        await content_of(cache, DIGEST)
    assert on_disk(tmp_path / "edge") == 0
    (place / DIGEST).write_bytes(CONTENT)
    assert await content_of(cache, DIGEST) == CONTENT


async def test_many_who_ask_at_once_cause_one_fetch(tmp_path: Path, source: Source) -> None:
    cache = cache_of(tmp_path, source)
    got = await asyncio.gather(*(content_of(cache, DIGEST) for _ in range(50)))
    assert set(got) == {CONTENT}
    assert source.fetches == 1


async def test_a_caller_who_leaves_does_not_end_the_fetch(tmp_path: Path, source: Source) -> None:
    cache = cache_of(tmp_path, source)
    source.go.clear()
    caller = asyncio.create_task(cache.open(DIGEST))
    await asyncio.sleep(0.01)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    source.go.set()
    assert await content_of(cache, DIGEST) == CONTENT
    assert source.fetches == 1


async def test_a_wait_is_bounded_and_the_fetch_goes_on(tmp_path: Path, source: Source) -> None:
    cache = cache_of(tmp_path, source, wait=0.05)
    source.go.clear()
    with pytest.raises(Unavailable) as caught:
        await content_of(cache, DIGEST)
    assert caught.value.code == "fetching"
    assert caught.value.retry_after
    source.go.set()
    assert await content_of(cache, DIGEST) == CONTENT
    assert source.fetches == 1


async def test_fetches_wait_for_their_turn(tmp_path: Path, source: Source) -> None:
    cache = cache_of(tmp_path, source, fills=1)
    source.go.clear()
    both = [asyncio.create_task(content_of(cache, digest)) for digest in (DIGEST, sha256(b"b" * 8000))]
    await asyncio.sleep(0.05)
    assert source.fetches == 1
    source.go.set()
    assert await asyncio.gather(*both) == [CONTENT, b"b" * 8000]


async def test_a_missing_blob_is_asked_for_once_in_a_while(tmp_path: Path, source: Source) -> None:
    cache = cache_of(tmp_path, source)
    for _ in range(5):
        with pytest.raises(Missing):
            await cache.open("0" * 64)
        with pytest.raises(Missing):
            await cache.length("0" * 64)
    assert source.lengths == 1


@pytest.mark.parametrize(
    "failure", [StoreUnavailable("away"), BlobCorrupt(DIGEST), OSError(28, "disk full"), TimeoutError()]
)
async def test_a_failed_fetch_leaves_nothing_and_is_tried_again(
    tmp_path: Path, source: Source, failure: Exception
) -> None:
    cache = cache_of(tmp_path, source)
    source.failure = failure
    with pytest.raises(Unavailable) as caught:
        await content_of(cache, DIGEST)
    assert caught.value.retry_after
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    source.failure = None
    assert await content_of(cache, DIGEST) == CONTENT


@pytest.mark.parametrize("excess", [b"x", b"x" * 100_000])
async def test_a_source_that_gives_more_than_it_announced_is_not_believed(
    tmp_path: Path, source: Source, excess: bytes
) -> None:
    cache = cache_of(tmp_path, source)
    source.excess = excess
    with pytest.raises(Unavailable):
        await content_of(cache, DIGEST)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_a_blob_larger_than_the_cache_is_unavailable_and_evicts_nobody(tmp_path: Path, source: Source) -> None:
    cache = cache_of(tmp_path, source, max_bytes=9000)
    small = sha256(b"b" * 8000)
    assert await content_of(cache, small) == b"b" * 8000
    with pytest.raises(Unavailable):
        await content_of(cache, DIGEST)
    assert await content_of(cache, small) == b"b" * 8000
    assert source.fetches == 1


async def test_an_empty_blob_is_a_blob(tmp_path: Path, source: Source) -> None:
    cache = cache_of(tmp_path, source)
    assert await content_of(cache, sha256(b"")) == b""


async def test_closing_ends_fetches_and_removes_what_they_wrote(tmp_path: Path, source: Source) -> None:
    cache = cache_of(tmp_path, source)
    source.go.clear()
    caller = asyncio.create_task(cache.open(DIGEST))
    await asyncio.sleep(0.02)
    await cache.close()
    await asyncio.gather(caller, return_exceptions=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
