"""Memory of idle connections: open many, let each ask once, and see by how much the server has grown."""

from __future__ import annotations

import resource
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]

from bench.edge.probe import read_answer
from bench.edge.servers import Server

CONNECTIONS = 10_000
# A first few make the server load and allocate what it does only once.
FIRST_CONNECTIONS = 200
# One address has some 28,000 ports for one server; four leave room for those that are not free again yet.
SOURCES = ("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5")
OTHER_FILES = 256
SETTLE_SECONDS = 1.0


@dataclass(frozen=True)
class Idle:
    """Growth of a server in bytes per connection: of memory that is its alone (USS), and of resident memory (RSS)."""

    connections: int
    unique: float
    resident: float


def allow_open_files() -> None:
    """Raise the limit of open files as far as this process may; children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CONNECTIONS + 4096
    if resource.RLIM_INFINITY != hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return
        except (ValueError, OSError):  # only root may raise the hard limit
            wanted = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most_connections() -> int:
    """Return how many connections this process may hold open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(CONNECTIONS, soft - OTHER_FILES)


def measure_idle(server: Server, asked: bytes, connections: int) -> Idle:
    """Return by how much ``server`` grows for so many connections that have asked once and stay open."""
    with ExitStack() as first:
        _connect(first, server, asked, FIRST_CONNECTIONS)
    time.sleep(SETTLE_SECONDS)
    before = _memory(server.pid)
    with ExitStack() as stack:
        _connect(stack, server, asked, connections)
        time.sleep(SETTLE_SECONDS)
        after = _memory(server.pid)
    return Idle(connections, *((late - early) / connections for early, late in zip(before, after, strict=True)))


def _connect(stack: ExitStack, server: Server, asked: bytes, connections: int) -> None:
    for number in range(connections):
        source = (SOURCES[number % len(SOURCES)], 0)
        connection = stack.enter_context(socket.create_connection(server.address, timeout=30, source_address=source))
        connection.sendall(asked)
        read_answer(connection)


def _memory(pid: int) -> tuple[int, int]:
    root = psutil.Process(pid)
    infos = [process.memory_full_info() for process in (root, *root.children(recursive=True))]
    return sum(info.uss for info in infos), sum(info.rss for info in infos)
