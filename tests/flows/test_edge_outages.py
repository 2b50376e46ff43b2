"""Outages around an edge, with real servers stopped, emptied, frozen and cut off, and the edge killed and restarted.

What an edge promises: without Redis it serves what it has, from memory and after a restart from its snapshot; without
the object store it serves the blobs on its disk, answers 503 for the others, and never serves half of one; killed, it
loses no event that it acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from aiohttp import ClientPayloadError

from artifacts.store import open_store
from telemetry.segment import decode_segment
from tests.edge.site import Edge, EdgeProcess, Environment, Site, eventually, release_of, sha256
from tests.edge.test_intake import event
from tests.servers.redis import running_redis
from tests.servers.s3 import S3Server, running_s3

CONTENT = random.Random(11).randbytes(3_000_000)
OTHER = random.Random(12).randbytes(3_000_000)


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    with running_redis() as redis:
        async with Site(tmp_path, redis) as made:
            await made.put(CONTENT)
            await made.put(OTHER)
            yield made


@pytest_asyncio.fixture
async def environment(site: Site) -> Environment:
    made = Environment([release_of(CONTENT)])
    await site.publish(made)
    return made


async def manifest(edge: Edge, environment: Environment) -> bytes | int:
    """Return the manifest, or the status when there is none."""
    answer = await edge.get(f"/v2/environments/{environment.key}/manifest")
    return answer.body if answer.status == 200 else answer.status


def serves(edge: Edge, environment: Environment, expected: bytes | int) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return await manifest(edge, environment) == expected

    return holds


async def blob(edge: Edge, content: bytes) -> int:
    answer = await edge.get(f"/v2/artifacts/{sha256(content)}")
    if answer.status == 200:
        assert answer.body == content
    if answer.status == 503:
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.json()["code"]
    return answer.status


async def post(edge: Edge, environment: Environment) -> int:
    return (await edge.ask("POST", f"/v2/environments/{environment.key}/events", json=[event()])).status


async def register(edge: Edge, environment: Environment) -> int:
    return (await edge.ask("PUT", f"/v2/environments/{environment.key}/devices/d-1", json={})).status


# --- Redis ---


async def test_redis_stopped_and_started_again(site: Site, environment: Environment) -> None:
    async with site.edge() as edge:
        served = await manifest(edge, environment)
        site.redis.stop()
        assert await manifest(edge, environment) == served
        assert (await edge.get("/v2/environments/unknown/manifest")).status == 404
        assert await blob(edge, CONTENT) == 200
        assert await post(edge, environment) == 202
        assert await register(edge, environment) == 503
        assert (await edge.operations("/readyz")).status == 200
        site.redis.start()
        newer = await site.publish(environment, release_of(OTHER, version=2))
        await eventually(serves(edge, environment, newer.body))
        assert await register(edge, environment) == 202


async def test_redis_emptied_takes_nothing_away_and_heals(site: Site, environment: Environment) -> None:
    second = Environment([release_of(CONTENT)], seed=2)
    await site.publish(second)
    async with site.edge() as edge:
        served = [await manifest(edge, one) for one in (environment, second)]
        await site.empty_redis()
        await asyncio.sleep(0.6)  # several polls see an empty store
        assert [await manifest(edge, one) for one in (environment, second)] == served
        await site.publish(environment)  # the same revision again, as the control plane's repair does
        newer = await site.publish(second, release_of(OTHER, version=2))
        await eventually(serves(edge, second, newer.body))
        assert await manifest(edge, environment) == served[0]


async def test_redis_frozen_delays_nobody_but_registrations(site: Site, environment: Environment) -> None:
    async with site.edge(redis_timeout_seconds=0.3) as edge:
        served = await manifest(edge, environment)
        with frozen(site.redis.pid):
            assert await manifest(edge, environment) == served
            assert await blob(edge, CONTENT) == 200
            assert await register(edge, environment) == 503
        newer = await site.publish(environment, release_of(OTHER, version=2))
        await eventually(serves(edge, environment, newer.body), seconds=40)


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_an_edge_restarted_while_redis_is_down_serves_its_snapshot(
    site: Site, environment: Environment, end: signal.Signals
) -> None:
    process = site.process()
    async with process.running() as edge:
        served = await manifest(edge, environment)
        assert await blob(edge, CONTENT) == 200
        await eventually(snapshot_holds(site, environment))
        site.redis.stop()
        await asyncio.to_thread(process.end, end)
    async with process.running() as edge:
        assert await manifest(edge, environment) == served
        assert await blob(edge, CONTENT) == 200
        assert (await edge.get(f"/v2/environments/{environment.key}/root/1.json")).status == 200
        # Whether it was made since the snapshot is not known.
        assert (await edge.get("/v2/environments/unknown/manifest")).status == 503
        assert (await edge.operations("/readyz")).status == 200
        assert await post(edge, environment) == 202
        site.redis.start()
        newer = await site.publish(environment, release_of(OTHER, version=2))
        await eventually(serves(edge, environment, newer.body))
        await eventually(is_unknown(edge))


def is_unknown(edge: Edge) -> Callable[[], Awaitable[bool]]:
    async def unknown() -> bool:
        return (await edge.get("/v2/environments/unknown/manifest")).status == 404

    return unknown


async def test_a_new_edge_on_an_emptied_redis_tells_no_device_that_its_key_is_void(
    site: Site, environment: Environment
) -> None:
    await site.empty_redis()
    async with site.edge() as edge:
        await asyncio.sleep(0.6)  # several polls see an empty store
        answer = await edge.get(f"/v2/environments/{environment.key}/manifest")
        assert (answer.status, answer.json()["code"]) == (503, "starting")
        publication = await site.publish(environment)
        await eventually(serves(edge, environment, publication.body))
        await eventually(is_unknown(edge))


def snapshot_holds(site: Site, environment: Environment) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return (site.folder / "edge" / "edge-0" / "manifests" / f"{environment.key}.manifest").exists()

    return holds


async def test_a_new_edge_without_redis_says_that_it_is_starting_and_then_serves(
    site: Site, environment: Environment
) -> None:
    site.redis.stop()
    process = site.process()
    async with process.running() as edge:
        answer = await edge.get(f"/v2/environments/{environment.key}/manifest")
        assert (answer.status, answer.json()["code"]) == (503, "starting")
        assert int(answer.headers["Retry-After"]) > 0
        assert (await edge.operations("/readyz")).status == 503
        assert (await edge.operations("/healthz")).status == 200
        site.redis.start()
        publication = await site.publish(environment)
        await eventually(serves(edge, environment, publication.body))
        assert (await edge.operations("/readyz")).status == 200


async def test_a_key_withdrawn_while_the_edge_was_away_is_gone_when_it_is_back(
    site: Site, environment: Environment
) -> None:
    process = site.process()
    async with process.running() as edge:
        assert await manifest(edge, environment) != 404
        await eventually(snapshot_holds(site, environment))
        await asyncio.to_thread(process.end, signal.SIGTERM)
    await site.store.withdraw(environment.key, 1)
    async with process.running() as edge:
        assert await manifest(edge, environment) == 404
    assert not await snapshot_holds(site, environment)()
    site.redis.stop()
    async with process.running() as edge:
        assert await manifest(edge, environment) in (404, 503)


# --- the object store ---


class Cable:
    """A wire to a server, in this process: it can be cut, and cut in the middle of an answer."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._wires: set[asyncio.Task[None]] = set()
        self.port = 0
        self.cut_after: int | None = None  # bytes of an answer

    async def join(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
        for wire in self._wires:
            wire.cancel()
        await asyncio.gather(*self._wires, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._wires.add(task)
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(_pump(reader, far_writer, None))
                    both.create_task(_pump(far_reader, writer, self.cut_after))
            except* (OSError, _Cut):
                pass
            finally:
                far_writer.transport.abort()
                writer.transport.abort()
        self._wires.discard(task)


class _Cut(Exception):
    pass


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bound: int | None) -> None:
    carried = 0
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
        carried += len(data)
        if bound is not None and carried > bound:
            raise _Cut
    raise _Cut


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


@asynccontextmanager
async def edge_behind_a_cable(site: Site, s3: S3Server) -> AsyncIterator[tuple[EdgeProcess, Cable]]:
    """Give an edge whose object store is S3 behind a cable; both blobs are in it."""
    store = open_store(s3.url, s3.options)
    for content in (CONTENT, OTHER):
        (site.folder / "upload").write_bytes(content)
        await store.put_file(sha256(content), site.folder / "upload")
    address = urlsplit(s3.endpoint)
    assert address.hostname
    assert address.port
    cable = Cable(address.hostname, address.port)
    await cable.join()
    behind = S3Server(f"http://127.0.0.1:{cable.port}")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**behind.environment, "AWS_ALLOW_HTTP": "true"}.items():
            patch.setenv(name, value)
        try:
            yield site.process(OBJECTS_URL=s3.url), cable
        finally:
            await cable.cut()


def files_below(site: Site, part: str) -> list[Path]:
    return [path for path in (site.folder / "edge" / "edge-0" / part).rglob("*") if path.is_file()]


async def test_the_object_store_cut_off_and_joined_again(site: Site, environment: Environment, s3: S3Server) -> None:
    async with edge_behind_a_cable(site, s3) as (process, cable), process.running() as edge:
        assert await blob(edge, CONTENT) == 200
        await cable.cut()
        assert await blob(edge, CONTENT) == 200
        assert await blob(edge, OTHER) == 503
        assert (await edge.ask("HEAD", f"/v2/artifacts/{sha256(OTHER)}")).status == 503
        assert isinstance(await manifest(edge, environment), bytes)
        assert await post(edge, environment) == 202
        assert [path.name for path in files_below(site, "blobs")] == [sha256(CONTENT)]
        assert files_below(site, "incoming") == []
        await cable.join()
        assert await blob(edge, OTHER) == 200
        assert await blob(edge, CONTENT) == 200


async def test_a_transfer_that_breaks_leaves_nothing(site: Site, environment: Environment, s3: S3Server) -> None:
    async with edge_behind_a_cable(site, s3) as (process, cable), process.running() as edge:
        cable.cut_after = 1_000_000
        with contextlib.suppress(ClientPayloadError):  # cut off in the middle, as the transfer was
            assert await blob(edge, CONTENT) in (200, 503)  # the store's client may have resumed it piece by piece

        async def nothing_is_left() -> bool:  # a whole answer ends before the file is flushed and gets its place
            return files_below(site, "incoming") == []

        await eventually(nothing_is_left)
        cable.cut_after = None

        async def whole() -> bool:
            return await blob(edge, CONTENT) == 200

        await eventually(whole, seconds=60)


# --- the edge itself ---


async def test_an_edge_killed_while_it_fetches_serves_only_whole_blobs(
    site: Site, environment: Environment, s3: S3Server
) -> None:
    async with edge_behind_a_cable(site, s3) as (process, _):
        async with process.running() as edge:
            asking = [asyncio.create_task(blob(edge, content)) for content in (CONTENT, OTHER)]
            await asyncio.sleep(0.05)
            await asyncio.to_thread(process.end, signal.SIGKILL)
            await asyncio.gather(*asking, return_exceptions=True)
        async with process.running() as edge:
            assert files_below(site, "incoming") == []
            assert all(path.stat().st_size == 3_000_000 for path in files_below(site, "blobs"))
            assert await blob(edge, CONTENT) == 200
            assert await blob(edge, OTHER) == 200


async def test_an_edge_killed_keeps_every_event_that_it_acknowledged(site: Site, environment: Environment) -> None:
    process = site.process()
    acknowledged: list[str] = []

    async def report(edge: Edge) -> None:
        with contextlib.suppress(OSError):
            while True:
                one = event()
                path = f"/v2/environments/{environment.key}/events"
                if (await edge.ask("POST", path, json=[one])).status == 202:
                    acknowledged.append(one["event_id"])

    async with process.running() as edge:
        reporters = [asyncio.create_task(report(edge)) for _ in range(8)]
        await asyncio.sleep(1)
        await asyncio.to_thread(process.end, signal.SIGKILL)
        await asyncio.wait(reporters)
    async with process.running():
        assert await asyncio.to_thread(process.end, signal.SIGTERM) == 0
    segments = [decode_segment(path.read_bytes()) for path in site.folder.glob("spool/edge-0/*.ready")]
    kept = {one["event_id"] for segment in segments for record in segment.records for one in json.loads(record.events)}
    assert acknowledged
    assert set(acknowledged) <= kept
