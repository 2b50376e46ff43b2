"""A place with everything an edge needs, all of it real: a Redis, a folder of blobs, a publisher, and edges.

Edges run in this process for tests of answers, and as processes of their own for tests of outages.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse, ClientSession
from prometheus_client import REGISTRY

from artifacts.store import ObjectStore, open_store
from edge.app import RunningEdge, create_edge
from edge.settings import EdgeSettings
from manifests.edge_reports import EdgeReports
from manifests.keys import make_key
from manifests.model import Encoding, Release, Rule
from manifests.redis_client import connect_redis
from manifests.redis_store import RedisManifestStore
from manifests.store import Labels, Publication
from manifests.trust import etag, render_body
from tests.manifests.builders import Repository
from tests.servers.redis import RedisServer

START_SECONDS = 30.0
LABELS = Labels("org-1", "Acme", "app-1", "Camera", "env-1", "prod")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def release_of(artifact: bytes, model: str = "digits", version: int = 1) -> Release:
    digest = sha256(artifact)
    return Release(
        model, version, digest, len(artifact), 0, Rule("salt"), (Encoding("identity", digest, len(artifact)),)
    )


class Environment:
    """An environment with real TUF metadata, and its key."""

    def __init__(self, releases: Sequence[Release] = (), seed: int = 1) -> None:
        self.repository = Repository(releases, seed=seed)
        self.key = make_key("prod", self.repository.roots[1], bytes([seed]) * 8)
        self.labels = LABELS

    def publication(self) -> Publication:
        manifest = self.repository.manifest
        body = render_body(manifest, 1)
        return Publication(self.key, manifest.revision, body, etag(body), self.repository.files(), self.labels)


@dataclass
class Site:
    """Where edges live. Use within ``async with``: the publisher's client is closed at the end."""

    folder: Path
    redis: RedisServer
    objects: ObjectStore = field(init=False)
    store: RedisManifestStore = field(init=False)

    def __post_init__(self) -> None:
        self.objects = open_store(self.objects_url)
        self._client: Any = connect_redis(self.redis.url)
        self.store = RedisManifestStore(self._client)

    @property
    def objects_url(self) -> str:
        return f"file://{self.folder}/objects"

    async def __aenter__(self) -> Site:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def publish(self, environment: Environment, *releases: Release) -> Publication:
        """Offer the releases (none: what is offered already) and write that to Redis."""
        if releases:
            environment.repository.publish(*releases)
        publication = environment.publication()
        assert await self.store.publish(publication)
        await self.store.set_generation("filled")
        return publication

    @property
    def edge_reports(self) -> EdgeReports:
        """What the edges report of themselves."""
        return EdgeReports(self._client)

    async def empty_redis(self) -> None:
        """Do what an operator should not: FLUSHALL."""
        await self._client.flushall()

    async def put(self, content: bytes) -> str:
        """Store a blob; return its hash."""
        path = self.folder / f"upload-{sha256(content)[:16]}"
        path.write_bytes(content)
        await self.objects.put_file(sha256(content), path)
        path.unlink()
        return sha256(content)

    def blob_path(self, digest: str) -> Path:
        """Where the object store's folder keeps a blob."""
        return self.folder / "objects" / "blobs" / digest[:2] / digest

    def settings(self, **changes: Any) -> EdgeSettings:
        given = {
            "edge_listen": "127.0.0.1:0",
            "edge_metrics_listen": "127.0.0.1:0",
            "edge_data": self.folder / "edge",
            "spool_dir": self.folder / "spool",
            "redis_url": self.redis.url,
            "objects_url": self.objects_url,
            "manifest_poll_seconds": 0.2,
        }
        return EdgeSettings(**{**given, **changes})

    @asynccontextmanager
    async def edge(self, **changes: Any) -> AsyncIterator[Edge]:
        """Run an edge in this process."""
        async with create_edge(self.settings(**changes)) as running, ClientSession(auto_decompress=False) as session:
            yield Edge(running, session)

    def process(self, **changes: str) -> EdgeProcess:
        """Return an edge that will be a process of its own."""
        settings = {
            "EDGE_LISTEN": "127.0.0.1:0",
            "EDGE_METRICS_LISTEN": "127.0.0.1:0",
            "EDGE_DATA": str(self.folder / "edge"),
            "SPOOL_DIR": str(self.folder / "spool"),
            "REDIS_URL": self.redis.url,
            "OBJECTS_URL": self.objects_url,
            "MANIFEST_POLL_SECONDS": "0.2",
            "EDGE_READY_FILE": str(self.folder / "ready.json"),
        }
        return EdgeProcess(self.folder, {**settings, **changes})


@dataclass
class Edge:
    """A running edge and a client for it."""

    running: RunningEdge
    session: ClientSession

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.running.listen.rpartition(":")
        return host, int(port)

    def url(self, path: str) -> str:
        return f"http://{self.running.listen}{path}"

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.ask("GET", path, **options)

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        async with self.session.request(method, self.url(path), **options) as response:
            return await Answer.of(response)

    async def operations(self, path: str) -> Answer:
        async with self.session.get(f"http://{self.running.metrics}{path}") as response:
            return await Answer.of(response)


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    async def of(cls, response: ClientResponse) -> Answer:
        return cls(response.status, response.headers, await response.read())

    def json(self) -> Any:
        return json.loads(self.body)


class EdgeProcess:
    """An edge as a process: started, asked, terminated or killed, and started again."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self._folder = folder
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return (self._folder / "edge.log").read_text()

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> RunningEdge:
        """Start it and return when it serves. Another thread than the loop's has to name the loop."""
        ready = Path(self._settings["EDGE_READY_FILE"])
        ready.unlink(missing_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SKAFOS_")}
        ours = {f"SKAFOS_{name}": value for name, value in self._settings.items()}
        with (self._folder / "edge.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edge"],
                cwd=Path(__file__).parents[2],
                env=kept | ours,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)
        told = json.loads(ready.read_text())
        assert told["pid"] == self.pid
        return RunningEdge(told["listen"], told["metrics"], (loop or asyncio.get_running_loop()).create_future())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Edge]:
        """Run it within the block; end it at its end if it still runs."""
        running = self.start()
        try:
            async with ClientSession(auto_decompress=False) as session:
                yield Edge(running, session)
        finally:
            if self._process is not None and self._process.poll() is None:
                self.end(signal.SIGTERM)

    def tell(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def end(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self.tell(number)
        return self.wait()

    def wait(self) -> int:
        assert self._process is not None
        return self._process.wait(START_SECONDS)


def metric(name: str, **labels: str) -> float:
    """Return a metric's present value, 0 when it was never counted."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def eventually(condition: Any, seconds: float = 15.0) -> None:
    """Return once the (async) condition holds; fail when it never does."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.02)
