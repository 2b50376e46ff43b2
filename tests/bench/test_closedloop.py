"""The closed-loop generator against a real server: it counts what was answered, and fails at another answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from bench.edge.closedloop import run_closedloop
from bench.edge.generators import build
from bench.edge.load import LoadFailed
from bench.edge.probe import ask, request
from tests.components import require

CONNECTIONS = 8
SECONDS = 0.5


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("cc")
    return build("closedloop", tmp_path_factory.mktemp("closedloop"))


@pytest_asyncio.fixture
async def port() -> AsyncIterator[int]:
    """Give the port of a server that answers 304, to every tenth request for ``/tenth`` 404, and counts."""
    asked = 0

    async def handler(incoming: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if incoming.path == "/count":
            return web.Response(text=str(asked - 1))
        status = 404 if incoming.path == "/tenth" and asked % 10 == 0 else 304
        return web.Response(status=status, headers={"Date": "now"})

    app = web.Application()
    app.router.add_get("/{tail:.*}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield int(runner.addresses[0][1])
    await runner.cleanup()


async def test_what_was_answered_is_counted(program: Path, port: int) -> None:
    asked = request("GET", "/")
    answer = await asyncio.to_thread(ask, ("127.0.0.1", port), asked)
    load = await asyncio.to_thread(run_closedloop, program, port, asked, answer.head, CONNECTIONS, SECONDS)
    count = await asyncio.to_thread(ask, ("127.0.0.1", port), request("GET", "/count"))
    assert 0 <= int(count.body) - 1 - load.requests <= CONNECTIONS  # the last ones were under way
    assert load.received == load.requests * len(answer)
    assert load.seconds >= SECONDS
    assert 0 < load.cpu_seconds <= load.seconds


async def test_another_answer_ends_the_run(program: Path, port: int) -> None:
    answer = await asyncio.to_thread(ask, ("127.0.0.1", port), request("GET", "/"))
    with pytest.raises(LoadFailed, match="another answer"):
        await asyncio.to_thread(
            run_closedloop, program, port, request("GET", "/tenth"), answer.head, CONNECTIONS, SECONDS
        )
