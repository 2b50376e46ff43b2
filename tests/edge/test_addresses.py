"""A client's address is stored nowhere: neither on the edge's disk, nor in Redis, nor in any table of ClickHouse."""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, TCPConnector

from manifests.redis_client import connect_redis
from telemetry.shipper import Shipper
from telemetry.warehouse import Warehouse, open_warehouse
from tests.edge.site import Edge, Environment, Site

# The connection's own, and two that a trusted proxy tells.
PEER = "127.0.0.77"
FORWARDED = ("203.0.113.77", "2001:db8:4d::77")
DEVICE = "device-of-the-hunt"


def event(kind: str) -> dict[str, Any]:
    return {
        "event_id": str(uuid.uuid4()),
        "type": kind,
        "occurred_at": "2026-01-02T03:04:05Z",
        "device_id": DEVICE,
        "model": "digits",
        "version": 3,
        "error": "did not fit" if kind == "error" else None,
    }


def spellings(address: str) -> Iterator[bytes]:
    """Yield every way in which an address might be written down."""
    parsed = ipaddress.ip_address(address)
    yield from (address.encode(), parsed.exploded.encode(), parsed.packed, str(int(parsed)).encode())


def found(content: bytes) -> list[str]:
    return [each for each in (PEER, *FORWARDED) for spelling in spellings(each) if spelling in content]


async def report(edge: Edge, environment: Environment) -> None:
    """Post events and register, from an address of our own, and as a proxy would for two others."""
    path = f"/v2/environments/{environment.key}"
    async with ClientSession(connector=TCPConnector(local_addr=(PEER, 0))) as session:
        for header in ({}, *({"X-Forwarded-For": each, "X-Real-IP": each} for each in FORWARDED)):
            batch = [event(kind) for kind in ("check", "download", "activate", "error")]
            for body in (batch, [*batch, "one that is refused"]):  # the lane's way, and aiohttp's
                async with session.post(edge.url(f"{path}/events"), json=body, headers=header) as answer:
                    assert answer.status == 202
            facts = {"facts": {"os": "ios"}}
            async with session.put(edge.url(f"{path}/devices/{DEVICE}"), json=facts, headers=header) as answer:
                assert answer.status == 202


async def tables(warehouse: Warehouse) -> dict[str, bytes]:
    """Return all that every table holds."""
    names = await warehouse.query("SELECT name FROM system.tables WHERE database = currentDatabase()")
    return {str(row["name"]): repr(await warehouse.query(f"SELECT * FROM `{row['name']}`")).encode() for row in names}


async def in_redis(url: str) -> bytes:
    client: Any = connect_redis(url)
    try:
        read = {b"hash": client.hgetall, b"stream": client.xrange, b"zset": lambda key: client.zrange(key, 0, -1)}
        kinds = {key: await client.type(key) for key in await client.keys("*")}
        return repr([(key, await read.get(kind, client.get)(key)) for key, kind in kinds.items()]).encode()
    finally:
        await client.aclose()


async def test_a_clients_address_is_stored_nowhere(site: Site, environment: Environment, tmp_path: Path) -> None:
    async with site.edge(edge_trusted_proxies="127.0.0.0/8") as edge:
        await report(edge, environment)
        registered = await in_redis(site.redis.url)
    disk = b"".join(path.read_bytes() for path in site.folder.glob("**/*") if path.is_file())
    warehouse = open_warehouse(None, tmp_path / "clickhouse")
    try:
        assert await Shipper(site.folder / "spool", warehouse).drain(30)
        stored = await tables(warehouse)
    finally:
        await warehouse.close()
    assert all(DEVICE.encode() in content for content in (registered, disk)), "the hunt sees what there is"
    assert {name for name, content in stored.items() if DEVICE.encode() in content} >= {"raw_events", "devices"}
    assert {name: found(content) for name, content in stored.items() if found(content)} == {}
    assert (found(disk), found(registered)) == ([], [])
