"""Sockets to listen on, and serving on them until told to stop."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from edge.connections import ConnectionLimits, Door
from edge.entrance import BACKLOG, Introduction, accepting
from edge.lane import Answering
from edge.settings import parse_address

# The kernel's own bound on a peer that takes nothing: behind our time-outs, which see whole pieces only, it also ends
# connections that are closing. Milliseconds.
TCP_USER_TIMEOUT_MS = 120_000


def listen(address: str, *, shared: bool) -> socket.socket:
    """Return a socket that listens on ``host:port``.

    Args:
        address: port 0 picks a free one.
        shared: several workers listen on one address, and the kernel spreads connections among them (SO_REUSEPORT).

    Raises:
        OSError: the address is taken or not ours.
    """
    host, port = parse_address(address)
    family, _, _, _, resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listening = socket.create_server(resolved[:2], family=family, backlog=BACKLOG, reuse_port=shared)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
    return listening


def address_of(listening: socket.socket) -> str:
    """Return ``host:port`` of a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@asynccontextmanager
async def serve_devices(
    app: web.Application,
    answering: Answering,
    listening: socket.socket,
    limits: ConnectionLimits,
    introduction: Introduction,
    shutdown_seconds: float,
) -> AsyncIterator[None]:
    """Serve the device API within the block; at its end accept no more, finish what is in flight, and close."""
    runner = web.AppRunner(app, shutdown_timeout=shutdown_seconds)
    await runner.setup()
    assert runner.server is not None
    try:
        door = Door(runner.server, limits, answering, introduction.refusals)
        try:
            async with accepting(door, listening, introduction):
                yield
        finally:
            await door.close(shutdown_seconds)
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serve_operations(app: web.Application, listening: socket.socket) -> AsyncIterator[None]:
    """Serve the operators' port within the block."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        yield
    finally:
        await runner.cleanup()
