"""Whose connection or request it is, when proxies that we trust stand in between.

A connection's own address is the proxy's then, and the client's comes from the PROXY protocol, which tells it once for
a connection, or from ``X-Forwarded-For``, which tells it for each request. Neither is believed of anybody else: a
client could write there what it likes.

Nothing here decides about a device. Addresses of phones are shared by thousands (carriers' address translation) and
change by the hour, so the edge keys no limit and no answer to them; `edge.refusals` can write them to the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import web

from edge.proxy_protocol import Address

Network = IPv4Network | IPv6Network

# What the PROXY protocol told. The event loop runs every callback of a connection, and every task that one starts, in
# the context in which the connection was made.
TOLD: ContextVar[Address | None] = ContextVar("TOLD", default=None)

# A request has passed a CDN and two or three proxies at most; the rest of a long list is not worth reading.
MAX_HOPS = 16


class Clients:
    """Knows the trusted proxies.

    Args:
        proxies: networks whose word about others is believed.
    """

    def __init__(self, proxies: Sequence[Network] = ()) -> None:
        self._proxies = tuple(proxies)

    def trusts(self, address: Address | None) -> bool:
        """Tell whether this is one of our proxies."""
        return address is not None and any(address in network for network in self._proxies)

    def of_connection(self, transport: asyncio.BaseTransport | None) -> Address | None:
        """Return whose connection it is; None when it is gone or comes over a socket without addresses."""
        return TOLD.get() or _peer(transport)

    def of_request(self, request: web.BaseRequest) -> Address | None:
        """Return whose request it is: the nearest address that is not one of our proxies."""
        address = self.of_connection(request.transport)
        if not self.trusts(address):
            return address
        hops = ",".join(request.headers.getall("X-Forwarded-For", ())).rsplit(",", MAX_HOPS)[-MAX_HOPS:]
        for hop in reversed(hops):
            told = _parse_hop(hop)
            if told is None:
                break  # what stands before it was written by whoever wrote this
            address = told
            if not self.trusts(told):
                break
        return address


def parse_networks(text: str) -> tuple[Network, ...]:
    """Return the networks of a list such as ``10.0.0.0/8, 192.0.2.7``.

    Raises:
        ValueError: one is no network, or has bits set behind its mask.
    """
    return tuple(ip_network(one.strip()) for one in text.split(",") if one.strip())


def plain(address: Address) -> Address:
    """Return an IPv4 address as one, also where a socket for both families shows it as ``::ffff:192.0.2.7``."""
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def parse_peer(peer: object) -> Address | None:
    """Return the address of a socket's peer, as `socket.getpeername` tells it."""
    if not isinstance(peer, tuple) or not peer:
        return None
    return plain(ip_address(str(peer[0]).partition("%")[0]))


def _peer(transport: asyncio.BaseTransport | None) -> Address | None:
    return parse_peer(transport.get_extra_info("peername")) if transport is not None else None


def _parse_hop(text: str) -> Address | None:
    """Return the address of one hop, which some proxies write with a port."""
    hop = text.strip()
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        return plain(ip_address(hop))
    except ValueError:
        return None
