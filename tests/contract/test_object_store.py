"""What every object store promises, asked of a local folder, of memory and of a real S3 server."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import obstore
import pytest

from artifacts.store import BlobCorrupt, BlobMissing, ObjectStore, StoreUnavailable, open_store
from tests.components import free_port
from tests.servers.s3 import S3Server, s3

__all__ = ["s3"]

# More than two parts of a multipart upload, and no multiple of anything.
LARGE_BYTES = 20 * 1024 * 1024 + 12345
NOWHERE = "0" * 64


@pytest.fixture(params=["file", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        return open_store(server.url, server.options)
    return open_store("memory://" if request.param == "memory" else (tmp_path / "objects").as_uri())


def make_file(folder: Path, content: bytes) -> tuple[str, Path]:
    sha256 = hashlib.sha256(content).hexdigest()
    path = folder / sha256[:16]
    path.write_bytes(content)
    return sha256, path


def some_bytes(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


async def collect(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def put_raw(store: ObjectStore, path: str, content: bytes) -> None:
    """Put bytes past the interface, as a disk or a stranger would."""
    await obstore.put_async(store._store, path, content)


@pytest.mark.parametrize("length", [0, 1, 1000, LARGE_BYTES])
async def test_a_blob_comes_back_as_it_was_put(store: ObjectStore, tmp_path: Path, length: int) -> None:
    content = some_bytes(length, seed=length)
    sha256, path = make_file(tmp_path, content)
    await store.put_file(sha256, path)
    assert await store.length(sha256) == length
    assert await collect(store.stream(sha256)) == content
    await store.fetch_to(sha256, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == content


async def test_putting_a_blob_again_changes_nothing(store: ObjectStore, tmp_path: Path) -> None:
    sha256, path = make_file(tmp_path, some_bytes(5000))
    await asyncio.gather(*(store.put_file(sha256, path) for _ in range(5)))
    await store.put_file(sha256, path)
    assert await collect(store.stream(sha256)) == path.read_bytes()


async def test_a_file_that_does_not_have_the_hash_is_not_stored(store: ObjectStore, tmp_path: Path) -> None:
    wrong = hashlib.sha256(b"other" + tmp_path.name.encode()).hexdigest()
    for length in (100, LARGE_BYTES):
        _, path = make_file(tmp_path, some_bytes(length))
        with pytest.raises(BlobCorrupt):
            await store.put_file(wrong, path)
        with pytest.raises(BlobMissing):
            await store.length(wrong)


async def test_a_torn_blob_is_replaced_by_the_next_put(store: ObjectStore, tmp_path: Path) -> None:
    sha256, path = make_file(tmp_path, some_bytes(5000, seed=7))
    await put_raw(store, f"blobs/{sha256[:2]}/{sha256}", path.read_bytes()[:100])
    await store.put_file(sha256, path)
    assert await collect(store.stream(sha256)) == path.read_bytes()


@pytest.mark.parametrize(
    ("start", "end"), [(0, 1), (0, None), (999, None), (4999, 5000), (5000, None), (10, 10), (3, 4000), (4000, 9000)]
)
async def test_a_range_is_streamed_exactly(store: ObjectStore, tmp_path: Path, start: int, end: int | None) -> None:
    sha256, path = make_file(tmp_path, some_bytes(5000))
    await store.put_file(sha256, path)
    assert await collect(store.stream(sha256, start, end)) == path.read_bytes()[start:end]


@pytest.mark.parametrize(("start", "end"), [(5001, None), (-1, 3), (4, 3)])
async def test_a_range_outside_the_blob_is_an_error(
    store: ObjectStore, tmp_path: Path, start: int, end: int | None
) -> None:
    sha256, path = make_file(tmp_path, some_bytes(5000))
    await store.put_file(sha256, path)
    with pytest.raises(ValueError, match="no bytes from"):
        await collect(store.stream(sha256, start, end))


async def test_what_is_not_there_is_missing(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(BlobMissing):
        await store.length(NOWHERE)
    with pytest.raises(BlobMissing):
        await collect(store.stream(NOWHERE))
    with pytest.raises(BlobMissing):
        await store.fetch_to(NOWHERE, tmp_path / "fetched")
    with pytest.raises(BlobMissing):
        await store.upload_length("nothing-here")
    with pytest.raises(BlobMissing):
        await store.fetch_upload("nothing-here", tmp_path / "fetched")
    assert list(tmp_path.glob("*fetched*")) == []


async def test_a_corrupt_blob_is_noticed_and_leaves_no_file(store: ObjectStore, tmp_path: Path) -> None:
    content = some_bytes(3_000_000, seed=3)
    sha256, path = make_file(tmp_path, content)
    await store.put_file(sha256, path)
    await put_raw(store, f"blobs/{sha256[:2]}/{sha256}", content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BlobCorrupt) as caught:
        await store.fetch_to(sha256, tmp_path / "fetched")
    assert caught.value.sha256 == sha256
    assert list(tmp_path.glob("*fetched*")) == []


async def test_a_deleted_blob_is_missing_and_deleting_twice_is_fine(store: ObjectStore, tmp_path: Path) -> None:
    sha256, path = make_file(tmp_path, some_bytes(77, seed=77))
    await store.put_file(sha256, path)
    await store.delete(sha256)
    await store.delete(sha256)
    with pytest.raises(BlobMissing):
        await store.length(sha256)


async def test_listings_tell_blobs_and_uploads_with_length_and_time_and_nothing_else(
    store: ObjectStore, tmp_path: Path
) -> None:
    start = datetime.now(UTC)
    sha256, path = make_file(tmp_path, some_bytes(1234, seed=1234))
    await store.put_file(sha256, path)
    await put_raw(store, "uploads/listed-1", b"12345")
    for stranger in (f"blobs/00/{sha256}", f"blobs/{sha256[:2]}/.{sha256}.0.partial", "blobs/readme", "uploads/a/b"):
        await put_raw(store, stranger, b"not ours")
    blobs = {blob.name: blob async for blob in store.blobs()}
    uploads = {upload.name: upload async for upload in store.uploads()}
    assert (blobs[sha256].length, uploads["listed-1"].length) == (1234, 5)
    for listed in (blobs[sha256], uploads["listed-1"]):
        # Servers tell whole seconds.
        assert start - timedelta(seconds=2) <= listed.last_modified <= datetime.now(UTC) + timedelta(seconds=2)
    assert {len(name) for name in blobs} == {64}
    assert "a" not in uploads
    assert "a/b" not in uploads


async def test_an_empty_store_lists_nothing(tmp_path: Path) -> None:
    for url in ("memory://", (tmp_path / "objects").as_uri()):
        store = open_store(url)
        assert [blob async for blob in store.blobs()] == []
        assert [upload async for upload in store.uploads()] == []


async def test_more_blobs_than_a_page_holds_are_all_listed(store: ObjectStore) -> None:
    names = {hashlib.sha256(f"page {number}".encode()).hexdigest() for number in range(1100)}
    for some in batched(sorted(names), 50):
        await asyncio.gather(*(put_raw(store, f"blobs/{name[:2]}/{name}", b"x") for name in some))
    assert names <= {blob.name async for blob in store.blobs()}


def batched(names: list[str], size: int) -> list[list[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]


async def test_a_blob_is_deleted_only_if_it_is_older(store: ObjectStore, tmp_path: Path) -> None:
    sha256, path = make_file(tmp_path, some_bytes(99, seed=99))
    now = datetime.now(UTC)
    assert not await store.delete_if_older(sha256, now)
    await store.put_file(sha256, path)
    assert not await store.delete_if_older(sha256, now - timedelta(minutes=1))
    assert await store.length(sha256) == 99
    assert await store.delete_if_older(sha256, now + timedelta(minutes=1))
    with pytest.raises(BlobMissing):
        await store.length(sha256)


async def test_putting_a_blob_that_is_not_fresh_renews_its_time(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256, path = make_file(tmp_path, some_bytes(321, seed=321))

    async def time_after_put() -> datetime:
        await store.put_file(sha256, path)
        return next(iter([blob.last_modified async for blob in store.blobs() if blob.name == sha256]))

    first = await time_after_put()
    await asyncio.sleep(1.1)  # servers tell whole seconds
    assert await time_after_put() == first
    monkeypatch.setattr("artifacts.store.FRESH_FOR", timedelta(0))
    assert await time_after_put() > first
    assert await collect(store.stream(sha256)) == path.read_bytes()


async def test_what_a_write_that_was_cut_off_left_in_a_folder_is_removed_once_it_is_old(tmp_path: Path) -> None:
    store = open_store((tmp_path / "objects").as_uri())
    sha256, path = make_file(tmp_path, some_bytes(50))
    await store.put_file(sha256, path)
    leftover = tmp_path / "objects" / "blobs" / sha256[:2] / f".{sha256}.abc.partial"
    leftover.write_bytes(b"half")
    await store.remove_leftovers(datetime.now(UTC) - timedelta(hours=1))
    assert leftover.exists()
    await store.remove_leftovers(datetime.now(UTC) + timedelta(hours=1))
    assert not leftover.exists()
    assert await store.length(sha256) == 50


async def test_uploads_are_read_and_deleted_by_their_id(store: ObjectStore, tmp_path: Path) -> None:
    await put_raw(store, "uploads/an-upload_1", b"whole")
    assert await store.upload_length("an-upload_1") == 5
    await store.fetch_upload("an-upload_1", tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == b"whole"
    await store.delete_upload("an-upload_1")
    await store.delete_upload("an-upload_1")
    with pytest.raises(BlobMissing):
        await store.upload_length("an-upload_1")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A" * 64, "0" * 63, "%2e%2e", "a\n"])
async def test_only_hashes_and_ids_reach_the_store(store: ObjectStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="named by"):
        await store.length(name)
    if len(name) < 63:
        with pytest.raises(ValueError, match="named by"):
            await store.upload_length(name)


async def test_a_store_that_answers_a_ping_is_up(store: ObjectStore) -> None:
    await store.ping()


async def test_a_presigned_url_takes_a_plain_http_put(s3: S3Server, tmp_path: Path) -> None:
    store = open_store(s3.url, s3.options)
    url = store.presigned_put("by-http", timedelta(minutes=5))
    assert url is not None
    async with httpx.AsyncClient() as client:
        answer = await client.put(url, content=b"sent by http", headers={"Content-Type": "application/octet-stream"})
        assert answer.status_code == 200
        forged = await client.put(url.replace("by-http", "another"), content=b"x")
        assert forged.status_code == 403
    await store.fetch_upload("by-http", tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == b"sent by http"


async def test_a_presigned_url_expires(s3: S3Server) -> None:
    url = open_store(s3.url, s3.options).presigned_put("too-late", timedelta(seconds=1))
    assert url is not None
    await asyncio.sleep(2.5)
    async with httpx.AsyncClient() as client:
        assert (await client.put(url, content=b"x")).status_code == 403


async def test_folders_and_memory_have_no_presigned_urls(tmp_path: Path) -> None:
    for url in ("memory://", (tmp_path / "objects").as_uri()):
        assert open_store(url).presigned_put("id", timedelta(minutes=1)) is None


def test_azure_has_no_url_for_a_plain_put() -> None:
    """Put Blob demands a header that ordinary clients do not send, and answers 201 where they wait for 200."""
    options = {"account_name": "account", "account_key": "a2V5"}
    assert open_store("az://container/objects", options).presigned_put("id", timedelta(minutes=1)) is None


async def test_credentials_may_come_from_the_environment(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    store = open_store(s3.url)
    sha256, path = make_file(tmp_path, some_bytes(10, seed=10))
    await store.put_file(sha256, path)
    assert await store.length(sha256) == 10


async def test_a_server_that_is_down_is_unavailable_and_names_no_secret(tmp_path: Path) -> None:
    options = {
        "endpoint": f"http://127.0.0.1:{free_port()}",
        "access_key_id": "key",
        "secret_access_key": "very-secret",
        "region": "us-east-1",
    }
    store = open_store("s3://bucket/objects", options)
    sha256, path = make_file(tmp_path, b"content")
    for call in (
        anext(store.blobs()),
        store.length(sha256),
        store.put_file(sha256, path),
        store.fetch_to(sha256, tmp_path / "f"),
        store.ping(),
    ):
        with pytest.raises(StoreUnavailable) as caught:
            await call
        assert "very-secret" not in f"{caught.value}{caught.value.__cause__}"
    assert not (tmp_path / "f").exists()


async def test_wrong_credentials_are_unavailable_not_missing(s3: S3Server) -> None:
    store = open_store(s3.url, {**s3.options, "secret_access_key": "another-secret"})
    with pytest.raises(StoreUnavailable):
        await store.length(NOWHERE)


async def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    store = open_store((tmp_path / "objects").as_uri())
    (tmp_path / "objects" / "blobs").write_text("a file is in the way")
    sha256, path = make_file(tmp_path, b"content")
    with pytest.raises(StoreUnavailable):
        await store.put_file(sha256, path)


@pytest.mark.parametrize("url", ["", "ftp://x/y", "file://host/folder", "/folder", "http://x"])
def test_a_url_of_no_store_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="object store"):
        open_store(url)


def test_a_wrong_option_is_refused_without_quoting_it() -> None:
    with pytest.raises(ValueError, match="settings are wrong") as caught:
        open_store("s3://bucket", {"no_such_option": "very-secret"})
    assert "very-secret" not in str(caught.value)


async def test_a_folder_holds_no_leftover_of_writes(tmp_path: Path) -> None:
    store = open_store((tmp_path / "objects").as_uri())
    sha256, path = make_file(tmp_path, some_bytes(5000))
    await store.put_file(sha256, path)
    with pytest.raises(BlobCorrupt):
        await store.put_file(NOWHERE, path)
    files = [path.name for path in (tmp_path / "objects").rglob("*") if path.is_file()]
    assert files == [sha256]
