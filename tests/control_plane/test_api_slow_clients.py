"""Clients that are slow, or say nothing: their time is bounded, and so is what they hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from control_plane.api import downloads, serve
from control_plane.api.errors import answer_errors
from control_plane.api.observe import observe
from control_plane.api.schemas import NewToken
from control_plane.silent_connections import SilentConnections


@asynccontextmanager
async def listening(app: web.Application, silent: SilentConnections) -> AsyncIterator[int]:
    """Serve an application as the control plane does, on a loopback port."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    assert runner.server is not None
    server = await asyncio.get_running_loop().create_server(silent.watch(runner.server), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await runner.cleanup()


def answering(silent: SilentConnections) -> web.Application:
    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application(middlewares=[silent.middleware()])
    app.router.add_get("/", hello)
    return app


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow"], ids=["nothing", "half a head"])
async def test_a_connection_without_a_whole_head_is_closed(sent: bytes) -> None:
    silent = SilentConnections(head_seconds=0.2)
    async with listening(answering(silent), silent) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()


async def test_a_connection_that_asked_is_kept_for_its_next_request() -> None:
    silent = SilentConnections(head_seconds=0.2)
    async with listening(answering(silent), silent) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await asyncio.wait_for(reader.readuntil(b"hello"), 20)).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.4)
        writer.close()


async def test_a_body_that_does_not_come_is_timed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "BODY_SECONDS", 0.2)

    async def take(request: web.Request) -> web.Response:
        return web.json_response((await serve.read_body(request, NewToken)).model_dump())

    app = web.Application(middlewares=[observe, answer_errors])
    app.router.add_post("/", take)
    async with listening(app, SilentConnections()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"name":')
        answer = await asyncio.wait_for(reader.readuntil(b"}"), 20)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b'"code":"timeout"' in answer
        writer.close()


async def test_a_client_that_takes_no_bytes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PART_SECONDS", 0.2)
    given_up = asyncio.Event()

    async def send(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            for _ in range(64):
                await downloads._write(response, bytes(1 << 20))
        except TimeoutError:
            given_up.set()
            assert request.transport is not None
            request.transport.abort()
        return response

    app = web.Application()
    app.router.add_get("/", send)
    async with listening(app, SilentConnections()) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(given_up.wait(), 20)
        writer.close()
