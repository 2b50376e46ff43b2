"""Connections in the lane, at aiohttp and back; clients that hold on or take nothing; the end of a worker."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import signal
import socket
import struct
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
import pytest_asyncio

from artifacts.store import open_store
from edge.batches import Batches
from edge.blob_cache import BlobCache
from edge.blob_directory import BlobDirectory
from edge.blob_lane import BlobLane
from edge.head_patterns import MAX_KNOWN, MAX_RECENT
from edge.lane import Answering, Desk, Lane
from edge.manifest_cache import ManifestCache
from edge.prepared import MAX_HEADS, MAX_PREPARED_BYTES, Clock, PreparedManifests
from edge.request_head import MAX_LAYOUTS, MAX_LINES
from edge.sendfile import FileSender
from manifests.store import Publication
from telemetry.spool import Spool
from tests.edge.raw import RawAnswer, connect, raw, read_answer, request
from tests.edge.site import LABELS, Edge, Environment, Site, eventually, metric
from tests.edge.wire import exchange


@pytest_asyncio.fixture
async def sender() -> AsyncIterator[FileSender]:
    made = FileSender()
    yield made
    made.close()


def answering(prepared: PreparedManifests, cache: ManifestCache, folder: Path, sender: FileSender) -> Answering:
    """Return what a desk answers with when there is nothing but manifests."""
    store = open_store((folder / "objects").as_uri())
    blobs = BlobCache(BlobDirectory(folder / "edge", 1_000_000), store, fills=1, fill_timeout=1, wait=1)
    return Answering(prepared, Batches(cache, Spool(folder / "spool"), 1_000_000), BlobLane(blobs, sender, 5))


def desk_of(answers: Answering) -> Desk:
    """Return a desk that hands nothing over and counts nothing."""
    return Desk(answers, Clock(), hand_over=lambda *_: None, counted=lambda _: None)


def path(environment: Environment) -> str:
    return f"/v2/environments/{environment.key}/manifest"


def check(environment: Environment, *fields: str) -> bytes:
    return request("GET", path(environment), f"If-None-Match: {environment.publication().etag}", *fields)


def events(environment: Environment) -> bytes:
    return request("POST", f"/v2/environments/{environment.key}/events", body=b"[]")


def by_lane(answer: RawAnswer) -> bool:
    """Tell who answered: aiohttp names itself."""
    return "server" not in answer.fields


def handed_over(reason: str) -> float:
    return metric("skafos_edge_lane_handed_over_total", reason=reason)


def given_back() -> float:
    return metric("skafos_edge_lane_given_back_total")


class Client:
    """A connection that asks and reads one answer at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def of(cls, edge: Edge) -> Client:
        return cls(*await connect(edge))

    async def ask(self, *pieces: bytes) -> RawAnswer:
        for piece in pieces:
            self.writer.write(piece)
            await asyncio.sleep(0.01 if len(pieces) > 1 else 0)
        return await read_answer(self.reader)

    async def ended(self) -> bool:
        async with asyncio.timeout(20):
            return await self.reader.read() == b""


async def test_checks_are_answered_in_the_lane_with_the_present_date(edge: Edge, environment: Environment) -> None:
    client = await Client.of(edge)
    for asked, status in ((check(environment), 304), (request("GET", path(environment)), 200)):
        for _ in range(3):  # with lines that are new, with lines that are known, and as a head that is known
            answer = await client.ask(asked)
            assert (answer.status, by_lane(answer)) == (status, True)
            age = datetime.now(UTC) - parsedate_to_datetime(answer.fields["date"])
            assert timedelta(seconds=-1) < age < timedelta(seconds=20)


async def test_checks_are_counted_by_environment_and_status_whoever_answers(
    edge: Edge, environment: Environment
) -> None:
    def counted(status: str) -> float:
        labels = {"environment_id": LABELS.environment_id, "application": "Camera", "environment": "prod"}
        return metric("skafos_edge_checks_total", **labels, status=status)

    held, whole = counted("304"), counted("200")
    client = await Client.of(edge)
    for asked in (check(environment), check(environment, "Range: bytes=0-1"), request("GET", path(environment))):
        await client.ask(asked)
    assert (counted("304"), counted("200")) == (held + 2, whole + 1)


async def test_a_connection_goes_to_aiohttp_and_comes_back_with_its_next_check(
    site: Site, edge: Edge, environment: Environment
) -> None:
    blob = await site.put(random.Random(1).randbytes(300_000))
    client = await Client.of(edge)
    before = given_back()
    others = [
        (request("GET", f"/v2/environments/{environment.key}/root/1.json"), 200),
        (request("HEAD", "/nowhere"), 404),
        (events(environment), 202),
        (request("GET", f"/v2/artifacts/{blob}", "Range: bytes=0-200000"), 206),
        (check(environment, "If-Match: *"), 304),
    ]
    for other, status in others:
        assert by_lane(await client.ask(check(environment)))
        client.writer.write(other)
        answer = await read_answer(client.reader, head_only=other.startswith(b"HEAD"))
        assert (answer.status, by_lane(answer)) == (status, False)
    assert by_lane(await client.ask(check(environment)))
    assert given_back() == before + len(others)


async def test_a_connection_comes_back_after_requests_that_come_in_pieces(edge: Edge, environment: Environment) -> None:
    client = await Client.of(edge)
    fragments = handed_over("fragment")
    body = events(environment)
    pieces = [body[:1], body[1:50], body[50:-1], body[-1:]]
    assert (await client.ask(*pieces)).status == 202
    assert by_lane(await client.ask(check(environment)))
    whole = check(environment)
    assert not by_lane(await client.ask(whole[:90], whole[90:]))
    assert by_lane(await client.ask(whole))
    assert handed_over("fragment") == fragments + 2


@pytest.mark.parametrize(
    "other",
    [
        b"POST /v2/environments/{key}/events HTTP/1.1\r\nHost: x\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n",
        b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["chunked", "pipelined"],
)
async def test_a_connection_whose_requests_end_who_knows_where_stays_at_aiohttp(
    edge: Edge, environment: Environment, other: bytes
) -> None:
    client = await Client.of(edge)
    asked = other.replace(b"{key}", environment.key.encode())
    client.writer.write(asked)
    for _ in range(asked.count(b"HTTP/1.1")):
        assert (await read_answer(client.reader)).status in (202, 404)
    answer = await client.ask(check(environment))
    assert (answer.status, by_lane(answer)) == (304, False)


async def test_a_connection_that_rests_at_aiohttp_is_given_back(
    edge: Edge, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.connections.LINGER_AT_AIOHTTP_SECONDS", 0)
    client, before = await Client.of(edge), given_back()
    tasks = len(asyncio.all_tasks())
    await client.ask(events(environment))

    async def back() -> bool:
        return given_back() == before + 1 and len(asyncio.all_tasks()) == tasks

    await eventually(back)
    assert by_lane(await client.ask(check(environment)))
    assert (await client.ask(events(environment))).status == 202


async def test_idle_connections_take_no_task(edge: Edge, environment: Environment) -> None:
    tasks = len(asyncio.all_tasks())
    clients = [await Client.of(edge) for _ in range(20)]
    for client in clients:
        await client.ask(check(environment))
    # One each would be twenty; those of the edge's background come and go.
    assert len(asyncio.all_tasks()) < tasks + len(clients) / 2


async def test_a_manifest_that_is_large_is_sent_by_aiohttp_and_known_by_the_lane(site: Site, edge: Edge) -> None:
    key, body = "prod-aaaaaaaaaaaa-bbbbbbbbbbbbbbbbbbbbbbbbbb", b"x" * (MAX_PREPARED_BYTES + 1)
    await site.store.publish(Publication(key, 1, body, '"large"', {}, LABELS))
    client = await Client.of(edge)

    async def arrived() -> bool:
        return (await client.ask(request("GET", f"/v2/environments/{key}/manifest"))).body == body

    await eventually(arrived)
    held = await client.ask(request("GET", f"/v2/environments/{key}/manifest", 'If-None-Match: "large"'))
    assert (held.status, by_lane(held)) == (304, True)


async def test_pipelined_checks_and_others_are_answered_in_their_order(edge: Edge, environment: Environment) -> None:
    whole, other = request("GET", path(environment)), request("GET", "/nowhere")
    sent = [check(environment) * 3 + whole + other + check(environment) + other + whole]
    assert (await exchange(edge.address, sent)).statuses == [304, 304, 304, 200, 404, 304, 404, 200]


async def test_a_flood_that_is_read_late_is_answered_whole_and_holds_little(
    site: Site, environment: Environment
) -> None:
    """The lane stops reading while nobody takes its answers, then goes on, up to aiohttp's answer at the end."""
    async with site.edge() as edge:
        whole = request("GET", path(environment), f"X-Long: {'x' * 2000}") * 10
        with socket.socket() as client:
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                client.setsockopt(socket.SOL_SOCKET, option, 1 << 15)
            client.connect(edge.address)
            client.setblocking(False)
            sent = refused = 0
            while refused < 50:  # until buffers of the kernel are full, and nobody empties them
                try:
                    sent += client.send(whole[sent % len(whole) :])
                    refused = 0
                except BlockingIOError:
                    refused += 1
                assert sent < 64 << 20, "the lane reads on without end"
                await asyncio.sleep(0.001)
            reader, writer = await asyncio.open_connection(sock=client.dup())
            missing = -sent % len(whole)
            writer.write(whole[len(whole) - missing :] + request("GET", "/nowhere", "Connection: close"))
            received = await reader.read()
            writer.close()
        statuses = re.findall(rb"HTTP/1\.1 ([0-9]+) ", received)
        assert statuses == [b"200"] * ((sent + missing) // len(whole) * 10) + [b"404"]


async def test_a_client_that_does_not_take_its_answers_is_counted(edge: Edge, environment: Environment) -> None:
    before = metric("skafos_edge_lane_paused_total")
    with socket.create_connection(edge.address) as client:
        client.setblocking(False)

        async def counted() -> bool:
            with contextlib.suppress(BlockingIOError):
                client.send(request("GET", path(environment)) * 100)
            return metric("skafos_edge_lane_paused_total") > before

        await eventually(counted)


async def test_a_connection_that_comes_back_while_its_client_reads_nothing_waits_for_it(
    environment: Environment, tmp_path: Path, sender: FileSender
) -> None:
    """What another protocol has written comes first, and nothing is read before it is taken."""
    cache = ManifestCache()
    prepared = PreparedManifests(cache, "no-store")
    cache.take(environment.publication())
    desk = desk_of(answering(prepared, cache, tmp_path, sender))
    left = asyncio.Event()
    reads: list[bool] = []

    class Another(asyncio.Protocol):
        """Writes more than buffers hold, then leaves the connection to the lane."""

        paused = False

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport: asyncio.Transport = transport  # type: ignore[assignment] # uvloop's has no common base

        def pause_writing(self) -> None:
            self.paused = True

        def data_received(self, data: bytes) -> None:
            self.transport.write(bytes(20_000_000))
            Lane(desk).take_back(self.transport, paused=self.paused)
            reads.append(self.transport.is_reading())
            left.set()

    server = await asyncio.get_running_loop().create_server(Another, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"go")
    await left.wait()
    assert reads == [False]
    writer.write(check(environment))
    assert await reader.readexactly(20_000_000) == bytes(20_000_000)
    assert (await read_answer(reader)).status == 304
    writer.close()
    server.close()


async def test_a_connection_on_which_nothing_happens_is_closed(site: Site, environment: Environment) -> None:
    async with site.edge(edge_keepalive_seconds=0.3) as edge:
        closed = metric("skafos_edge_connections_idle_total")
        silent, asked = await Client.of(edge), await Client.of(edge)
        await asked.ask(check(environment))
        assert await silent.ended()
        assert await asked.ended()
        assert metric("skafos_edge_connections_idle_total") == closed + 2


async def test_a_head_that_never_ends_is_closed_wherever_its_connection_was(
    site: Site, environment: Environment
) -> None:
    async with site.edge(edge_keepalive_seconds=0.5) as edge:
        for earlier in ([], [check(environment)], [events(environment)]):
            client = await Client.of(edge)
            for one in earlier:
                await client.ask(one)
            client.writer.write(check(environment)[:-2])
            assert await client.ended()


async def test_connections_are_counted_once_wherever_they_are(edge: Edge, environment: Environment) -> None:
    assert metric("skafos_edge_connections") == 0
    clients = [await Client.of(edge) for _ in range(3)]
    for client in clients:
        await client.ask(check(environment))
        await client.ask(events(environment))
        await client.ask(check(environment))
    await clients[0].ask(events(environment))
    assert metric("skafos_edge_connections") == 3
    for client in clients:
        client.writer.close()

    async def gone() -> bool:
        return metric("skafos_edge_connections") == 0

    await eventually(gone)


async def test_clients_that_vanish_leave_nothing_behind(edge: Edge, environment: Environment) -> None:
    for data in (b"", check(environment)[:50], check(environment) * 500, events(environment), events(environment)[:-1]):
        client = await Client.of(edge)
        client.writer.write(data)
        await asyncio.sleep(0)
        client.writer.transport.abort()

    async def gone() -> bool:
        return metric("skafos_edge_connections") == 0

    await eventually(gone)
    assert (await raw(edge, check(environment))).status == 304


async def test_a_client_that_resets_its_connection_is_counted(edge: Edge, environment: Environment) -> None:
    opened, reset = metric("skafos_edge_connections_opened_total"), metric("skafos_edge_connections_reset_total")
    for data in (check(environment), check(environment)[:50]):  # one in the lane, one at aiohttp
        client = socket.create_connection(edge.address)
        client.sendall(data)
        await asyncio.sleep(0.05)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    async def counted() -> bool:
        return metric("skafos_edge_connections_reset_total") == reset + 2

    await eventually(counted)
    assert metric("skafos_edge_connections_opened_total") == opened + 2


UNKNOWN_PATH = "/v2/environments/prod-aaaaaaaaaaaa-bbbbbbbbbbbbbbbbbbbbbbbbbb/manifest"


def refused_checks() -> float:
    return metric("skafos_edge_checks_total", environment_id="", application="", environment="", status="404")


async def test_a_key_that_nobody_has_is_refused_in_the_lane_and_counted(edge: Edge, environment: Environment) -> None:
    client, before = await Client.of(edge), refused_checks()
    answers = [await client.ask(request("GET", UNKNOWN_PATH, *field)) for field in ((), ("Range: bytes=0-1",))]
    assert [(answer.status, by_lane(answer)) for answer in answers] == [(404, True)] * 2
    assert answers[0].json() == {"error": "No environment has this key.", "code": "unknown_key"}
    by_aiohttp = await client.ask(request("GET", UNKNOWN_PATH, "Content-Length: 0"))
    assert (by_aiohttp.status, by_lane(by_aiohttp), by_aiohttp.body) == (404, False, answers[0].body)
    assert refused_checks() == before + 3
    assert by_lane(await client.ask(check(environment)))


async def test_a_key_that_was_withdrawn_is_refused_in_the_lane(
    site: Site, edge: Edge, environment: Environment
) -> None:
    client = await Client.of(edge)
    await site.store.withdraw(environment.key, 1)

    async def gone() -> bool:
        answer = await client.ask(check(environment))
        return (answer.status, by_lane(answer)) == (404, True)

    await eventually(gone)


async def test_who_is_refused_is_left_to_aiohttp_when_it_shall_be_told(site: Site, environment: Environment) -> None:
    async with site.edge(edge_log_refusals=True) as edge:
        answer = await raw(edge, request("GET", UNKNOWN_PATH))
        assert (answer.status, by_lane(answer)) == (404, False)


async def test_a_key_is_not_refused_before_all_are_known_nor_at_the_end(
    environment: Environment, tmp_path: Path, sender: FileSender
) -> None:
    cache = ManifestCache()
    desk = desk_of(answering(PreparedManifests(cache, "no-store"), cache, tmp_path, sender))
    cache.take(environment.publication())
    unknown, known = request("GET", UNKNOWN_PATH), check(environment)
    assert desk.answer_to(unknown) is None
    cache.complete()
    assert desk.answer_to(unknown) is not None
    desk.leave_all_to_aiohttp()
    assert desk.answer_to(unknown) is None
    assert desk.answer_to(known) is None


async def test_distinct_keys_and_headers_without_number_are_not_kept(
    environment: Environment, tmp_path: Path, sender: FileSender
) -> None:
    cache = ManifestCache()
    prepared = PreparedManifests(cache, "no-store")
    cache.take(environment.publication())
    cache.complete()
    desk = desk_of(answering(prepared, cache, tmp_path, sender))
    new = metric("skafos_edge_lane_heads_new_total")
    for number in range(20_000):
        assert desk.answer_to(request("GET", f"/v2/environments/prod-{number}/manifest", f"X: {number}")) is not None
        assert desk.answer_to(check(environment, f"X-Request-Id: {number}")) is not None
        assert desk.answer_to(check(environment, f"X-{number}: x")) is not None
    assert len(prepared.by_request_line) == 1
    assert len(prepared.by_head) == 0
    assert len(desk.reader.lines) <= MAX_LINES
    assert len(desk.reader.layouts) <= MAX_LAYOUTS
    assert len(desk.doorkeeper.hashes) <= MAX_HEADS
    assert desk.patterns.known <= MAX_KNOWN
    assert len(desk.patterns.recent) <= MAX_RECENT
    assert metric("skafos_edge_lane_heads_new_total") == new + 40_000


async def test_at_the_end_each_client_is_told_with_its_last_answer(site: Site, environment: Environment) -> None:
    async with site.edge() as edge:
        in_lane, at_aiohttp, idle = [await Client.of(edge) for _ in range(3)]
        for client in (in_lane, at_aiohttp, idle):
            await client.ask(check(environment))
        await at_aiohttp.ask(events(environment))
        asking = [
            asyncio.create_task(_ask_at_the_end(edge, client, last))
            for client, last in ((in_lane, check(environment)), (at_aiohttp, events(environment)))
        ]
    for client, task, status in zip((in_lane, at_aiohttp), asking, (304, 202), strict=True):
        answer = await task
        assert (answer.status, answer.fields["connection"]) == (status, "close")
        assert await client.ended()
    assert await idle.ended()
    assert metric("skafos_edge_connections") == 0


async def _ask_at_the_end(edge: Edge, client: Client, last: bytes) -> RawAnswer:
    """Ask once the edge accepts no more connections."""
    while True:
        try:
            _, writer = await connect(edge)
        except OSError:
            return await client.ask(last)
        writer.close()
        await asyncio.sleep(0.01)


async def test_no_request_is_lost_when_a_worker_is_told_to_end(site: Site, environment: Environment) -> None:
    """Clients that ask without a pause are each answered until an answer says that it is the last."""
    process = site.process()
    async with process.running() as edge:
        clients = [await Client.of(edge) for _ in range(20)]
        told = asyncio.Event()

        async def ask_on(client: Client) -> int:
            answers = 0
            while True:
                answer = await client.ask(check(environment))
                answers += 1
                assert answer.status == 304
                if answer.fields.get("connection") == "close":
                    return answers
                if answers > 20:
                    told.set()

        asking = [asyncio.create_task(ask_on(client)) for client in clients]
        await told.wait()
        process.tell(signal.SIGTERM)
        assert min(await asyncio.gather(*asking)) > 0
        assert await asyncio.to_thread(process.wait) == 0


async def test_a_client_that_takes_nothing_at_the_end_is_not_waited_for(site: Site, environment: Environment) -> None:
    async with site.edge(edge_shutdown_seconds=0.3) as edge:
        flood = socket.create_connection(edge.address)
        flood.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                flood.send(request("GET", path(environment)) * 100)
                await asyncio.sleep(0)
    assert metric("skafos_edge_connections") == 0
    flood.close()
