"""The edge as a process: it starts as it is set or says why not, ends in order, and shares its port with others."""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from pydantic import ValidationError

from edge.settings import GIB, EdgeSettings, parse_address
from telemetry.segment import decode_segment
from tests.components import free_port
from tests.edge.raw import connect, read_answer, request
from tests.edge.site import EdgeProcess, Environment, Site, eventually, release_of
from tests.edge.test_intake import event


async def test_sigterm_finishes_what_is_in_flight_and_hands_the_spool_over(site: Site) -> None:
    content = random.Random(4).randbytes(20_000_000)
    digest = await site.put(content)
    environment = Environment([release_of(content)])
    await site.publish(environment)
    process = site.process()
    async with process.running() as edge:
        assert (await edge.ask("POST", f"/v2/environments/{environment.key}/events", json=[event()])).status == 202
        idle_reader, idle_writer = await connect(edge)
        idle_writer.write(request("GET", f"/v2/environments/{environment.key}/manifest"))
        assert (await read_answer(idle_reader)).status == 200
        async with edge.session.get(edge.url(f"/v2/artifacts/{digest}")) as download:
            received = bytearray(await download.content.readexactly(1000))
            process.tell(signal.SIGTERM)

            async def refuses() -> bool:
                try:
                    _, writer = await connect(edge)
                except (ConnectionRefusedError, ConnectionResetError):  # reset: it closed between the two packets
                    return True
                writer.close()
                return False

            await eventually(refuses)
            async for chunk in download.content.iter_any():
                received += chunk
        assert bytes(received) == content
        assert await idle_reader.read() == b""
        idle_writer.close()
        assert await asyncio.to_thread(process.wait) == 0
    (segment,) = site.folder.glob("spool/edge-0/*.ready")
    assert len(decode_segment(segment.read_bytes()).records) == 1
    assert list((site.folder / "edge" / "edge-0" / "incoming").iterdir()) == []
    lines = [json.loads(line) for line in process.log.splitlines()]
    assert next(line["event"] for line in lines if line["event"].startswith("edge_")) == "edge_serving"
    assert not [line for line in lines if line["level"] in ("error", "critical")]


async def test_sigint_ends_it_as_well(site: Site) -> None:
    process = site.process()
    async with process.running():
        assert await asyncio.to_thread(process.end, signal.SIGINT) == 0


async def test_a_download_that_never_ends_does_not_keep_it_for_ever(site: Site) -> None:
    digest = await site.put(random.Random(5).randbytes(20_000_000))
    await site.publish(Environment())
    process = site.process(EDGE_SHUTDOWN_SECONDS="0.3")
    async with process.running() as edge:
        reader, writer = await connect(edge)
        writer.write(request("GET", f"/v2/artifacts/{digest}"))
        await reader.readexactly(100)
        assert await asyncio.to_thread(process.end, signal.SIGTERM) == 0
        writer.transport.abort()


async def test_several_workers_share_one_port_and_each_serves(site: Site) -> None:
    environment = Environment([release_of(b"artifact")])
    await site.publish(environment)
    listen = f"127.0.0.1:{free_port()}"
    workers = [
        site.process(EDGE_LISTEN=listen, EDGE_NAME=str(n), EDGE_READY_FILE=str(site.folder / f"ready-{n}.json"))
        for n in range(2)
    ]
    async with workers[0].running() as first, workers[1].running() as second:
        for _ in range(40):
            async with (
                ClientSession() as session,
                session.get(f"http://{listen}/v2/environments/{environment.key}/manifest") as answer,
            ):
                assert answer.status == 200
        counted = [(await edge.operations("/metrics")).body.decode() for edge in (first, second)]
        assert all("skafos_edge_checks_total{" in one for one in counted)


async def test_an_edge_reports_that_it_is_there_and_what_it_serves_until_it_ends(site: Site) -> None:
    await site.publish(Environment())
    async with site.process(EDGE_NAME="told").running() as edge:

        async def reported() -> bool:
            return any(seen.report.worker == "edge-told" for seen in await site.edge_reports.read())

        await eventually(reported)
        (seen,) = [seen for seen in await site.edge_reports.read() if seen.report.worker == "edge-told"]
        assert seen.report.environments == json.loads((await edge.operations("/readyz")).body)["environments"] > 0
        assert not seen.is_silent
    assert not any(seen.report.worker == "edge-told" for seen in await site.edge_reports.read())


async def test_a_second_worker_of_the_same_name_is_refused(site: Site) -> None:
    first = site.process()
    async with first.running():
        second = site.process(EDGE_READY_FILE=str(site.folder / "second.json"))
        code, said = await fails(second)
        assert code == 2
        assert "another edge named edge-0" in said


async def fails(process: EdgeProcess) -> tuple[int, str]:
    """Start a process that should not come up; return its exit code and what it wrote last."""
    with pytest.raises(AssertionError):
        process.start()
    return await asyncio.to_thread(process.wait), process.log


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"REDIS_URL": "http://user:hunter2@example"}, "Redis URL"),
        ({"OBJECTS_URL": "ftp://somewhere"}, "object store"),
        ({"EDGE_LISTEN": "nowhere"}, "SKAFOS_EDGE_LISTEN"),
        ({"EDGE_NAME": "../up"}, "SKAFOS_EDGE_NAME"),
        ({"BLOB_CACHE_BYTES": "hunter2"}, "SKAFOS_BLOB_CACHE_BYTES"),
        ({"EDGE_LISTEN": "192.0.2.1:80"}, "cannot start"),
    ],
)
async def test_wrong_settings_are_one_clear_line_without_secrets(
    site: Site, settings: dict[str, str], named: str
) -> None:
    code, said = await fails(site.process(**settings))
    assert code == 2
    assert named in said
    assert "hunter2" not in said
    assert "Traceback" not in said


def test_missing_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SKAFOS_REDIS_URL", raising=False)
    with pytest.raises(ValidationError) as caught:
        EdgeSettings(edge_data=Path("/x"), spool_dir=Path("/y"))  # type: ignore[call-arg]
    assert {one["loc"] for one in caught.value.errors()} >= {("redis_url",), ("objects_url",)}


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "edge_data": tmp_path,
        "spool_dir": tmp_path,
        "redis_url": "redis://x",
        "objects_url": "memory://",
    }
    with pytest.raises(ValidationError, match="same address"):
        EdgeSettings(**given, edge_listen="127.0.0.1:1", edge_metrics_listen="127.0.0.1:1")
    with pytest.raises(ValidationError, match="longer than"):
        EdgeSettings(**given, blob_wait_seconds=700)
    assert EdgeSettings(**given).blob_cache_bytes == 10 * GIB


def test_settings_never_show_the_addresses_that_may_hold_passwords(tmp_path: Path) -> None:
    settings = EdgeSettings(
        edge_data=tmp_path, spool_dir=tmp_path, redis_url="redis://:hunter2@x", objects_url="s3://hunter2"
    )
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "parsed"), [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:0", ("::1", 0)), ("host:1", ("host", 1))]
)
def test_addresses_are_host_and_port(text: str, parsed: tuple[str, int]) -> None:
    assert parse_address(text) == parsed


@pytest.mark.parametrize("text", ["", "host", "host:", ":80", "host:x", "host:70000", "host:-1", "host:٣"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)


async def test_a_worker_at_rest_is_small(site: Site) -> None:
    await site.publish(Environment())
    process = site.process()
    async with process.running() as edge:
        assert (await edge.operations("/readyz")).status == 200
        status = Path(f"/proc/{process.pid}/status").read_text()
        resident_kib = int(status.split("VmRSS:")[1].split()[0])
        assert resident_kib < 85 * 1024
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        soft, hard = re.findall(r"Max open files +(\d+|unlimited) +(\d+|unlimited)", limits)[0]
        assert soft == hard or int(soft) >= 20_000
        loaded = Path(f"/proc/{process.pid}/maps").read_text()
        assert not any(heavy in loaded for heavy in ("numpy", "chdb", "pandas", "sqlalchemy"))
