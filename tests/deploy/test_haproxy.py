"""The real HAProxy, as ``deploy/`` sets it up, before real edges: it ends TLS, or passes it through to the edges."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import ClientError
from structlog.testing import capture_logs

from bench.edge.certificate import Certificate
from edge.settings import EdgeSettings
from tests.deploy.behind import BLOB, BLOB_PATH, CLIENT, Behind, Start, behind, reached
from tests.edge.rfc9842 import Client
from tests.edge.site import Edge, Site, eventually, metric
from tests.edge.test_intake import event
from tests.edge.versions import Versions, successor
from tests.servers.proxies import DEPLOY, running_haproxy

CONFIGURATIONS = ("haproxy.cfg", "haproxy-passthrough.cfg")
# More fields than fit in HAProxy's buffer of 16 KB, and in an edge's bound for one.
HUGE = {f"X-Field-{number}": "x" * 4000 for number in range(6)} | {"X-Huge": "x" * 9000}

# So that each request has a connection of its own: one that is passed through stays with its edge.
NEW = {"Connection": "close"}


def starter(folder: Path, name: str) -> Start:
    def start(edges: list[Edge], certificate: Certificate) -> AbstractContextManager[str]:
        folder.mkdir()
        addresses = [(edge.running.listen, edge.running.metrics) for edge in edges]
        return running_haproxy(folder, name, addresses, certificate if name == CONFIGURATIONS[0] else None)

    return start


@pytest_asyncio.fixture(params=CONFIGURATIONS)
async def haproxy(site: Site, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Behind]:
    """HAProxy in each of both ways."""
    through = request.param == CONFIGURATIONS[1]
    start = starter(tmp_path / "haproxy", request.param)
    async with behind(site, start, at_the_edge=through, edge_proxy_protocol=through) as running:
        yield running


@pytest_asyncio.fixture
async def ending_tls(site: Site, tmp_path: Path) -> AsyncIterator[Behind]:
    """HAProxy that ends TLS."""
    async with behind(site, starter(tmp_path / "haproxy", CONFIGURATIONS[0])) as running:
        yield running


async def test_devices_are_served_as_by_the_edge(haproxy: Behind) -> None:
    first = await haproxy.get(haproxy.manifest)
    assert first.status == 200
    assert (await haproxy.get(haproxy.manifest, If_None_Match=first.headers["ETag"])).status == 304
    whole = await haproxy.get(BLOB_PATH)
    assert (whole.status, whole.body) == (200, BLOB)
    assert whole.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    part = await haproxy.get(BLOB_PATH, Range="bytes=5000000-9000000", If_Range=whole.headers["ETag"])
    assert (part.status, part.body) == (206, BLOB[5_000_000:9_000_001])
    assert (await haproxy.ask("POST", haproxy.events, json=[event()])).status == 202
    device = f"/v2/environments/{haproxy.environment.key}/devices/device-1"
    assert (await haproxy.ask("PUT", device, json={"facts": {"os": "ios"}})).status == 202


async def test_a_client_of_the_rfc_updates_by_a_patch(haproxy: Behind) -> None:
    first = random.Random(1).randbytes(300_000)
    versions = await Versions(haproxy.site, haproxy.environment, (first, successor(first, 2))).publish()

    async def served() -> bool:
        return (await haproxy.get(versions.path(1))).status == 200

    await eventually(served)
    client = Client(lambda url, headers: haproxy.ask("GET", url.removeprefix("https://edge"), headers=headers))
    got = [await client.get(f"https://edge{versions.path(number)}") for number in (1, 2)]
    assert [(each.coding, each.content) for each in got] == [
        ("identity", versions.artifacts[0]),
        ("dcz", versions.artifacts[1]),
    ]


async def test_the_edge_learns_whose_a_request_is_and_believes_no_client(haproxy: Behind) -> None:
    with capture_logs() as logged:
        await haproxy.get("/v2/artifacts/nonsense")
        await haproxy.get("/v2/artifacts/nonsense", X_Forwarded_For="198.51.100.1")
        await haproxy.ask("POST", haproxy.events, data=b"nonsense")
    assert [line["client"] for line in logged if line["event"] == "refused"] == [CLIENT] * 3
    assert not [line for line in logged if line["event"] == "proxy_refused"]


async def test_an_edge_that_ends_is_not_asked_again(haproxy: Behind) -> None:
    await haproxy.get(haproxy.manifest)
    await haproxy.stop(0)

    async def served() -> bool:
        with contextlib.suppress(ClientError):
            return (await haproxy.ask("POST", haproxy.events, json=[event()])).status == 202
        return False

    await eventually(served)
    for _ in range(6):
        assert (await haproxy.get(haproxy.manifest)).status == 200
    assert (await haproxy.get(BLOB_PATH)).body == BLOB


async def test_an_edge_that_is_not_ready_is_not_asked(haproxy: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.operations.Readiness.state", lambda _: "draining")

    async def refused() -> bool:
        with contextlib.suppress(ClientError):
            return (await haproxy.ask("POST", haproxy.events, json=[], headers=NEW)).status == 503
        return True  # HAProxy has no answer of its own where it passes bytes on

    await eventually(refused)
    monkeypatch.undo()

    async def served() -> bool:
        with contextlib.suppress(ClientError):
            return (await haproxy.ask("POST", haproxy.events, json=[], headers=NEW)).status == 202
        return False

    await eventually(served)


async def test_a_huge_head_is_refused(haproxy: Behind) -> None:
    before = reached("manifest")
    assert (await haproxy.ask("GET", haproxy.manifest, headers=HUGE)).status == 400
    assert reached("manifest") == before
    assert (await haproxy.get(haproxy.manifest)).status == 200


async def test_checks_of_health_and_idle_connections_are_no_failures_at_the_edge(haproxy: Behind) -> None:
    failed = "skafos_edge_connections_failed_total"
    before = [metric(failed, cause=cause) for cause in ("tls", "proxy_header")]
    with capture_logs() as logged:
        await asyncio.sleep(2.5)  # longer than the checks are apart
        await haproxy.get(haproxy.manifest)
    assert [metric(failed, cause=cause) for cause in ("tls", "proxy_header")] == before
    assert not [line for line in logged if line["log_level"] == "warning"]


async def test_connections_to_the_edge_are_kept_and_shared(ending_tls: Behind) -> None:
    for _ in range(10):
        assert (await ending_tls.ask("POST", ending_tls.events, json=[], headers=NEW)).status == 202
    shown = (await ending_tls.edges[0].operations("/metrics")).body.decode()
    (kept,) = re.findall(r"^skafos_edge_connections (\S+)$", shown, re.MULTILINE)
    assert 0 < float(kept) < 10


async def test_only_the_device_api_is_to_be_had(ending_tls: Behind) -> None:
    before = reached("unknown")
    for path in ("/", "/metrics", "/readyz"):
        assert (await ending_tls.get(path)).status == 404
    assert reached("unknown") == before


def test_the_times_are_in_the_right_order() -> None:
    ending, through = ((DEPLOY / "haproxy" / name).read_text() for name in CONFIGURATIONS)
    (server,) = re.findall(r"timeout server (\d+)s", ending)
    assert int(server) > EdgeSettings.model_fields["blob_wait_seconds"].default
    idle = EdgeSettings.model_fields["edge_keepalive_seconds"].default
    assert all(int(seconds) > idle for seconds in re.findall(r"timeout (?:client|server) (\d+)s", through))
