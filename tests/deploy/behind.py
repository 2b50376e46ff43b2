"""Two real edges with a proxy in front, and a client of the proxy."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientSession, TCPConnector
from prometheus_client import REGISTRY
from yarl import URL

from bench.edge.certificate import Certificate, make_certificate
from tests.edge.site import Answer, Edge, Environment, Site, release_of, sha256

# The address that clients connect from, unlike the proxies' own. All of 127.0.0.0/8 is this machine's.
CLIENT = "127.0.0.2"
PROXY = "127.0.0.1"
# Three slices of nginx and a piece of a fourth.
BLOB = random.Random(5).randbytes(13_000_001)
BLOB_PATH = f"/v2/artifacts/{sha256(BLOB)}"

Start = Callable[[list[Edge], Certificate], AbstractContextManager[str]]


@dataclass
class Behind:
    """What stands behind the proxy, and the way through it."""

    site: Site
    environment: Environment
    edges: list[Edge]
    address: str
    context: ssl.SSLContext
    session: ClientSession
    stop_edge: list[Callable[[], Any]]

    @property
    def manifest(self) -> str:
        return f"/v2/environments/{self.environment.key}/manifest"

    @property
    def events(self) -> str:
        return f"/v2/environments/{self.environment.key}/events"

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        """Ask through the proxy; the path is sent as it is."""
        url = URL(f"https://{self.address}{path}", encoded=True)
        async with self.session.request(method, url, **options) as response:
            return await Answer.of(response)

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.ask("GET", path, headers={name.replace("_", "-"): text for name, text in headers.items()})

    async def stop(self, number: int) -> None:
        """End an edge."""
        await self.stop_edge[number]()

    async def stop_all(self) -> None:
        for number in range(len(self.edges)):
            await self.stop(number)


def reached(route: str) -> float:
    """Return how many requests for a route the edges of this process have answered; for ``manifest``, checks."""
    if route == "manifest":  # most of them pass by the routes
        return _total("skafos_edge_checks", lambda labels: True)
    return _total("skafos_edge_requests", lambda labels: labels["route"] == route)


def revalidations() -> float:
    """Return how many checks the edges of this process have answered with 304."""
    return _total("skafos_edge_checks", lambda labels: labels["status"] == "304")


def _total(name: str, counts: Callable[[Mapping[str, str]], bool]) -> float:
    (family,) = [family for family in REGISTRY.collect() if family.name == name]
    samples = (sample for sample in family.samples if sample.name.endswith("_total"))
    return sum(sample.value for sample in samples if counts(sample.labels))


@asynccontextmanager
async def behind(site: Site, start: Start, *, at_the_edge: bool = False, **settings: Any) -> AsyncIterator[Behind]:
    """Run two edges and a proxy within the block.

    Args:
        site: where the edges live.
        start: starts the proxy for these edges.
        at_the_edge: TLS ends there.
        settings: of both edges.
    """
    environment = Environment([release_of(BLOB)])
    await site.put(BLOB)
    await site.publish(environment)
    certificate = make_certificate(site.folder)
    given = {"edge_trusted_proxies": PROXY, "edge_log_refusals": True, **settings}
    if at_the_edge:
        given |= {"edge_tls_certificate": certificate.certificate, "edge_tls_key": certificate.key}
    async with AsyncExitStack() as stack:
        edges, stops = [], []
        for name in ("21", "22"):
            one = await stack.enter_async_context(AsyncExitStack())
            edges.append(await one.enter_async_context(site.edge(edge_name=name, **given)))
            stops.append(one.aclose)
        proxy = start(edges, certificate)
        address = await asyncio.to_thread(proxy.__enter__)
        stack.push_async_callback(asyncio.to_thread, proxy.__exit__, None, None, None)
        context = ssl.create_default_context(cafile=certificate.certificate)
        connector = TCPConnector(ssl=context, local_addr=(CLIENT, 0))
        session = await stack.enter_async_context(ClientSession(connector=connector, auto_decompress=False))
        yield Behind(site, environment, edges, address, context, session, stops)
