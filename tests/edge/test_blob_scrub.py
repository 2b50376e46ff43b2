"""Cached blobs are hashed again: a flipped bit is found and the blob fetched anew, and what is sound is left alone."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from edge.blob_directory import BlobDirectory, OpenBlob
from edge.blob_scrub import PIECE_BYTES, Scrub
from tests.edge.site import Environment, Site, eventually, metric, release_of, sha256
from tests.edge.test_blob_cache import add, made, read

CONTENT = b"weights of a model" * 1000
HOUR = 3600.0


def path_of(directory: Path, digest: str) -> Path:
    (found,) = directory.glob(f"**/{digest}")
    return found


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("place", [0, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES + 6])
async def test_a_flipped_bit_is_found_wherever_it_is(tmp_path: Path, place: int) -> None:
    content = bytes(2 * PIECE_BYTES + 7)
    blobs = made(tmp_path, 10 * PIECE_BYTES)
    digest, other = add(blobs, content), add(blobs, CONTENT)
    scrub = Scrub(blobs, HOUR, bytes_a_second=1e12)
    damaged, scrubbed = metric("skafos_edge_blob_damaged_total"), metric("skafos_edge_blob_scrubbed_bytes_total")
    for one in (digest, other):
        await scrub.look_at(one)
    assert len(blobs) == 2
    flip(path_of(tmp_path, digest), place)
    for one in (digest, other):
        await scrub.look_at(one)
    assert (read(blobs, digest), read(blobs, other)) == (None, CONTENT)
    assert blobs.stored_bytes == len(CONTENT)
    assert metric("skafos_edge_blob_damaged_total") == damaged + 1
    assert metric("skafos_edge_blob_scrubbed_bytes_total") == scrubbed + 2 * (len(content) + len(CONTENT))


async def test_what_earlier_processes_left_comes_first_and_all_come_again(tmp_path: Path) -> None:
    now = 1000.0
    blobs = BlobDirectory(tmp_path, 10_000, now=lambda: now)
    blobs.recover()
    digests = [add(blobs, b"%d" % number) for number in range(3)]
    assert blobs.longest_unverified(HOUR) is None  # each was hashed when it came
    blobs.recover()
    digests.append(add(blobs, b"new"))
    scrub, seen = Scrub(blobs, HOUR, bytes_a_second=1e12), []
    for _ in range(2):
        while (due := blobs.longest_unverified(HOUR)) is not None:
            seen.append(due)
            await scrub.look_at(due)
        now += HOUR
    assert sorted(seen[:3]) == sorted(digests[:3])
    assert sorted(seen[3:]) == sorted(digests)


async def test_a_blob_that_cannot_be_read_or_went_meanwhile_is_here_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = made(tmp_path)
    digest, gone = add(blobs, b"whole"), add(blobs, b"gone")
    path_of(tmp_path, gone).unlink()
    scrub = Scrub(blobs, HOUR)
    await scrub.look_at(gone)
    await scrub.look_at("0" * 64)
    assert read(blobs, digest) == b"whole"
    monkeypatch.setattr(OpenBlob, "read", broken_disk)
    await scrub.look_at(digest)
    assert len(blobs) == 0


def broken_disk(*_: object, **__: object) -> bytes:
    raise OSError(errno.EIO, "Input/output error")


async def test_a_disk_that_lets_nothing_go_does_not_end_the_scrub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.blob_scrub.LOOK_SECONDS", 0.01)
    blobs = made(tmp_path)
    digest = add(blobs, b"whole")
    blobs.recover()
    flip(path_of(tmp_path, digest), 0)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", broken_disk)
        task = asyncio.create_task(Scrub(blobs, HOUR, bytes_a_second=1e12).run())
        await asyncio.sleep(0.1)
        assert not task.done()

    async def is_removed() -> bool:
        return digest not in blobs

    await eventually(is_removed)
    task.cancel()


async def test_looking_is_no_use(tmp_path: Path) -> None:
    blobs = made(tmp_path, 20)
    oldest, newer = add(blobs, b"0123456789"), add(blobs, b"abcdefghij")
    await Scrub(blobs, HOUR, bytes_a_second=1e12).look_at(oldest)
    add(blobs, b"ABCDEFGHIJ")
    assert (oldest in blobs, newer in blobs) == (False, True)


async def test_a_damaged_blob_is_fetched_anew_by_the_next_who_asks(site: Site) -> None:
    environment = Environment([release_of(CONTENT)])
    await site.publish(environment)
    digest = sha256(CONTENT)
    await site.put(CONTENT)

    async def is_stored() -> bool:
        return any((site.folder / "edge").glob(f"**/blobs/*/{digest}"))

    async with site.edge() as edge:
        assert (await edge.ask("GET", f"/v2/artifacts/{digest}")).status == 200
        await eventually(is_stored)
    path = path_of(site.folder / "edge", digest)
    flip(path, 7)
    async with site.edge(blob_scrub_seconds=0.05) as edge:

        async def is_removed() -> bool:
            return not path.exists()

        await eventually(is_removed)
        assert (await edge.ask("GET", f"/v2/artifacts/{digest}")).body == CONTENT
        await asyncio.sleep(0.2)  # it is looked at again, and stays
        assert path.exists()
