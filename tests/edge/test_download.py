"""A device downloads a blob: whole, in part, again, and from an edge that must fetch it first."""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import ClientSession, web

from artifacts.store import open_store
from bench.edge.certificate import make_certificate
from edge.blob_cache import BlobCache
from edge.blob_directory import BlobDirectory
from edge.download import Downloads
from edge.listening import address_of, listen
from edge.manifest_cache import ManifestCache
from edge.ranges import MAX_RANGES
from edge.sendfile import FileSender
from tests.edge.raw import connect, raw, read_answer, request
from tests.edge.site import Edge, Environment, Site, eventually, metric, release_of, sha256

CONTENT = random.Random(1).randbytes(1_000_003)
DIGEST = sha256(CONTENT)
PATH = f"/v2/artifacts/{DIGEST}"


@pytest_asyncio.fixture
async def edge(site: Site) -> AsyncIterator[Edge]:
    await site.put(CONTENT)
    await site.publish(Environment([release_of(CONTENT)]))
    async with site.edge() as running:
        yield running


async def test_a_whole_blob_is_immutable_and_tagged_with_its_hash(edge: Edge) -> None:
    for _ in range(2):  # fetched from the object store, then from the disk
        answer = await edge.get(PATH)
        assert answer.status == 200
        assert answer.body == CONTENT
        assert answer.headers["ETag"] == f'"{DIGEST}"'
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert int(answer.headers["Content-Length"]) == len(CONTENT)
        assert answer.headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("0-0", 0, 0), ("100-", 100, 1_000_002), ("-1", 1_000_002, 1_000_002), ("999990-2000000", 999_990, 1_000_002)],
)
async def test_one_range_is_206_with_its_place(edge: Edge, asked: str, first: int, last: int) -> None:
    answer = await edge.get(PATH, headers={"Range": f"bytes={asked}"})
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(CONTENT)}"
    assert answer.body == CONTENT[first : last + 1]
    assert answer.headers["ETag"] == f'"{DIGEST}"'


async def test_several_ranges_are_one_multipart_answer(edge: Edge) -> None:
    answer = await edge.get(PATH, headers={"Range": "bytes=900000-999999, 0-9, -9"})
    assert answer.status == 206
    assert "Content-Range" not in answer.headers
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.body, policy=email.policy.HTTP)
    parts = [(part["Content-Range"], part.get_payload(decode=True)) for part in message.iter_parts()]
    assert parts == [
        (f"bytes 900000-1000002/{len(CONTENT)}", CONTENT[900_000:]),
        (f"bytes 0-9/{len(CONTENT)}", CONTENT[:10]),
    ]


async def test_ranges_that_touch_become_one_plain_answer(edge: Edge) -> None:
    answer = await edge.get(PATH, headers={"Range": "bytes=0-9,10-19,5-30"})
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes 0-30/{len(CONTENT)}"
    assert answer.body == CONTENT[:31]


@pytest.mark.parametrize("asked", ["bytes=1000003-", "bytes=-0", "bytes=9999999999999999999999-"])
async def test_a_range_beyond_the_end_is_416_with_the_length(edge: Edge, asked: str) -> None:
    answer = await edge.get(PATH, headers={"Range": asked})
    assert (answer.status, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["Content-Range"] == f"bytes */{len(CONTENT)}"


async def test_too_many_ranges_are_416_and_broken_ones_are_ignored(edge: Edge) -> None:
    many = ",".join(f"{n * 1000}-{n * 1000}" for n in range(MAX_RANGES + 1))
    assert (await edge.get(PATH, headers={"Range": f"bytes={many}"})).status == 416
    for broken in ("bytes=x", "bytes=5-1", "octets=0-1", "bytes 0-1", "bytes=" + "0-0," * 1500 + "x"):
        answer = await edge.get(PATH, headers={"Range": broken})
        assert (answer.status, len(answer.body)) == (200, len(CONTENT))


@pytest.mark.parametrize(
    ("if_range", "status"),
    [
        (f'"{DIGEST}"', 206),
        ("Wed, 01 Jan 2020 00:00:00 GMT", 206),
        (f'W/"{DIGEST}"', 200),
        ('"another"', 200),
        ("Thu, 02 Jan 2020 00:00:00 GMT", 200),
        ("broken", 200),
    ],
)
async def test_a_download_is_resumed_only_into_the_same_bytes(edge: Edge, if_range: str, status: int) -> None:
    answer = await edge.get(PATH, headers={"Range": "bytes=500000-", "If-Range": if_range})
    assert answer.status == status
    assert answer.body == (CONTENT[500_000:] if status == 206 else CONTENT)


async def test_if_range_hides_a_range_that_cannot_be_satisfied(edge: Edge) -> None:
    answer = await edge.get(PATH, headers={"Range": "bytes=9999999-", "If-Range": '"another"'})
    assert answer.status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_conditions_go_before_ranges(edge: Edge, method: str) -> None:
    held = {"If-None-Match": f'"{DIGEST}"', "Range": "bytes=0-1"}
    answer = await edge.ask(method, PATH, headers=held)
    assert (answer.status, answer.body) == (304, b"")
    since = {"If-Modified-Since": "Wed, 01 Jan 2020 00:00:00 GMT"}
    assert (await edge.ask(method, PATH, headers=since)).status == 304
    assert (await edge.ask(method, PATH, headers={"If-Match": '"another"'})).status == 412
    early = {"If-Unmodified-Since": "Tue, 31 Dec 2019 00:00:00 GMT"}
    assert (await edge.ask(method, PATH, headers=early)).status == 412


async def test_head_tells_everything_but_the_bytes_and_fetches_nothing(edge: Edge, site: Site) -> None:
    reader, writer = await connect(edge)
    writer.write(request("HEAD", PATH, "Range: bytes=0-1", "Connection: close"))
    answer = await read_answer(reader, head_only=True)
    assert answer.status == 200
    assert int(answer.fields["content-length"]) == len(CONTENT)
    assert await reader.read() == b""
    writer.close()
    assert not (site.folder / "edge" / "edge-0" / "blobs" / DIGEST[:2]).exists()


async def test_a_blob_that_nobody_has_is_404(edge: Edge) -> None:
    for method in ("GET", "HEAD", "GET"):
        answer = await edge.ask(method, f"/v2/artifacts/{'0' * 64}")
        assert answer.status == 404
        assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "name", ["x", DIGEST.upper(), DIGEST[:-1], DIGEST + "0", DIGEST + "%00", "%2e%2e%2f" + DIGEST, "٣" * 64, "%ff" * 64]
)
async def test_what_is_no_hash_is_400(edge: Edge, name: str) -> None:
    answer = await edge.get(f"/v2/artifacts/{name}")
    assert (answer.status, answer.json()["code"]) == (400, "invalid_hash")


async def test_tuf_targets_are_the_same_bytes(edge: Edge, site: Site) -> None:
    environment = Environment([release_of(CONTENT)])
    base = f"/v2/environments/{environment.key}/tuf/targets"
    answer = await edge.get(f"{base}/digits/{DIGEST}.1")
    assert (answer.status, answer.body) == (200, CONTENT)
    for name in (f"{DIGEST}", f"{DIGEST}.0", f"{DIGEST}.x", "1", f"{DIGEST.upper()}.1"):
        assert (await edge.get(f"{base}/digits/{name}")).status == 404
    assert (await edge.get(f"{base}/{DIGEST}.1")).status == 404


async def test_a_blob_of_no_bytes_is_served(edge: Edge, site: Site) -> None:
    digest = await site.put(b"")
    answer = await edge.get(f"/v2/artifacts/{digest}")
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "0")
    assert (await edge.get(f"/v2/artifacts/{digest}", headers={"Range": "bytes=0-"})).status == 416
    assert (await edge.get(f"/v2/artifacts/{digest}", headers={"Range": "bytes=-5"})).status == 200


async def test_a_connection_serves_one_download_after_another(edge: Edge) -> None:
    reader, writer = await connect(edge)
    for first in (0, 400_000, 999_000):
        writer.write(request("GET", PATH, f"Range: bytes={first}-"))
        assert (await read_answer(reader)).body == CONTENT[first:]
    writer.close()


async def test_a_client_that_leaves_in_the_middle_harms_nobody(edge: Edge, site: Site) -> None:
    large = random.Random(2).randbytes(8_000_000)
    digest = await site.put(large)
    for _ in range(5):
        reader, writer = await connect(edge)
        writer.write(request("GET", f"/v2/artifacts/{digest}"))
        await reader.readexactly(1000)
        writer.transport.abort()
    assert (await edge.get(f"/v2/artifacts/{digest}")).body == large


async def test_a_client_that_stops_reading_is_cut_off(site: Site) -> None:
    large = random.Random(3).randbytes(16_000_000)
    digest = await site.put(large)
    await site.publish(Environment())
    before = metric("skafos_edge_answers_stalled_total")
    async with site.edge(edge_stall_seconds=0.3) as edge:
        with socket.create_connection(edge.address) as stalled:
            stalled.sendall(request("GET", f"/v2/artifacts/{digest}"))

            async def cut() -> bool:
                return metric("skafos_edge_answers_stalled_total") > before

            await eventually(cut)
        assert (await edge.get(f"/v2/artifacts/{digest}")).body == large


async def test_copied_downloads_over_the_bound_are_503_and_the_place_is_given_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.download.MAX_COPIED", 1)
    large = random.Random(6).randbytes(16_000_000)
    digest = await site.put(large)
    await site.publish(Environment())
    several = "Range: bytes=0-9000000,10000000-15999999"
    async with site.edge() as edge:
        reader, writer = await connect(edge)
        writer.write(request("GET", f"/v2/artifacts/{digest}", several))
        await reader.readexactly(100)
        refused = await raw(edge, request("GET", f"/v2/artifacts/{digest}", several))
        assert (refused.status, refused.json()["code"]) == (503, "busy")
        assert int(refused.fields["retry-after"]) > 0
        # What the kernel sends takes no place.
        assert sha256((await edge.get(f"/v2/artifacts/{digest}")).body) == digest
        writer.transport.abort()

        async def served() -> bool:
            return (await raw(edge, request("GET", f"/v2/artifacts/{digest}", several))).status == 206

        await eventually(served)


async def test_many_devices_get_a_fresh_blob_at_once(edge: Edge) -> None:
    answers = await asyncio.gather(*(edge.get(PATH) for _ in range(20)))
    assert all(answer.body == CONTENT for answer in answers)


# --- within the kernel ---

LARGE = random.Random(8).randbytes(12_000_000)
LARGE_PATH = f"/v2/artifacts/{sha256(LARGE)}"


@pytest_asyncio.fixture
async def large(edge: Edge, site: Site) -> Edge:
    await site.put(LARGE)
    assert sha256((await edge.get(LARGE_PATH)).body) == sha256(LARGE)

    async def stored() -> bool:
        return (site.folder / "edge" / "edge-0" / "blobs" / sha256(LARGE)[:2] / sha256(LARGE)).exists()

    await eventually(stored)
    return edge


async def test_requests_sent_ahead_are_answered_in_order_behind_a_download(large: Edge) -> None:
    reader, writer = await connect(large)
    writer.write(
        request("GET", LARGE_PATH)
        + request("GET", LARGE_PATH, "Range: bytes=5-9")
        + request("HEAD", LARGE_PATH, f'If-None-Match: "{sha256(LARGE)}"')
        + request("GET", LARGE_PATH, "Range: bytes=0-4,1000-1004")
        + request("GET", LARGE_PATH, "Range: bytes=11000000-", "Connection: close")
    )
    assert sha256((await read_answer(reader)).body) == sha256(LARGE)
    assert (await read_answer(reader)).body == LARGE[5:10]
    assert (await read_answer(reader)).status == 304
    assert LARGE[1000:1005] in (await read_answer(reader)).body
    assert (await read_answer(reader)).body == LARGE[11_000_000:]
    assert await reader.read() == b""
    writer.close()


async def test_a_download_behind_answers_that_are_not_read_yet(large: Edge) -> None:
    reader, writer = await connect(large)
    writer.write(request("GET", LARGE_PATH, "Range: bytes=0-3000000,4000000-9000000") * 2 + request("GET", LARGE_PATH))
    for _ in range(2):
        assert LARGE[4_000_000:9_000_001] in (await read_answer(reader)).body
    assert sha256((await read_answer(reader)).body) == sha256(LARGE)
    writer.close()


async def test_an_old_client_is_served_and_closed(large: Edge) -> None:
    reader, writer = await connect(large)
    writer.write(f"GET {LARGE_PATH} HTTP/1.0\r\n\r\n".encode())
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    assert sha256(answer.partition(b"\r\n\r\n")[2]) == sha256(LARGE)
    writer.close()


async def test_a_file_that_becomes_shorter_ends_the_connection_and_is_not_padded(large: Edge, site: Site) -> None:
    reader, writer = await connect(large)
    writer.write(request("GET", LARGE_PATH) + request("GET", PATH))
    await reader.readuntil(b"\r\n\r\n")
    path = site.folder / "edge" / "edge-0" / "blobs" / sha256(LARGE)[:2] / sha256(LARGE)
    os.truncate(path, 9_000_000)
    received = await reader.read()
    assert len(received) < len(LARGE)
    assert LARGE.startswith(received)
    writer.close()
    # Fetched again, because the length is not that of the blob.
    assert sha256((await large.get(LARGE_PATH)).body) == sha256(LARGE)


async def test_a_download_survives_that_its_blob_makes_room(site: Site) -> None:
    await site.publish(Environment())
    for content in (LARGE, CONTENT):
        await site.put(content)
    path = site.folder / "edge" / "edge-0" / "blobs" / sha256(LARGE)[:2] / sha256(LARGE)

    async def stored() -> bool:
        return path.exists()

    async with site.edge(blob_cache_bytes=len(LARGE)) as edge:
        await edge.get(LARGE_PATH)
        await eventually(stored)
        reader, writer = await connect(edge)
        writer.write(request("GET", LARGE_PATH))
        await reader.readexactly(1000)
        assert (await edge.get(PATH)).body == CONTENT
        assert not path.exists()
        rest = await reader.readexactly(11_000_000)
        assert rest in LARGE
        writer.close()


async def test_bytes_sent_are_counted_whoever_sends_them(large: Edge) -> None:
    before = metric("skafos_edge_sent_bytes_total")
    await large.get(LARGE_PATH)
    await large.get(PATH, headers={"Range": "bytes=0-99"})
    await large.get(PATH, headers={"Range": "bytes=0-99,1000-1099"})
    assert metric("skafos_edge_sent_bytes_total") - before == len(LARGE) + 300


async def test_many_downloads_at_once_and_some_that_nobody_reads(large: Edge) -> None:
    stuck = []
    for _ in range(40):
        client = socket.create_connection(large.address)
        client.sendall(request("GET", LARGE_PATH))
        stuck.append(client)
    answers = await asyncio.gather(*(large.get(LARGE_PATH, headers={"Range": "bytes=1-8000000"}) for _ in range(10)))
    assert all(answer.body == LARGE[1:8_000_001] for answer in answers)
    for client in stuck:
        client.close()


async def test_the_end_of_the_edge_cuts_a_download_that_nobody_reads(site: Site) -> None:
    await site.publish(Environment())
    await site.put(LARGE)
    async with site.edge(edge_shutdown_seconds=0.1) as edge:
        reader, writer = await connect(edge)
        writer.write(request("GET", LARGE_PATH))
        await reader.readexactly(1000)
    with contextlib.suppress(ConnectionError):
        assert len(await reader.read()) < len(LARGE)
    writer.close()


async def test_over_tls_the_same_bytes_are_copied(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/objects")
    (tmp_path / "up").write_bytes(LARGE)
    await store.put_file(sha256(LARGE), tmp_path / "up")
    directory = BlobDirectory(tmp_path / "edge", 100_000_000)
    directory.recover()
    blobs = BlobCache(directory, store, fills=1, fill_timeout=60, wait=30)
    sender = FileSender()
    app = web.Application()
    app.router.add_get("/v2/artifacts/{sha256}", Downloads(blobs, ManifestCache(), sender, 30).artifact)
    made = make_certificate(tmp_path)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(made.certificate, made.key)
    asking = ssl.create_default_context(cafile=str(made.certificate))
    runner = web.AppRunner(app)
    await runner.setup()
    listening = listen("127.0.0.1:0", shared=False)
    await web.SockSite(runner, listening, ssl_context=serving).start()
    url = f"https://{address_of(listening)}{LARGE_PATH}"
    async with ClientSession() as session:
        for _ in range(2):  # while it is fetched, and from the disk
            async with session.get(url, ssl=asking) as response:
                assert sha256(await response.read()) == sha256(LARGE)
        async with session.get(url, ssl=asking, headers={"Range": "bytes=7-7000000"}) as response:
            assert await response.read() == LARGE[7:7_000_001]
    await runner.cleanup()
    await blobs.close()
    sender.close()
