"""The loop that the edge runs on, and a site with a Redis of its own for each test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import pytest_asyncio
import uvloop

from tests.edge.site import Site
from tests.servers.redis import running_redis


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """An empty site."""
    with running_redis() as redis:
        async with Site(tmp_path, redis) as made:
            yield made


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Test on uvloop, as ``python -m edge`` runs; its transports differ from asyncio's."""
    return {"uvloop": uvloop.new_event_loop}
