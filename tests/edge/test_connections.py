"""What is no proper HTTP, and clients that hold on: a clear answer or a closed connection; nobody else is harmed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket

import pytest

from edge.connections import MAX_FIELD_BYTES, MAX_HEADERS, MAX_UNFINISHED_BYTES
from tests.edge.raw import connect, raw, read_answer, request
from tests.edge.site import Edge, Environment, Site, eventually, metric
from tests.edge.wire import exchange

ROUTES = [
    ("GET", "/v2/environments/{key}/manifest", "GET,HEAD"),
    ("GET", "/v2/environments/{key}/root/1.json", "GET,HEAD"),
    ("GET", "/v2/environments/{key}/tuf/metadata/timestamp.json", "GET,HEAD"),
    ("GET", "/v2/environments/{key}/tuf/targets/m/x.1", "GET,HEAD"),
    ("GET", "/v2/artifacts/" + "0" * 64, "GET,HEAD"),
    ("PUT", "/v2/environments/{key}/devices/d", "PUT"),
    ("POST", "/v2/environments/{key}/events", "POST"),
]


@pytest.mark.parametrize(("method", "path", "allowed"), ROUTES)
async def test_a_wrong_method_is_405_and_tells_the_right_ones(
    edge: Edge, environment: Environment, method: str, path: str, allowed: str
) -> None:
    for wrong in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"} - set(allowed.split(",")):
        answer = await raw(edge, request(wrong, path.format(key=environment.key)))
        assert (answer.status, answer.json()["code"]) == (405, "method_not_allowed"), wrong
        assert answer.fields["allow"] == allowed
        assert answer.fields["content-type"].startswith("application/json")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v2",
        "/v2/",
        "/v1/environments/{key}/manifest",
        "//v2/environments/{key}/manifest",
        "/v2/environments/{key}/manifest/",
        "/v2/environments//manifest",
        "/v2/environments/{key}",
        "/v2/environments/{key}/root/1",
        "/v2/environments/{key}/root/.json/x",
        "/v2/environments/{key}/tuf/targets/x.1",
        "/v2/artifacts/",
        "/v2/artifacts/" + "0" * 64 + "/",
        "/v2/../v2/environments/{key}/nothing",
        "/%76%32/artifacts",
        "/favicon.ico",
    ],
)
async def test_an_unknown_route_is_404(edge: Edge, environment: Environment, path: str) -> None:
    answer = await raw(edge, request("GET", path.format(key=environment.key)))
    assert (answer.status, answer.json()["code"]) == (404, "unknown_route")


@pytest.mark.parametrize(
    "key",
    [
        "%00",
        "%",
        "%zz",
        "%ff",
        "%C3%A9",
        "é",
        "a" * 4000,
        "..",
        "%2e%2e",
        "%2F",
        "a%0d%0aX:y",
        "\x7f",
        "prod",
        "*",
        "{}",
    ],
)
async def test_an_odd_key_is_an_unknown_one(edge: Edge, key: str) -> None:
    answer = await raw(edge, request("GET", f"/v2/environments/{key}/manifest"))
    assert answer.status in (400, 404)
    assert answer.json()["code"] in ("unknown_key", "unknown_route", "malformed")


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\nnonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"BREW /coffee HTTP/1.1\r\n\r\n",
        b"GET * HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\n: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\x00c\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (MAX_HEADERS + 10) + b"\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * (MAX_FIELD_BYTES + 10) + b"\r\n\r\n",
        b"GET /" + b"y" * (MAX_FIELD_BYTES + 10) + b" HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x01" * 40,
        b"\xff" * 200 + b"\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_400_in_our_words_and_ends_the_connection(edge: Edge, data: bytes) -> None:
    before = metric("skafos_edge_requests_malformed_total")
    reader, writer = await connect(edge)
    writer.write(data)
    answer = await read_answer(reader)
    assert (answer.status, answer.json()["code"]) == (400, "malformed")
    assert await reader.read() == b""
    writer.close()
    assert metric("skafos_edge_requests_malformed_total") == before + 1


async def test_bad_chunks_are_400(edge: Edge, environment: Environment) -> None:
    path = f"/v2/environments/{environment.key}/events"
    answer = await raw(edge, request("POST", path, "Transfer-Encoding: chunked") + b"zz\r\nxx\r\n")
    assert answer.status == 400
    assert answer.json()["code"] in ("malformed", "bad_body")


async def test_an_expectation_that_cannot_be_met_is_417(edge: Edge, environment: Environment) -> None:
    path = f"/v2/environments/{environment.key}/events"
    answer = await raw(edge, request("POST", path, "Expect: tea", "Content-Length: 2") + b"[]")
    assert (answer.status, answer.json()["code"]) == (417, "expectation_failed")


async def test_an_error_of_ours_is_500_in_our_words_and_tells_nothing(
    edge: Edge, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bool:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("edge.check.evaluate", broken)
    answer = await edge.get(f"/v2/environments/{environment.key}/root/1.json")
    assert (answer.status, answer.json()["code"]) == (500, "internal")
    assert b"secret" not in answer.body


async def test_whatever_bytes_come_devices_are_served(edge: Edge, environment: Environment) -> None:
    chance = random.Random(7)
    whole = request("GET", f"/v2/environments/{environment.key}/manifest", "X: y")
    failures = metric("skafos_edge_requests_failed_total")
    for _ in range(100):
        place, count = chance.randrange(len(whole)), chance.randrange(1, 20)
        await send_and_leave(edge, whole[:place] + chance.randbytes(count) + whole[place:])
    assert (await edge.get(f"/v2/environments/{environment.key}/manifest")).status == 200
    assert metric("skafos_edge_requests_failed_total") == failures


async def send_and_leave(edge: Edge, data: bytes) -> None:
    reader, writer = await connect(edge)
    writer.write(data)
    writer.write_eof()
    with contextlib.suppress(OSError):
        async with asyncio.timeout(20):
            await reader.read(1)
    writer.close()


async def test_connections_over_the_bound_are_503_and_the_place_is_given_back(
    site: Site, environment: Environment
) -> None:
    async with site.edge(edge_max_connections=3) as edge:
        held = [await connect(edge) for _ in range(3)]
        for reader, writer in held:  # answered, so that each is known to be open
            writer.write(request("GET", "/nowhere"))
            await read_answer(reader)
        reader, writer = await connect(edge)
        answer = await read_answer(reader)
        assert (answer.status, answer.json()["code"]) == (503, "busy")
        assert int(answer.fields["retry-after"]) > 0
        writer.close()
        for _, one in held:
            one.close()

        async def served() -> bool:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                return (await raw(edge, request("GET", f"/v2/environments/{environment.key}/manifest"))).status == 200
            return False

        await eventually(served)


@pytest.mark.parametrize("begun", [b"", b"GET /v2/", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_a_client_that_never_finishes_its_head_is_closed(
    site: Site, environment: Environment, begun: bytes
) -> None:
    async with site.edge(edge_keepalive_seconds=0.3) as edge:
        reader, writer = await connect(edge)
        writer.write(begun)
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("first", [b"", b"GET /nowhere HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n"])
async def test_a_long_head_has_little_time_to_end_where_a_body_and_a_short_head_have_more(
    site: Site, environment: Environment, first: bytes
) -> None:
    async with site.edge() as edge:
        before = metric("skafos_edge_heads_unfinished_total")
        short, long, posting = [await connect(edge) for _ in range(3)]
        for _, writer in (short, long, posting):
            writer.write(first)
        for reader, _ in (short, long, posting) if first else ():
            await read_answer(reader)
        head = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n"
        field = b"X-Long: " + b"x" * 8000 + b"\r\n"
        batch = b"[" + b" " * (MAX_UNFINISHED_BYTES + 1) + b"]"
        post = request("POST", f"/v2/environments/{environment.key}/events", body=batch)
        short[1].write(head + field)
        long[1].write(head + field * 5)
        posting[1].write(post[:-1])
        async with asyncio.timeout(20):
            assert await long[0].read() == b""
        assert metric("skafos_edge_heads_unfinished_total") == before + 1
        short[1].write(b"\r\n")
        posting[1].write(post[-1:])
        assert (await read_answer(short[0])).status == 404
        assert (await read_answer(posting[0])).status == 202
        for _, writer in (short, long, posting):
            writer.close()


async def test_a_long_head_that_ends_is_answered_and_forgotten(site: Site, environment: Environment) -> None:
    field = b"X-Long: " + b"x" * 8000 + b"\r\n"
    whole = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n" + field * 5 + b"\r\n"
    async with site.edge() as edge:
        reader, writer = await connect(edge)
        for _ in range(4):
            writer.write(whole)
            assert (await read_answer(reader)).status == 404
            await asyncio.sleep(0.6)  # over several sweeps
        writer.close()


async def test_an_idle_connection_is_closed_after_its_last_answer(site: Site, environment: Environment) -> None:
    async with site.edge(edge_keepalive_seconds=0.3) as edge:
        reader, writer = await connect(edge)
        writer.write(request("GET", f"/v2/environments/{environment.key}/manifest"))
        assert (await read_answer(reader)).status == 200
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


async def test_a_flood_of_pipelined_checks_that_nobody_reads_is_cut_off(site: Site, environment: Environment) -> None:
    path = f"/v2/environments/{environment.key}/manifest"
    async with site.edge(edge_stall_seconds=0.3) as edge:
        before = metric("skafos_edge_answers_stalled_total")
        flood = socket.create_connection(edge.address)
        flood.setblocking(False)

        async def cut() -> bool:
            with contextlib.suppress(OSError):
                flood.send(request("GET", path) * 200)
            return metric("skafos_edge_answers_stalled_total") > before

        await eventually(cut)
        flood.close()
        assert (await edge.get(path)).status == 200


async def test_operators_have_a_port_of_their_own(edge: Edge, environment: Environment) -> None:
    assert (await edge.operations("/healthz")).json() == {"status": "ok"}
    ready = await edge.operations("/readyz")
    assert (ready.status, ready.json()) == (200, {"status": "ready", "environments": 1})
    await edge.get(f"/v2/environments/{environment.key}/manifest")
    shown = (await edge.operations("/metrics")).body.decode()
    labels = 'application="Camera",environment="prod",environment_id="env-1",status="200"'
    assert f"skafos_edge_checks_total{{{labels}}}" in shown
    assert environment.key not in shown
    for path in ("/metrics", "/healthz", "/readyz"):
        assert (await edge.get(path)).status == 404


async def test_a_flood_of_unknown_routes_leaves_little_to_the_garbage_collector(
    site: Site, environment: Environment
) -> None:
    await site.publish(environment)
    async with site.edge() as edge:
        await _leavings(edge, count=10)  # what is made once
        # aiohttp's own route for the error is a cycle of six; with the error's traceback it would be forty.
        assert await _leavings(edge, count=100) < 10 * 100


async def _leavings(edge: Edge, count: int) -> int:
    """Return how many objects so many requests of a connection leave in cycles."""
    asked = b"GET /unknown HTTP/1.1\r\nHost: edge.test\r\n\r\n"
    gc.collect()
    gc.disable()
    try:
        seen = await exchange(edge.address, [asked] * count)
        assert seen.statuses == [404] * count
        return gc.collect()
    finally:
        gc.enable()
