"""A device downloads a blob while the edge fetches it; others join; and what is damaged is never whole."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import ClientPayloadError, ClientSession, web

from artifacts.store import StoreUnavailable
from edge.batches import Batches
from edge.blob_cache import BlobCache
from edge.blob_directory import BlobDirectory
from edge.blob_growing import HELD_BACK_BYTES, GrowingBlob
from edge.blob_lane import BlobLane
from edge.clients import Clients
from edge.connections import ConnectionLimits
from edge.download import Downloads
from edge.entrance import Introduction
from edge.errors import Unavailable
from edge.lane import Answering
from edge.listening import address_of, listen, serve_devices
from edge.manifest_cache import ManifestCache
from edge.prepared import PreparedManifests
from edge.refusals import Refusals
from edge.routes import telling_errors
from edge.sendfile import FileSender
from telemetry.spool import Spool
from tests.edge.raw import request
from tests.edge.site import eventually, metric, sha256

PIECE = 300_000
CONTENT = random.Random(21).randbytes(10 * PIECE)
DIGEST = sha256(CONTENT)


class Tap:
    """A source that gives a piece whenever it is let, and may spoil a byte or break off."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self._content = content
        self._let = asyncio.Semaphore(0)
        self.given = 0
        self.fetches = 0
        self.failure: Exception | None = None

    async def is_asked(self) -> bool:
        return self.fetches > 0

    def let(self, pieces: int) -> None:
        for _ in range(pieces):
            self._let.release()

    async def length(self, sha256: str) -> int:
        return len(self._content)

    async def stream(self, sha256: str) -> AsyncIterator[bytes]:
        self.fetches += 1
        self.given = 0
        while self.given < len(self._content):
            await self._let.acquire()
            if self.failure is not None:
                raise self.failure
            piece = self._content[self.given : self.given + PIECE]
            self.given += len(piece)
            yield piece


@dataclass
class Place:
    """A server of blobs from a tap."""

    url: str
    address: tuple[str, int]
    path: str
    session: ClientSession
    folder: Path
    directory: BlobDirectory

    async def get(self, **headers: str) -> bytes:
        async with self.session.get(self.url, headers=headers) as response:
            assert response.status in (200, 206), await response.text()
            return await response.read()

    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]


@asynccontextmanager
async def place(folder: Path, tap: Tap, wait: float = 30) -> AsyncIterator[Place]:
    directory = BlobDirectory(folder, 100_000_000)
    directory.recover()
    blobs = BlobCache(directory, tap, fills=4, fill_timeout=60, wait=wait)
    sender = FileSender()
    clients, manifests = Clients(()), ManifestCache()
    refusals = Refusals(clients, told=False)
    plain = Introduction(
        clients=clients, proxy_protocol=False, certificates=None, seconds=5, at_once=100, refusals=refusals
    )
    app = web.Application(middlewares=[telling_errors(refusals)])
    app.router.add_get("/v2/artifacts/{sha256}", Downloads(blobs, manifests, sender, 30).artifact)
    listening = listen("127.0.0.1:0", shared=False)
    async with ClientSession() as session:
        async with serve_devices(
            app,
            Answering(
                PreparedManifests(manifests, "no-store"),
                Batches(manifests, Spool(folder / "spool"), 1_000_000),
                BlobLane(blobs, sender, 30),
            ),
            listening,
            ConnectionLimits(100, 60, 30),
            plain,
            1,
        ):
            path = f"/v2/artifacts/{DIGEST}"
            url = f"http://{address_of(listening)}{path}"
            yield Place(url, listening.getsockname(), path, session, folder, directory)
        await blobs.close()
        sender.close()


@pytest_asyncio.fixture
async def tap() -> Tap:
    return Tap()


async def test_bytes_arrive_while_the_rest_is_still_to_come(tmp_path: Path, tap: Tap) -> None:
    async with place(tmp_path, tap) as edge:
        tap.let(3)
        async with edge.session.get(edge.url) as response:
            assert (response.status, response.content_length) == (200, len(CONTENT))
            received = await response.content.readexactly(3 * PIECE)
            assert tap.given == 3 * PIECE
            tap.let(7)
            received += await response.read()
        assert received == CONTENT

        async def stored() -> bool:
            return DIGEST in edge.directory

        await eventually(stored)
        assert await edge.get() == CONTENT
        assert tap.fetches == 1


async def test_the_last_piece_waits_for_the_hash_of_the_whole(tmp_path: Path, tap: Tap) -> None:
    async with place(tmp_path, tap) as edge:
        tap.let(9)
        asked = {"Range": f"bytes={PIECE}-{2 * PIECE - 1}"}  # has arrived, and is not known to be right
        async with edge.session.get(edge.url, headers=asked) as response:
            assert response.status == 206
            received = await response.content.readexactly(PIECE - HELD_BACK_BYTES)
            rest = asyncio.create_task(response.read())
            await asyncio.sleep(0.1)
            assert not rest.done()
            tap.let(1)
            assert received + await rest == CONTENT[PIECE : 2 * PIECE]


async def test_ten_join_at_different_times_and_one_fetch_serves_them(tmp_path: Path, tap: Tap) -> None:
    async with place(tmp_path, tap) as edge:
        asking: list[asyncio.Task[bytes]] = []
        for _ in range(10):
            asking.append(asyncio.create_task(edge.get()))
            tap.let(1)
            await asyncio.sleep(0.02)
        assert await asyncio.gather(*asking) == [CONTENT] * 10
        assert tap.fetches == 1


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [("0-9", 0, 10), (f"{PIECE}-", PIECE, None), ("-5", len(CONTENT) - 5, None), ("100-700000", 100, 700_001)],
)
async def test_a_range_of_what_is_on_its_way(tmp_path: Path, tap: Tap, asked: str, first: int, end: int | None) -> None:
    async with place(tmp_path, tap) as edge:
        asking = asyncio.create_task(edge.get(Range=f"bytes={asked}"))
        await asyncio.sleep(0.05)
        assert not asking.done()
        tap.let(10)
        assert await asking == CONTENT[first:end]


async def test_several_ranges_wait_for_the_whole(tmp_path: Path, tap: Tap) -> None:
    async with place(tmp_path, tap) as edge:
        asking = asyncio.create_task(edge.get(Range="bytes=0-9,1000-1009"))
        tap.let(9)
        await asyncio.sleep(0.05)
        assert not asking.done()
        tap.let(1)
        assert CONTENT[1000:1010] in await asking


async def test_what_needs_no_bytes_is_answered_at_once(tmp_path: Path, tap: Tap) -> None:
    async with place(tmp_path, tap) as edge:
        first = asyncio.create_task(edge.get())
        async with edge.session.get(edge.url, headers={"If-None-Match": f'"{DIGEST}"'}) as response:
            assert response.status == 304
        async with edge.session.get(edge.url, headers={"Range": "bytes=99999999-"}) as response:
            assert (response.status, response.headers["Content-Range"]) == (416, f"bytes */{len(CONTENT)}")
        async with edge.session.head(edge.url) as response:
            assert response.content_length == len(CONTENT)
        assert not first.done()
        tap.let(10)
        assert await first == CONTENT


def changed_at(place: int) -> bytes:
    return CONTENT[:place] + bytes([CONTENT[place] ^ 1]) + CONTENT[place + 1 :]


@pytest.mark.parametrize("damage", [0, len(CONTENT) // 2, len(CONTENT) - 1])
async def test_damaged_bytes_never_make_a_whole_answer(tmp_path: Path, damage: int) -> None:
    tap = Tap(changed_at(damage))
    async with place(tmp_path, tap) as edge:
        asked = [{}, {"Range": "bytes=0-1000000"}, {"Range": f"bytes={PIECE}-"}]
        asking = [asyncio.create_task(edge.get(**headers)) for headers in asked]
        tap.let(10)
        for one in asking:
            with pytest.raises(ClientPayloadError):
                await one
        assert edge.files() == []


async def test_a_small_answer_of_damaged_bytes_is_503(tmp_path: Path) -> None:
    tap = Tap(changed_at(5))
    async with place(tmp_path, tap) as edge:
        tap.let(10)
        async with edge.session.get(edge.url, headers={"Range": "bytes=0-9"}) as response:
            assert (response.status, (await response.json())["code"]) == (503, "unavailable")


@pytest.mark.parametrize("surplus", [-PIECE, -1, 1, PIECE])
async def test_more_or_less_than_was_announced_is_no_whole_answer(tmp_path: Path, surplus: int) -> None:
    class Liar(Tap):
        async def length(self, sha256: str) -> int:
            return len(CONTENT) + surplus

    liar = Liar()
    async with place(tmp_path, liar) as edge:
        liar.let(10)
        with pytest.raises(ClientPayloadError):
            await edge.get()
        assert edge.files() == []


async def test_a_source_that_breaks_half_way_cuts_its_readers_and_the_next_one_begins_anew(
    tmp_path: Path, tap: Tap
) -> None:
    async with place(tmp_path, tap) as edge:
        asking = [asyncio.create_task(edge.get()) for _ in range(3)]
        tap.let(5)

        async def half() -> bool:
            return tap.given == 5 * PIECE

        await eventually(half)
        tap.failure = StoreUnavailable("cut")
        tap.let(1)
        for one in asking:
            with pytest.raises(ClientPayloadError):
                await one
        assert edge.files() == []
        tap.failure = None
        tap.let(10)
        assert await edge.get() == CONTENT
        assert tap.fetches == 2


async def test_a_source_that_breaks_before_the_first_byte_is_503(tmp_path: Path, tap: Tap) -> None:
    async with place(tmp_path, tap) as edge:
        tap.failure = StoreUnavailable("away")
        tap.let(1)
        async with edge.session.get(edge.url) as response:
            assert (response.status, (await response.json())["code"]) == (503, "unavailable")
        assert edge.files() == []


async def test_readers_that_go_away_do_not_end_the_fetch(tmp_path: Path, tap: Tap) -> None:
    async with place(tmp_path, tap) as edge:
        tap.let(2)
        for _ in range(3):
            response = await edge.session.get(edge.url)
            await response.content.readexactly(1000)
            response.close()
        tap.let(8)

        async def stored() -> bool:
            return DIGEST in edge.directory

        await eventually(stored)
        assert tap.fetches == 1


async def test_a_reader_that_went_before_its_answer_is_no_failure_of_ours(tmp_path: Path, tap: Tap) -> None:
    failures = metric("skafos_edge_requests_failed_total")
    async with place(tmp_path, tap) as edge:
        _, writer = await asyncio.open_connection(*edge.address)
        writer.write(request("GET", edge.path, "Range: bytes=10-20"))
        await eventually(tap.is_asked)
        writer.transport.abort()
        await asyncio.sleep(0.05)
        tap.let(10)
        assert await edge.get() == CONTENT
    assert metric("skafos_edge_requests_failed_total") == failures


async def test_a_reader_that_stalls_holds_up_neither_the_fetch_nor_the_others(tmp_path: Path, tap: Tap) -> None:
    async with place(tmp_path, tap) as edge:
        tap.let(1)
        stalled = await edge.session.get(edge.url, read_bufsize=1)
        tap.let(9)
        assert await edge.get() == CONTENT
        stalled.close()


async def test_a_source_that_pauses_too_long_is_no_answer_and_the_fetch_goes_on(tmp_path: Path, tap: Tap) -> None:
    async with place(tmp_path, tap, wait=0.1) as edge:
        async with edge.session.get(edge.url) as response:
            assert (response.status, (await response.json())["code"]) == (503, "fetching")
            assert int(response.headers["Retry-After"]) > 0
        tap.let(5)
        with pytest.raises(ClientPayloadError):
            await edge.get()
        tap.let(5)
        assert await edge.get() == CONTENT
        assert tap.fetches == 1


async def test_the_end_of_the_edge_cuts_those_who_read_along(tmp_path: Path, tap: Tap) -> None:
    async with place(tmp_path, tap) as edge:
        tap.let(3)
        response = await edge.session.get(edge.url)
        await response.content.readexactly(PIECE)
        rest = asyncio.create_task(response.read())
    with pytest.raises(ClientPayloadError):
        await rest
    assert edge.files() == []


# --- on its own ---


async def ends(call: Callable[[], Awaitable[object]]) -> object:
    async with asyncio.timeout(5):
        return await call()


async def test_who_comes_after_the_end_hears_how_it_ended(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    whole = GrowingBlob(1)
    whole.begin(tmp_path / "file", 7)
    whole.grow(7)
    reader = await whole.open()
    assert reader is not None
    whole.verify()
    whole.close(None)
    assert await whole.open() is None
    with reader:
        assert await reader.ready(0, 7) == 7
        assert reader.read(0, 7) == b"content"
    failed = GrowingBlob(1)
    failed.close(Unavailable("no"))
    with pytest.raises(Unavailable):
        await ends(failed.open)


async def test_no_bytes_are_right_before_they_are_verified(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    growing = GrowingBlob(0.05)
    growing.begin(tmp_path / "file", 0)
    with pytest.raises(Unavailable):
        await growing.ready(0, 0)
    growing.verify()
    assert await growing.ready(0, 0) == 0
    growing.close(None)
