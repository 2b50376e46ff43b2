"""The PROXY protocol: headers are read exactly, whatever pieces they come in, and nothing after them is touched."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from ipaddress import ip_address

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from edge.proxy_protocol import MAX_LINE_BYTES, MAX_REST_BYTES, SIGNATURE, BadHeader, HeaderReader
from tests.edge.raw import connect, raw, read_answer, request
from tests.edge.site import Edge, Environment, Site, metric, release_of

TRUSTED = "127.0.0.1/32"
FAILED = "skafos_edge_connections_failed_total"


def version_2(command: int = 0x21, family: int = 0x11, rest: bytes | None = None) -> bytes:
    addresses = rest if rest is not None else bytes([203, 0, 113, 9, 192, 0, 2, 1]) + struct.pack("!HH", 40_000, 443)
    return SIGNATURE + bytes([command, family]) + struct.pack("!H", len(addresses)) + addresses


LINE = b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 443\r\n"
LINE_6 = b"PROXY TCP6 2001:db8::9 2001:db8::1 40000 443\r\n"
BYTES_6 = version_2(family=0x21, rest=ip_address("2001:db8::9").packed + bytes(16) + bytes(4))
WITH_FIELDS = version_2(rest=bytes([203, 0, 113, 9, 192, 0, 2, 1, 0, 1, 0, 2]) + b"\x05\x00\x80" + b"u" * 128)
HEADERS = [
    (LINE, "203.0.113.9"),
    (LINE_6, "2001:db8::9"),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
    (version_2(), "203.0.113.9"),
    (BYTES_6, "2001:db8::9"),
    (WITH_FIELDS, "203.0.113.9"),
    (version_2(command=0x20), None),
    (version_2(command=0x20, family=0, rest=b""), None),
    (version_2(family=0x31, rest=bytes(216)), None),
    (version_2(rest=bytes([203, 0, 113, 9, 192, 0, 2, 1, 0, 1, 0, 2]).ljust(MAX_REST_BYTES, b"\0")), "203.0.113.9"),
]


def read(data: bytes, pieces: list[int]) -> tuple[HeaderReader, bytes]:
    """Offer the data in pieces of these sizes, over and over; return the reader and what it left."""
    reader = HeaderReader()
    turn = 0
    while not reader.done and data:
        size = min(pieces[turn % len(pieces)], reader.wanted())
        data = data[reader.offer(data[:size]) :]
        turn += 1
    return reader, data


@pytest.mark.parametrize(("header", "client"), HEADERS)
@given(pieces=st.lists(st.integers(1, 300), min_size=1, max_size=20), after=st.binary(max_size=40))
def test_a_header_is_read_in_any_pieces_and_what_follows_stays(
    header: bytes, client: str | None, pieces: list[int], after: bytes
) -> None:
    reader, left = read(header + after, pieces)
    assert reader.done
    assert str(reader.client) == str(client)
    assert left == after


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: edge\r\n\r\n",
        b"PUT / HTTP/1.1\r\n\r\n",
        b"\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        SIGNATURE[:-1] + b"X" + bytes(20),
        b"PROXY TCP4 203.0.113.9 192.0.2.1 40000\r\n",
        b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 65536\r\n",
        b"PROXY TCP4 203.0.113.9 192.0.2.1 -1 443\r\n",
        b"PROXY TCP4 2001:db8::9 2001:db8::1 40000 443\r\n",
        b"PROXY TCP6 203.0.113.9 192.0.2.1 40000 443\r\n",
        b"PROXY TCP4 nobody nowhere 40000 443\r\n",
        b"PROXY TCP4 \xff\xfe 192.0.2.1 40000 443\r\n",
        b"PROXY UDP4 203.0.113.9 192.0.2.1 40000 443\r\n",
        b"PROXY TCP4\r\n",
        b"PROXY \r\n",
        b"PROXY UNKNOWN " + b"x" * MAX_LINE_BYTES + b"\r\n",
        version_2(command=0x11),
        version_2(command=0x22),
        version_2(rest=bytes(11)),
        version_2(family=0x21, rest=bytes(35)),
        version_2(rest=bytes(MAX_REST_BYTES + 1)),
    ],
)
@pytest.mark.parametrize("pieces", [[1], [300]])
def test_what_is_no_header_is_refused(data: bytes, pieces: list[int]) -> None:
    with pytest.raises(BadHeader):
        read(data, pieces)


@given(data=st.binary(min_size=1, max_size=400) | st.binary(max_size=60).map(lambda tail: b"PROXY " + tail))
def test_whatever_comes_is_a_header_or_refused_within_the_bounds(data: bytes) -> None:
    try:
        reader, left = read(data, [64])
    except BadHeader:
        return
    assert reader.done or len(data) < MAX_REST_BYTES
    assert data.endswith(left)


@pytest_asyncio.fixture
async def environment(site: Site) -> Environment:
    made = Environment([release_of(b"artifact")])
    await site.publish(made)
    return made


@pytest_asyncio.fixture
async def edge(site: Site, environment: Environment) -> AsyncIterator[Edge]:
    async with site.edge(edge_trusted_proxies=TRUSTED, edge_proxy_protocol=True, edge_handshake_seconds=0.5) as running:
        yield running


@pytest.mark.parametrize("header", [header for header, _ in HEADERS])
async def test_requests_are_answered_behind_a_header(edge: Edge, environment: Environment, header: bytes) -> None:
    path = f"/v2/environments/{environment.key}/manifest"
    assert (await raw(edge, header + request("GET", path))).status == 200


async def test_a_header_in_single_bytes_and_requests_after_it_are_answered(
    edge: Edge, environment: Environment
) -> None:
    reader, writer = await connect(edge)
    for number in range(len(WITH_FIELDS)):
        writer.write(WITH_FIELDS[number : number + 1])
        await writer.drain()
        await asyncio.sleep(0)
    for _ in range(2):
        writer.write(request("GET", f"/v2/environments/{environment.key}/manifest"))
        assert (await read_answer(reader)).status == 200
    writer.close()


@pytest.mark.parametrize("begun", [request("GET", "/"), b"", b"PROXY TCP4 ", version_2()[:20]])
async def test_a_trusted_proxy_that_sends_no_header_in_time_is_closed_and_counted(edge: Edge, begun: bytes) -> None:
    before = metric(FAILED, cause="proxy_header")
    with capture_logs() as logged:
        reader, writer = await connect(edge)
        writer.write(begun)
        async with asyncio.timeout(20):
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await reader.readexactly(1)
        writer.close()
    assert metric(FAILED, cause="proxy_header") == before + 1
    assert [(line["event"], line["proxy"]) for line in logged] == [("proxy_refused", "127.0.0.1")]


async def test_others_are_served_as_they_are_and_cannot_introduce_themselves(
    edge: Edge, environment: Environment
) -> None:
    for begun, status in ((b"", 200), (LINE, 400)):
        reader, writer = await asyncio.open_connection(*edge.address, local_addr=("127.0.0.2", 0))
        writer.write(begun + request("GET", f"/v2/environments/{environment.key}/manifest"))
        assert (await read_answer(reader)).status == status
        writer.close()


async def test_connections_that_wait_for_their_header_are_bounded(site: Site, environment: Environment) -> None:
    async with site.edge(
        edge_trusted_proxies=TRUSTED, edge_proxy_protocol=True, edge_max_connections=2, edge_handshake_seconds=30
    ) as edge:
        refused = metric("skafos_edge_connections_refused_total")
        held = [await connect(edge) for _ in range(3)]
        async with asyncio.timeout(20):
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await held[2][0].readexactly(1)
        assert metric("skafos_edge_connections_refused_total") == refused + 1
        held[0][1].write(LINE + request("GET", f"/v2/environments/{environment.key}/manifest"))
        assert (await read_answer(held[0][0])).status == 200
        for _, writer in held:
            writer.close()
