"""The loop that the edge runs on, and a site with a Redis of its own for each test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest_asyncio
import uvloop

from tests.edge.site import Edge, Environment, Site, release_of
from tests.servers.redis import running_redis


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the tests of the edge on the loop that it has in production: their transports differ."""
    return {"uvloop": uvloop.new_event_loop}


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """An empty site."""
    with running_redis() as redis:
        async with Site(tmp_path, redis) as made:
            yield made


@pytest_asyncio.fixture
async def environment(site: Site) -> Environment:
    """An environment of that site that offers one version."""
    made = Environment([release_of(b"artifact")])
    await site.publish(made)
    return made


@pytest_asyncio.fixture
async def edge(site: Site, environment: Environment) -> AsyncIterator[Edge]:
    """A running edge of that site, which serves the environment."""
    async with site.edge() as running:
        yield running
