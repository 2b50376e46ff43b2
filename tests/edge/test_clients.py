"""Whose request it is behind proxies, and that addresses reach the log only when an operator asks for them."""

from __future__ import annotations

import asyncio
import json
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict
from structlog.testing import capture_logs

from edge.clients import MAX_HOPS, TOLD, Clients, parse_networks, parse_peer
from edge.refusals import LINES_A_MINUTE, Refusals
from tests.edge.raw import raw, read_answer, request
from tests.edge.site import Edge, Environment, Site, release_of
from tests.edge.test_proxy_protocol import LINE, LINE_6

PROXIES = (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))


class Connection(asyncio.BaseTransport):
    """The far end of a connection, as a transport tells it."""

    def __init__(self, peer: str) -> None:
        super().__init__({"peername": (peer, 40_000)})


def client_of(peer: str, *forwarded: str) -> str:
    headers = CIMultiDict[str]()
    for value in forwarded:
        headers.add("X-Forwarded-For", value)
    return str(
        Clients(PROXIES).of_request(make_mocked_request("GET", "/", headers=headers, transport=Connection(peer)))
    )


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("2001:db8::1", ["2001:4860::1"], "2001:4860::1"),
        ("10.0.0.1", ["192.0.2.66, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["192.0.2.66", "198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1", "10.0.0.3", "10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:4860::1]:4711"], "2001:4860::1"),
        ("10.0.0.1", ["[2001:4860::1]"], "2001:4860::1"),
        ("10.0.0.1", ["198.51.100.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, _hidden, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", [",".join(["198.51.100.1", *["10.0.0.2"] * MAX_HOPS])], "10.0.0.2"),
        ("10.0.0.1", [",".join(["198.51.100.1", *["10.0.0.2"] * (MAX_HOPS - 1)])], "198.51.100.1"),
    ],
)
def test_the_client_is_the_nearest_address_that_is_no_proxy_of_ours(
    peer: str, forwarded: list[str], client: str
) -> None:
    assert client_of(peer, *forwarded) == client


def test_what_the_proxy_protocol_told_stands_for_the_connection() -> None:
    token = TOLD.set(ip_address("198.51.100.1"))
    try:
        assert client_of("10.0.0.1", "192.0.2.66") == "198.51.100.1"
    finally:
        TOLD.reset(token)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (("fe80::1%eth0", 1, 0, 2), "fe80::1"),
        (("::ffff:192.0.2.7", 1, 0, 0), "192.0.2.7"),
        ("", "None"),
        (None, "None"),
    ],
)
def test_a_peer_is_read_as_sockets_tell_it(peer: object, address: str) -> None:
    assert str(parse_peer(peer)) == address


def test_networks_are_a_list_with_commas() -> None:
    assert parse_networks(" 10.0.0.0/8,2001:db8::/32, ") == PROXIES
    assert parse_networks("192.0.2.7") == (ip_network("192.0.2.7/32"),)
    for wrong in ("10.0.0.1/8", "proxy.example.org", "10.0.0.0/33", "10.0.0.0/8 192.0.2.7"):
        with pytest.raises(ValueError, match=wrong.split()[0]):
            parse_networks(wrong)


async def lines(edge: Edge, environment: Environment, begun: bytes = b"", *fields: str) -> list[dict[str, Any]]:
    """Ask wrongly in three ways; return what was logged about it."""
    with capture_logs() as logged:
        await raw(edge, begun + request("GET", "/v2/artifacts/nonsense", *fields))
        await raw(edge, begun + request("POST", f"/v2/environments/{environment.key}/events", *fields, body=b"no"))
        await raw(edge, begun + b"nonsense\r\n\r\n")
    return [dict(line) for line in logged if line["event"] == "refused"]


async def test_refusals_are_not_logged_unless_asked_for(site: Site) -> None:
    environment = Environment([release_of(b"artifact")])
    await site.publish(environment)
    async with site.edge() as edge:
        assert await lines(edge, environment) == []


@pytest.mark.parametrize(("header", "client"), [(LINE, "203.0.113.9"), (LINE_6, "2001:db8::9")])
async def test_refusals_tell_the_client_that_the_proxy_protocol_told(site: Site, header: bytes, client: str) -> None:
    environment = Environment([release_of(b"artifact")])
    await site.publish(environment)
    asked = {"edge_log_refusals": True, "edge_proxy_protocol": True, "edge_trusted_proxies": "127.0.0.1"}
    async with site.edge(**asked) as edge:
        logged = await lines(edge, environment, header)
    assert [(line["code"], line["client"]) for line in logged] == [
        ("invalid_hash", client),
        ("invalid_batch", client),
        ("malformed", client),
    ]
    assert environment.key not in json.dumps(logged)


async def test_refusals_tell_the_client_that_a_trusted_proxy_forwarded(site: Site) -> None:
    environment = Environment([release_of(b"artifact")])
    await site.publish(environment)
    field = "X-Forwarded-For: 198.51.100.1"
    async with site.edge(edge_log_refusals=True, edge_trusted_proxies="127.0.0.1") as edge:
        logged = await lines(edge, environment, b"", field)
        assert [line["client"] for line in logged] == ["198.51.100.1", "198.51.100.1", "127.0.0.1"]
    async with site.edge(edge_log_refusals=True) as edge:
        assert [line["client"] for line in await lines(edge, environment, b"", field)] == ["127.0.0.1"] * 3


async def test_connections_over_the_bound_are_told_as_well(site: Site) -> None:
    async with site.edge(edge_log_refusals=True, edge_max_connections=1) as edge:
        reader, writer = await asyncio.open_connection(*edge.address)
        writer.write(request("GET", "/"))
        await read_answer(reader)
        with capture_logs() as logged:
            assert (await raw(edge, b"")).status == 503
        writer.close()
    assert [(line["code"], line["client"]) for line in logged] == [("too_many_connections", "127.0.0.1")]


def test_a_flood_of_refusals_is_rationed_and_what_is_left_out_is_counted() -> None:
    now = [100.0]
    refusals = Refusals(Clients(), told=True, clock=lambda: now[0])
    with capture_logs() as logged:
        for _ in range(LINES_A_MINUTE + 40):
            refusals.connection(Connection("192.0.2.7"), "malformed")
        assert len(logged) == LINES_A_MINUTE
        now[0] += 60
        refusals.connection(Connection("192.0.2.7"), "malformed")
        refusals.connection(Connection("192.0.2.7"), "malformed")
    assert [line.get("left_out") for line in logged[LINES_A_MINUTE:]] == [40, None]
