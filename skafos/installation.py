"""What `skafos up` runs and where everything lies below its data directory. Pure: nothing here starts or writes."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import skafos
from skafos.supervise import Program

# The path of a unix socket has 107 bytes at most on Linux and 103 on macOS (`sun_path` and its final zero).
LONGEST_SOCKET_PATH = 100
MOST_WORKERS = 64

# An engine that one of these names is used as it is, in place of the embedded one.
REDIS_VARIABLE = "SKAFOS_REDIS_URL"
OBJECTS_VARIABLE = "SKAFOS_OBJECTS_URL"
CERTIFICATE_VARIABLE = "SKAFOS_EDGE_TLS_CERTIFICATE"


@dataclass(frozen=True)
class Address:
    """A host and a TCP port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address written as ``HOST:PORT`` or ``[IPV6]:PORT``.

        Raises:
            ValueError: it is written otherwise.
        """
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 0xFFFF:
            raise ValueError(f"an address is written HOST:PORT, not {text!r}")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        """Return the address as ``HOST:PORT``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Return the address as an http URL that a client on this machine can use."""
        if self.host in ("0.0.0.0", "::"):  # noqa: S104  compared, not bound
            return f"http://127.0.0.1:{self.port}"
        return f"http://{self}"


@dataclass(frozen=True)
class Installation:
    """One data directory, the two public addresses, the number of edge workers, and the settings given from outside."""

    data: Path
    control: Address
    edge: Address
    workers: int
    settings: Mapping[str, str]

    @property
    def edge_url(self) -> str:
        """Return the edge's address for clients: over TLS when the edges are given a certificate."""
        return self.edge.url.replace("http:", "https:", 1) if self.settings.get(CERTIFICATE_VARIABLE) else self.edge.url

    @property
    def run(self) -> Path:
        """Return the directory of ready files and of the lock; also where the processes work."""
        return self.data / "run"

    @property
    def logs(self) -> Path:
        """Return the directory of the processes' logs."""
        return self.data / "logs"

    @property
    def lock(self) -> Path:
        """Return the file whose lock one running `skafos up` holds."""
        return self.run / "up.lock"

    @property
    def connection(self) -> Path:
        """Return the file that tells clients addresses and token."""
        return self.data / "connection.json"

    @property
    def socket_directory(self) -> Path:
        """Return where Redis has its socket: below the data, or a short directory if that path is too long."""
        if len(os.fsencode(self.run / "redis.sock")) <= LONGEST_SOCKET_PATH:
            return self.run
        digest = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"skafos-{os.getuid()}-{digest}"

    @property
    def redis_socket(self) -> Path | None:
        """Return the socket of the embedded Redis, or None when a Redis of yours is used."""
        return None if self.settings.get(REDIS_VARIABLE) else self.socket_directory / "redis.sock"

    def environment(self, **own: str) -> dict[str, str]:
        """Return the environment of a process: what was given from outside, what all share, and its ``own`` settings.

        The shared C allocator keeps two arenas instead of eight a core, which saves each idle process tens of MB.
        """
        shared = {
            "PYTHONPATH": os.pathsep.join(filter(None, [source_directory(), self.settings.get("PYTHONPATH", "")])),
            "PYTHONUNBUFFERED": "1",
            "MALLOC_ARENA_MAX": "2",
            REDIS_VARIABLE: self.settings.get(REDIS_VARIABLE) or f"unix://{self.redis_socket}",
            OBJECTS_VARIABLE: self.settings.get(OBJECTS_VARIABLE) or (self.data / "objects").as_uri(),
            "SKAFOS_DATA": str(self.data),
            "SKAFOS_SPOOL_DIR": str(self.data / "spool"),
        }
        return {**self.settings, **shared, **own}

    def redis(self, server: Path) -> Program:
        """Return the embedded Redis: a private socket, no port, every write in the append-only file within a second."""
        command = (
            *(str(server), "--port", "0", "--unixsocket", str(self.redis_socket), "--unixsocketperm", "700"),
            *("--dir", str(self.data / "redis"), "--appendonly", "yes", "--appendfsync", "everysec"),
            *("--save", "", "--maxmemory-policy", "noeviction", "--daemonize", "no"),
        )
        return Program("redis", command, self.environment(), self.run, self.logs / "redis.log")

    def control_plane(self) -> Program:
        """Return the control plane, which also owns the embedded ClickHouse and ships the edges' spools into it."""
        ready = self.run / "control-plane.json"
        environment = self.environment(
            SKAFOS_CONTROL_LISTEN=str(self.control),
            SKAFOS_CONTROL_METRICS_LISTEN=f"{loopback(self.control)}:0",
            SKAFOS_CONTROL_PUBLIC_URL=self.settings.get("SKAFOS_CONTROL_PUBLIC_URL") or self.control.url,
            SKAFOS_CONTROL_READY_FILE=str(ready),
            SKAFOS_EDGE_PUBLIC_URL=self.settings.get("SKAFOS_EDGE_PUBLIC_URL") or self.edge_url,
        )
        return Program(
            "control-plane", python("control_plane"), environment, self.run, self.logs / "control-plane.log", ready
        )

    def edge_worker(self, number: int) -> Program:
        """Return edge worker ``number``; all workers listen on one port, each has health and metrics on its own."""
        name = f"edge-{number}"
        ready = self.run / f"{name}.json"
        environment = self.environment(
            SKAFOS_EDGE_LISTEN=str(self.edge),
            SKAFOS_EDGE_METRICS_LISTEN=f"{loopback(self.edge)}:0",
            SKAFOS_EDGE_DATA=str(self.data / "edge"),
            SKAFOS_EDGE_NAME=str(number),
            SKAFOS_EDGE_READY_FILE=str(ready),
        )
        return Program(name, python("edge"), environment, self.run, self.logs / f"{name}.log", ready)

    def demonstration(self) -> Program:
        """Return the process that sets up the example organization and plays its devices."""
        ready = self.run / "demo.json"
        environment = self.environment(
            SKAFOS_DEMO_CONNECTION=str(self.connection),
            SKAFOS_DEMO_DEVICES_DIR=str(self.data / "demo-devices"),
            SKAFOS_DEMO_READY_FILE=str(ready),
        )
        return Program("demo", python("skafos.demo"), environment, self.run, self.logs / "demo.log", ready)


def python(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs ``module`` with this Python, without looking for it in the working directory."""
    return (sys.executable, "-P", "-m", module, *arguments)


def loopback(address: Address) -> str:
    """Return the loopback host of the address's family: health and metrics are not for the network."""
    return "[::1]" if ":" in address.host else "127.0.0.1"


def source_directory() -> str:
    """Return the directory that holds our packages, so that processes find them wherever they work."""
    return str(Path(skafos.__file__).resolve().parent.parent)
