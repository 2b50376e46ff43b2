"""Blobs in the lane: sent as aiohttp's route sends them, in their turn, and given up cleanly."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.edge.raw import RawAnswer, read_answer, request
from tests.edge.site import Edge, Environment, Site, eventually, metric, release_of, sha256
from tests.edge.test_lane import Client, by_lane, check
from tests.edge.test_lane_batches import batch, unchanging
from tests.edge.test_lane_differential import AiohttpAlone

CONTENT = random.Random(5).randbytes(3_000_000)
LARGE = random.Random(6).randbytes(30_000_000)
PATH = f"/v2/artifacts/{sha256(CONTENT)}"
LARGE_PATH = f"/v2/artifacts/{sha256(LARGE)}"


@pytest_asyncio.fixture
async def environment(site: Site) -> Environment:
    made = Environment([release_of(CONTENT)])
    await site.publish(made)
    await site.put(CONTENT)
    await site.put(LARGE)
    return made


@pytest_asyncio.fixture
async def edge(site: Site, environment: Environment) -> AsyncIterator[Edge]:
    async with site.edge() as running:
        await warm(running)
        yield running


async def warm(edge: Edge) -> None:
    """Have both blobs on the edge's disk."""

    async def there() -> bool:
        client = await Client.of(edge)
        return by_lane(await client.ask(request("GET", PATH))) and by_lane(await client.ask(request("GET", LARGE_PATH)))

    await eventually(there)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the listing's own descriptor comes and goes alike


FORMS: dict[str, tuple[bytes, int]] = {
    "": (CONTENT, 200),
    "bytes=0-": (CONTENT, 206),
    "bytes=0-0": (CONTENT[:1], 206),
    "bytes=1000-": (CONTENT[1000:], 206),
    "bytes=-70000": (CONTENT[-70000:], 206),
    "bytes=2999999-9999999": (CONTENT[-1:], 206),
    "bytes=5-9,7-20": (CONTENT[5:21], 206),
    "bytes=9-5": (CONTENT, 200),
    "lines=1-2": (CONTENT, 200),
}


async def test_whole_blobs_and_single_ranges_are_sent_as_aiohttp_sends_them(
    site: Site, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await Client.of(edge)
    answers: dict[str, RawAnswer] = {}
    sent = metric("skafos_edge_sent_bytes_total")
    for form, (content, status) in FORMS.items():
        answers[form] = await client.ask(request("GET", PATH, *([f"Range: {form}"] if form else [])))
        assert (answers[form].status, answers[form].body == content, by_lane(answers[form])) == (status, True, True)
    assert metric("skafos_edge_sent_bytes_total") == sent + sum(len(content) for content, _ in FORMS.values())
    monkeypatch.setattr("edge.listening.Door", AiohttpAlone)
    async with site.edge(edge_name="alone") as alone:
        client = await Client.of(alone)
        for form, answer in answers.items():
            other = await client.ask(request("GET", PATH, *([f"Range: {form}"] if form else [])))
            assert not by_lane(other)
            assert unchanging(other) == unchanging(answer), form
            order = [name for name in other.fields if name not in ("date", "server")]
            assert [name for name in answer.fields if name != "date"] == order


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (request("GET", PATH, "Range: bytes=0-5,900000-900005"), 206),
        (request("GET", PATH, "Range: bytes=3000000-"), 416),
        (request("GET", PATH, f'If-None-Match: "{sha256(CONTENT)}"'), 304),
        (request("GET", PATH, f'If-Range: "{sha256(CONTENT)}"', "Range: bytes=1-2"), 206),
        (request("GET", PATH, 'If-Match: "other"'), 412),
        (request("GET", f"/v2/artifacts/{'0' * 64}"), 404),
        (request("GET", f"/v2/artifacts/{'A' * 64}"), 400),
    ],
)
async def test_all_else_is_for_aiohttp_and_the_connection_comes_back(edge: Edge, asked: bytes, status: int) -> None:
    client = await Client.of(edge)
    answer = await client.ask(asked)
    assert (answer.status, by_lane(answer)) == (status, False)

    async def in_lane() -> bool:
        return by_lane(await (await Client.of(edge)).ask(request("GET", PATH, "Range: bytes=1-2")))

    await eventually(in_lane)


async def test_a_blob_that_is_not_here_yet_is_for_aiohttp(site: Site, environment: Environment) -> None:
    async with site.edge() as edge:
        client = await Client.of(edge)
        answer = await client.ask(request("GET", PATH))
        assert (answer.status, answer.body == CONTENT, by_lane(answer)) == (200, True, False)


async def test_blobs_checks_and_batches_are_answered_in_their_order(edge: Edge, environment: Environment) -> None:
    client = await Client.of(edge)
    whole = request("GET", PATH)
    part = request("GET", PATH, "Range: bytes=7-2000006")
    client.writer.write(whole + check(environment) + part + batch(environment) + whole + part + check(environment))
    answers = [await client.ask() for _ in range(7)]
    assert [answer.status for answer in answers] == [200, 304, 206, 202, 200, 206, 304]
    assert [len(answer.body) for answer in answers if answer.status in (200, 206)] == [3_000_000, 2_000_000] * 2
    assert answers[0].body == answers[4].body == CONTENT
    assert answers[2].body == answers[5].body == CONTENT[7:2_000_007]


async def test_many_slow_readers_do_not_keep_a_fast_one_waiting(edge: Edge) -> None:
    slow = [await Client.of(edge) for _ in range(30)]
    for client in slow:
        client.writer.write(request("GET", LARGE_PATH))
        client.writer.transport.pause_reading()  # type: ignore[attr-defined] # a transport that reads as well
    fast = await Client.of(edge)
    for _ in range(5):
        assert (await fast.ask(request("GET", PATH))).body == CONTENT
    for client in slow[:3]:
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert (await client.ask()).body == LARGE


async def test_clients_that_vanish_in_the_middle_leave_nothing_behind(edge: Edge) -> None:
    async def gone() -> bool:
        return metric("skafos_edge_connections") == 0 and descriptors() <= before

    before = descriptors()
    clients = [await Client.of(edge) for _ in range(10)]
    for client in clients:
        client.writer.write(request("GET", LARGE_PATH))
        await client.reader.readexactly(1000)
    for client in clients:
        client.writer.transport.abort()
    del client, clients
    await eventually(gone)


async def test_a_client_that_reads_nothing_is_cut_off(site: Site, environment: Environment) -> None:
    async with site.edge(edge_stall_seconds=0.3) as edge:
        await warm(edge)
        stalled = metric("skafos_edge_answers_stalled_total")
        client = await Client.of(edge)
        client.writer.write(request("GET", LARGE_PATH))
        client.writer.transport.pause_reading()  # type: ignore[attr-defined] # a transport that reads as well

        async def cut() -> bool:
            return metric("skafos_edge_answers_stalled_total") > stalled

        await eventually(cut)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.ask()


async def test_a_file_that_became_shorter_is_no_whole_answer(site: Site, edge: Edge) -> None:
    (file,) = [path for path in Path(site.folder, "edge").rglob(sha256(LARGE)) if path.is_file()]
    client = await Client.of(edge)
    client.writer.write(request("GET", LARGE_PATH))
    await client.reader.readexactly(1000)
    os.truncate(file, 20_000_000)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await read_answer_from_middle(client)


async def read_answer_from_middle(client: Client) -> None:
    """Read what is missing of an answer with `LARGE`, of which 1,000 bytes, the head among them, have been read."""
    async with asyncio.timeout(30):
        await client.reader.readexactly(len(LARGE))


async def test_a_download_that_is_under_way_at_the_end_is_finished(site: Site, environment: Environment) -> None:
    async with site.edge(edge_shutdown_seconds=20) as edge:
        await warm(edge)
        client = await Client.of(edge)
        client.writer.write(request("GET", LARGE_PATH))
        client.writer.transport.pause_reading()  # type: ignore[attr-defined] # a transport that reads as well
        asyncio.get_running_loop().call_later(1.5, client.writer.transport.resume_reading)  # type: ignore[attr-defined]
        reading = asyncio.create_task(read_answer(client.reader))
        await asyncio.sleep(0.2)
    answer = await reading
    assert (answer.status, answer.body == LARGE, by_lane(answer)) == (200, True, True)
    assert await client.ended()
