"""What edges report of themselves, in a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from manifests.edge_reports import EDGES, FORGOTTEN_SECONDS, SILENT_SECONDS, EdgeReport, EdgeReports
from manifests.redis_client import connect_redis
from manifests.store import StoreUnavailable
from tests.servers.redis import RedisServer, running_redis

REPORT = EdgeReport(host="one.example", worker="edge-0", version="1.2", started_at=1_700_000_000.0, environments=3)
OTHER = EdgeReport(host="one.example", worker="edge-1", version="1.2", started_at=1_700_000_000.0, environments=3)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Any]:
    client: Any = connect_redis(server.url, 1.0)
    await client.flushall()
    yield client
    await client.aclose()


async def backdate(client: Any, report: EdgeReport, seconds: float) -> None:
    """Have a report be as old as this."""
    moment, _, text = (await client.hget(EDGES, report.name)).partition(b" ")
    await client.hset(EDGES, report.name, b"%d %b" % (int(moment) - seconds, text))


async def test_edges_are_read_in_the_order_of_their_names_and_each_once(client: Any) -> None:
    reports = EdgeReports(client)
    for report in (OTHER, REPORT, REPORT):
        await reports.report(report)
    seen = await reports.read()
    assert [edge.report for edge in seen] == [REPORT, OTHER]
    assert not any(edge.is_silent for edge in seen)


async def test_an_edge_that_ended_in_order_is_gone_and_one_that_was_killed_is_silent(client: Any) -> None:
    reports = EdgeReports(client)
    await reports.report(REPORT)
    await reports.report(OTHER)
    await reports.withdraw(REPORT.name)
    await backdate(client, OTHER, SILENT_SECONDS + 1)
    (edge,) = await reports.read()
    assert (edge.report, edge.is_silent) == (OTHER, True)
    assert edge.silent_seconds >= SILENT_SECONDS + 1


async def test_an_edge_that_is_silent_for_a_day_and_what_is_no_report_are_forgotten(client: Any) -> None:
    reports = EdgeReports(client)
    await reports.report(REPORT)
    await backdate(client, REPORT, FORGOTTEN_SECONDS + 1)
    await client.hset(EDGES, "strange", b"soon {")
    await client.hset(EDGES, "newer", b'1700000000 {"kind": "of another release"}')
    assert await reports.read() == []
    assert await client.hlen(EDGES) == 0


async def test_a_redis_that_is_away_is_told_of() -> None:
    client: Any = connect_redis("redis://127.0.0.1:1/0", 1.0)
    for asking in (EdgeReports(client).read, lambda: EdgeReports(client).report(REPORT)):
        with pytest.raises(StoreUnavailable):
            await asking()
    await client.aclose()
