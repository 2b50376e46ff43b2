"""Whose request it is, when proxies that we trust stand in between: for counting wrong passwords and the audit log.

Behind a proxy every request comes from the proxy's own address, and one guesser would keep all others waiting. Nobody
else is believed: a client could write there what it likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

from aiohttp import web

Network: TypeAlias = IPv4Network | IPv6Network

# A request has passed a CDN and two or three proxies at most; the rest of a long list is not worth reading.
MAX_HOPS: Final = 16


def parse_networks(text: str) -> tuple[Network, ...]:
    """Return the networks of a list such as ``10.0.0.0/8, 192.0.2.7``.

    Raises:
        ValueError: one is no network, or has bits set behind its mask.
    """
    return tuple(ip_network(one.strip()) for one in text.split(",") if one.strip())


def client_of(request: web.BaseRequest, proxies: Sequence[Network]) -> str:
    """Return the nearest address of a request that is not one of our proxies.

    Of IPv6, it is the network: a customer has at least 2^64 addresses (RFC 6177), which count as one.
    """
    hops = ",".join(request.headers.getall("X-Forwarded-For", ())).rsplit(",", MAX_HOPS)[-MAX_HOPS:]
    nearest = _parse(request.remote or "")
    for hop in reversed(hops):
        if nearest is None or not any(nearest in network for network in proxies):
            break
        told = _parse(hop)
        if told is None:
            break  # what stands before it was written by whoever wrote this
        nearest = told
    if isinstance(nearest, IPv6Address):
        return str(ip_network((nearest, 64), strict=False))
    return str(nearest or "")


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
