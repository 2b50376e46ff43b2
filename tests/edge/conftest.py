"""A site with a Redis of its own for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.edge.site import Site
from tests.servers.redis import running_redis


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """An empty site."""
    with running_redis() as redis:
        async with Site(tmp_path, redis) as made:
            yield made
