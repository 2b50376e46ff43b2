"""Batches of events in the lane: answered as aiohttp answers, stored before the answer, in the order they came."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from edge.batches import MAX_HEAD_FIELD_BYTES, MAX_HEADS, MAX_LANE_BATCH_BYTES, Batches
from edge.request_head import HeadReader
from tests.edge.raw import RawAnswer, request
from tests.edge.site import Edge, Environment, Site, eventually, metric, release_of
from tests.edge.test_intake import event, events_path, spooled
from tests.edge.test_lane import Client, by_lane, check
from tests.edge.test_lane_differential import AiohttpAlone
from tests.telemetry.samples import labels

GOOD = [event() for _ in range(20)]


def post(environment: Environment, body: bytes, *fields: str) -> bytes:
    return request("POST", events_path(environment), *fields, body=body)


def batch(environment: Environment, *events: object) -> bytes:
    return post(environment, json.dumps(events or GOOD).encode(), "Content-Type: application/json")


def ndjson(events: list[dict[str, object]]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in events)


class SlowDisk:
    """Lets no commit end before it is told to, or lets it fail."""

    def __init__(self) -> None:
        self.waiting = 0
        self.failure: OSError | None = None
        self._free = threading.Event()
        self._pwritev = os.pwritev

    def pwritev(self, descriptor: int, pieces: Sequence[bytes], offset: int, flags: int) -> int:
        self.waiting += 1
        assert self._free.wait(60)
        if self.failure is not None:
            raise self.failure
        return self._pwritev(descriptor, pieces, offset, flags)

    async def is_busy(self) -> bool:
        return self.waiting > 0

    def go_on(self) -> None:
        self._free.set()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    slow = SlowDisk()
    monkeypatch.setattr(os, "pwritev", slow.pwritev)
    return slow


async def test_a_good_batch_is_answered_as_aiohttp_answers_and_stored(
    site: Site, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted, answered = metric("skafos_edge_events_total", outcome="accepted"), answers()
    async with site.edge() as edge:
        client = await Client.of(edge)
        by_us = [await client.ask(batch(environment)) for _ in range(3)]
        lines = await client.ask(post(environment, ndjson(GOOD), "Content-Type: application/x-ndjson"))
    monkeypatch.setattr("edge.listening.Door", AiohttpAlone)
    async with site.edge() as edge:
        by_aiohttp = await (await Client.of(edge)).ask(batch(environment))
    for answer in (*by_us, lines):
        assert by_lane(answer)
        assert answer.body == by_aiohttp.body
        assert unchanging(answer) == unchanging(by_aiohttp)
        assert list(answer.fields)[:3] == list(by_aiohttp.fields)[:3]
    assert not by_lane(by_aiohttp)
    assert metric("skafos_edge_events_total", outcome="accepted") == accepted + 5 * len(GOOD)
    assert answers() == answered + 5
    records = spooled(site.folder / "spool")
    assert [json.loads(record.events) for record in records] == [GOOD] * 5
    assert {record.labels.environment for record in records} == {"prod"}


async def test_what_a_head_says_of_its_body_is_remembered_for_that_head_alone(
    edge: Edge, environment: Environment
) -> None:
    array, lines = json.dumps(GOOD).encode(), ndjson(GOOD)
    plain, packed = "Content-Type: application/json", "Content-Encoding: gzip"
    for _ in range(2):
        for body, fields in (
            (array, [plain]),
            (array + b" ", [plain]),
            (lines, ["Content-Type: application/x-ndjson"]),
            (gzip.compress(array), [plain, packed]),
        ):
            answer = await (await Client.of(edge)).ask(post(environment, body, *fields))
            assert (answer.status, json.loads(answer.body)["accepted"]) == (202, len(GOOD))
            assert by_lane(answer) == (packed not in fields)


def test_what_heads_say_is_remembered_within_bounds() -> None:
    class Nothing:
        def on_change(self, _: object) -> None: ...

        def submit(self, *_: object) -> None: ...

    batches = Batches(Nothing(), Nothing(), MAX_LANE_BATCH_BYTES)  # type: ignore[arg-type]
    line = b"POST / HTTP/1.1"
    batches._labels[line] = labels()
    body = json.dumps(GOOD).encode()
    reader = HeadReader()

    def take(field: str) -> None:
        head = f"\r\nHost: a\r\nX-Id: {field}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        assert batches.take(reader, line + head + body, 0, len(line + head), lambda _: None) is not None

    for number in range(MAX_HEADS + 10):
        take(str(number))
    assert 0 < len(batches._bodies) <= MAX_HEADS
    batches._bodies.clear()
    take("x" * MAX_HEAD_FIELD_BYTES)
    assert not batches._bodies


def answers() -> float:
    return metric("skafos_edge_requests_total", route="events", status="202")


def unchanging(answer: RawAnswer) -> dict[str, str]:
    return {name: value for name, value in answer.fields.items() if name not in ("date", "server")}


async def test_batches_and_checks_are_answered_in_their_order(edge: Edge, environment: Environment) -> None:
    client = await Client.of(edge)
    one = batch(environment) + check(environment)
    nowhere = request("GET", "/nowhere")
    client.writer.write(one * 3 + nowhere + one)
    statuses = [(await client.ask()).status for _ in range(9)]
    assert statuses == [202, 304] * 3 + [404, 202, 304]


async def test_what_comes_while_a_batch_is_stored_waits_for_its_answer(
    edge: Edge, environment: Environment, disk: SlowDisk
) -> None:
    client, other = await Client.of(edge), await Client.of(edge)
    client.writer.write(batch(environment))
    await eventually(disk.is_busy)
    client.writer.write(check(environment) * 2 + batch(environment))
    for _ in range(3):
        assert (await other.ask(check(environment))).status == 304
    assert not client.reader._buffer  # type: ignore[attr-defined] # nothing has come, and asking would wait for it
    disk.go_on()
    assert [(await client.ask()).status for _ in range(4)] == [202, 304, 304, 202]


NEEDING_AIOHTTP: dict[str, tuple[Callable[[Environment], list[bytes]], int]] = {
    "an event that is refused": (lambda e: [batch(e, event(), event(type="No Type"))], 202),
    "no event": (lambda e: [post(e, b"[]")], 202),
    "what is no batch": (lambda e: [post(e, b"{]")], 400),
    "compressed": (lambda e: [post(e, gzip.compress(json.dumps(GOOD).encode()), "Content-Encoding: gzip")], 202),
    "in pieces": (lambda e: [batch(e)[:400], batch(e)[400:]], 202),
    "chunked": (
        lambda e: [request("POST", events_path(e), "Transfer-Encoding: chunked") + b"2\r\n[]\r\n0\r\n\r\n"],
        202,
    ),
    "large": (lambda e: [post(e, b" " * MAX_LANE_BATCH_BYTES + json.dumps(GOOD).encode())], 202),
    "an unknown key": (lambda e: [request("POST", "/v2/environments/prod-none/events", body=b"[]")], 404),
}


@pytest.mark.parametrize("what", NEEDING_AIOHTTP)
async def test_every_other_batch_is_for_aiohttp(edge: Edge, environment: Environment, what: str) -> None:
    pieces, status = NEEDING_AIOHTTP[what]
    client = await Client.of(edge)
    answer = await client.ask(*pieces(environment))
    assert (answer.status, by_lane(answer)) == (status, False)
    answer = await client.ask(check(environment))
    assert answer.status == 304


async def test_what_the_edge_is_set_to_refuse_is_refused(site: Site, environment: Environment) -> None:
    async with site.edge(edge_max_body_bytes=2000) as edge:
        answer = await (await Client.of(edge)).ask(batch(environment))
        assert (answer.status, by_lane(answer)) == (413, False)


async def test_a_full_spool_is_told_by_aiohttp(site: Site, environment: Environment) -> None:
    async with site.edge(spool_max_bytes=1024 * 1024) as edge:
        client = await Client.of(edge)
        large = batch(environment, *(event(error="x" * 1900) for _ in range(20)))
        answer = await client.ask(large)
        for _ in range(60):
            if answer.status != 202:
                break
            answer = await client.ask(large)
        assert (answer.status, answer.json()["code"], by_lane(answer)) == (503, "spool_full", False)
        assert int(answer.fields["retry-after"]) > 0


async def test_a_disk_that_fails_is_told_by_aiohttp_and_what_comes_behind_is_answered(
    site: Site, environment: Environment, disk: SlowDisk
) -> None:
    async with site.edge() as edge:
        client = await Client.of(edge)
        client.writer.write(batch(environment) + check(environment))
        await eventually(disk.is_busy)
        disk.failure = OSError(errno.EIO, "broken")
        disk.go_on()
        answer = await client.ask()
        assert (answer.status, answer.json()["code"], by_lane(answer)) == (503, "spool_full", False)
        assert (await client.ask()).status == 304
        disk.failure = None
        assert (await client.ask(batch(environment))).status == 202
    assert len(spooled(site.folder / "spool")) == 1


async def test_a_client_that_vanishes_meanwhile_leaves_nothing_but_its_batch(
    site: Site, environment: Environment, disk: SlowDisk
) -> None:
    async def gone() -> bool:
        return metric("skafos_edge_connections") == 0

    async with site.edge() as edge:
        client = await Client.of(edge)
        client.writer.write(batch(environment))
        await eventually(disk.is_busy)
        client.writer.transport.abort()
        await eventually(gone)
        disk.go_on()
    assert len(spooled(site.folder / "spool")) == 1


async def test_a_batch_that_is_being_stored_at_the_end_is_answered(
    site: Site, environment: Environment, disk: SlowDisk
) -> None:
    async with site.edge() as edge:
        client = await Client.of(edge)
        client.writer.write(batch(environment))
        await eventually(disk.is_busy)
        asyncio.get_running_loop().call_later(1.5, disk.go_on)  # after idle connections were closed
    answer = await client.ask()
    assert (answer.status, answer.fields["connection"]) == (202, "close")
    assert await client.ended()
    assert len(spooled(site.folder / "spool")) == 1


async def test_an_environment_that_has_another_name_now_labels_with_it(
    site: Site, edge: Edge, environment: Environment
) -> None:
    client = await Client.of(edge)
    assert (await client.ask(batch(environment))).status == 202
    environment.labels = replace(environment.labels, application="Renamed")
    published = await site.publish(environment, release_of(b"another", version=2))

    async def arrived() -> bool:
        return (await client.ask(request("GET", f"/v2/environments/{environment.key}/manifest"))).body == published.body

    await eventually(arrived)
    assert (await client.ask(batch(environment))).status == 202

    async def shipped() -> bool:
        labels = [record.labels.application for record in spooled(site.folder / "spool")]
        return labels == ["Camera", "Renamed"]

    await eventually(shipped)


@pytest.mark.parametrize("durability", ["fsync", "os"])
async def test_whether_an_answer_waits_for_the_disk_is_a_setting(
    site: Site, environment: Environment, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    synced: list[int] = []
    write = os.pwritev

    def seen(descriptor: int, pieces: Sequence[bytes], offset: int, flags: int) -> int:
        synced.append(flags)
        return write(descriptor, pieces, offset, 0)

    monkeypatch.setattr(os, "pwritev", seen)
    monkeypatch.setattr("telemetry.segment_writer._SYNCED_WRITE", os.RWF_DSYNC)
    async with site.edge(spool_durability=durability) as edge:
        assert (await (await Client.of(edge)).ask(batch(environment))).status == 202
        assert set(synced) == ({os.RWF_DSYNC} if durability == "fsync" else {0})
