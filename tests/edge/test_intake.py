"""What devices tell: events become durable in the spool, registrations arrive in the stream; bounds hold."""

from __future__ import annotations

import gzip
import json
import uuid
import zlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import zstandard

from edge.intake import MAX_DEVICE_BYTES
from manifests.redis_client import connect_redis
from telemetry.events import MAX_EVENTS_PER_BATCH
from telemetry.registrations import Registration, Registrations
from telemetry.segment import Record, decode_segment
from telemetry.spool import EventLabels
from tests.edge.raw import connect, raw, read_answer, request
from tests.edge.site import Edge, Environment, Site, metric

MIB = 1024 * 1024


@pytest_asyncio.fixture
async def environment(site: Site) -> Environment:
    made = Environment()
    await site.publish(made)
    return made


@pytest_asyncio.fixture
async def edge(site: Site, environment: Environment) -> AsyncIterator[Edge]:
    async with site.edge() as running:
        yield running


def event(**changes: Any) -> dict[str, Any]:
    given = {"event_id": str(uuid.uuid4()), "type": "check", "occurred_at": "2026-01-02T03:04:05Z", "device_id": "d-1"}
    return {**given, "model": "digits", "version": 3, **changes}


def events_path(environment: Environment) -> str:
    return f"/v2/environments/{environment.key}/events"


def spooled(folder: Path) -> list[Record]:
    """Return every record in the closed segments."""
    return [
        record for path in sorted(folder.glob("**/*.ready")) for record in decode_segment(path.read_bytes()).records
    ]


async def stored(site: Site, environment: Environment, **post: Any) -> list[Record]:
    """Post to an edge of its own, and return what its spool holds after its orderly end."""
    async with site.edge() as edge:
        answer = await edge.ask("POST", events_path(environment), **post)
        assert answer.status == 202, answer.body
    return spooled(site.folder / "spool")


# --- events ---


async def test_an_accepted_batch_is_in_the_spool_with_its_labels(site: Site, environment: Environment) -> None:
    batch = [event(), event(type="activate")]
    before = datetime.now(UTC).timestamp() * 1000
    (record,) = await stored(site, environment, json=batch)
    assert json.loads(record.events) == batch
    assert record.labels == EventLabels("org-1", "Acme", "app-1", "Camera", "prod")
    assert before - 1000 <= record.received_ms <= datetime.now(UTC).timestamp() * 1000 + 1000


def packed(body: bytes, encoding: str) -> bytes:
    if encoding in ("", "identity"):
        return body
    return zstandard.compress(body) if encoding == "zstd" else gzip.compress(body)


@pytest.mark.parametrize("encoding", ["zstd", "gzip", "x-gzip", "GZIP", "identity", ""])
@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
async def test_every_encoding_and_both_forms_are_read(
    edge: Edge, environment: Environment, encoding: str, kind: str
) -> None:
    batch = [event(), event()]
    text = json.dumps(batch) if kind == "application/json" else "\n".join(map(json.dumps, batch)) + "\n"
    headers = {"Content-Type": kind, **({"Content-Encoding": encoding} if encoding else {})}
    answer = await edge.ask("POST", events_path(environment), data=packed(text.encode(), encoding), headers=headers)
    assert (answer.status, answer.json()) == (202, {"accepted": 2, "refused": [], "refused_count": 0})


async def test_one_bad_event_is_refused_alone_with_its_place_and_reason(site: Site, environment: Environment) -> None:
    good = event()
    before = metric("skafos_edge_events_refused_total", reason="version")
    async with site.edge() as edge:
        batch = [event(event_id="no uuid"), good, event(version=-1), "text", event(device_id="x" * 65)]
        answer = await edge.ask("POST", events_path(environment), json=batch)
    assert answer.status == 202
    told = answer.json()
    assert told["accepted"] == 1
    assert [one["index"] for one in told["refused"]] == [0, 2, 3, 4]
    assert all(one["reason"] for one in told["refused"])
    assert told["refused_count"] == 4
    assert metric("skafos_edge_events_refused_total", reason="version") == before + 1
    (record,) = spooled(site.folder / "spool")
    assert json.loads(record.events) == [good]


async def test_a_batch_without_any_good_event_is_answered_and_not_stored(site: Site, environment: Environment) -> None:
    for batch in ([], [1, 2]):
        assert await stored(site, environment, json=batch) == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_batch"),
        (b"{}", 202, None),
        (b"[", 400, "invalid_batch"),
        (b"null", 400, "invalid_batch"),
        (b'"text"', 400, "invalid_batch"),
        (b"[1,2", 400, "invalid_batch"),
        (b"[" * 100_000, 400, "invalid_batch"),
        (b"\xff\xfe\xfd", 400, "invalid_batch"),
        (b'["\xff"]', 202, None),
        (b'["\\ud800"]', 202, None),
        (b"\x00" * 100, 400, "invalid_batch"),
        (b"[]" + b" " * 3 * MIB, 413, "too_large"),
        (b"[" + b"1," * MAX_EVENTS_PER_BATCH + b"1]", 413, "batch_too_large"),
        (b"<xml/>", 400, "invalid_batch"),
    ],
)
async def test_a_body_that_is_no_batch_is_a_clear_error(
    edge: Edge, environment: Environment, body: bytes, status: int, code: str | None
) -> None:
    answer = await edge.ask("POST", events_path(environment), data=body, headers={"Content-Type": "application/json"})
    if body == b"{}":
        assert (answer.status, answer.json()["code"]) == (400, "invalid_batch")
    elif code is None:
        assert answer.status in (202, 400)
        assert answer.json().get("accepted", 0) == 0
    else:
        assert (answer.status, answer.json()["code"]) == (status, code)


# --- encodings and bounds ---


def bomb(pack: str) -> bytes:
    """Return a body of a few KiB that unpacks to 256 MiB."""
    if pack == "zstd":
        return zstandard.compress(b"\0" * 256 * MIB)
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(b"\0" * 256 * MIB) + packer.flush()


@pytest.mark.parametrize("encoding", ["zstd", "gzip"])
async def test_a_bomb_is_413_and_never_unpacked(edge: Edge, environment: Environment, encoding: str) -> None:
    answer = await edge.ask(
        "POST", events_path(environment), data=bomb(encoding), headers={"Content-Encoding": encoding}
    )
    assert (answer.status, answer.json()["code"]) == (413, "too_large")


def gzipped(body: bytes) -> bytes:
    """Pack ``body`` without the time of day, so that a test has the same name in every process."""
    return gzip.compress(body, mtime=0)


ZSTD = zstandard.compress(b"[]")
GZIP = gzipped(b"[]")


@pytest.mark.parametrize(
    ("encoding", "body", "status", "code"),
    [
        ("zstd", b"[]", 400, "bad_encoding"),
        ("zstd", b"", 400, "bad_encoding"),
        ("zstd", ZSTD[:-1], 400, "bad_encoding"),
        ("zstd", ZSTD + b"x", 400, "bad_encoding"),
        ("zstd", ZSTD + ZSTD, 400, "bad_encoding"),
        ("zstd", ZSTD + b"x" * 1000, 400, "bad_encoding"),
        ("gzip", b"[]", 400, "bad_encoding"),
        ("gzip", b"", 400, "bad_encoding"),
        ("gzip", GZIP[:-1], 400, "bad_encoding"),
        ("gzip", GZIP + b"x", 400, "bad_encoding"),
        ("gzip", gzipped(b"") * 100 + GZIP, 400, "bad_encoding"),
        ("gzip", gzipped(b"[") + gzipped(b"]"), 202, None),
        ("br", b"[]", 415, "unsupported_encoding"),
        ("deflate", zlib.compress(b"[]"), 415, "unsupported_encoding"),
        ("gzip, zstd", b"[]", 415, "unsupported_encoding"),
        ("identity, gzip", GZIP, 202, None),
        ("\x01", b"[]", 400, "malformed"),
    ],
)
async def test_an_encoding_that_is_not_kept_is_a_clear_error(
    edge: Edge, environment: Environment, encoding: str, body: bytes, status: int, code: str | None
) -> None:
    fields = (f"Content-Encoding: {encoding}", f"Content-Length: {len(body)}")
    answer = await raw(edge, request("POST", events_path(environment), *fields) + body)
    assert answer.status == status
    if code is not None:
        assert answer.json()["code"] == code
    if status == 415:
        assert "zstd" in answer.fields["accept-encoding"]


async def test_a_zstd_window_beyond_the_bound_is_refused(edge: Edge, environment: Environment) -> None:
    # RFC 8878 section 3.1.1: magic, a header without content size, a window of 2^(10+16) bytes, one raw last block.
    body = bytes.fromhex("28b52ffd 00 80 110000") + b"[]"
    answer = await edge.ask("POST", events_path(environment), data=body, headers={"Content-Encoding": "zstd"})
    assert (answer.status, answer.json()["code"]) == (400, "bad_encoding")


async def test_a_zstd_window_at_the_bound_is_read(edge: Edge, environment: Environment) -> None:
    body = bytes.fromhex("28b52ffd 00 68 110000") + b"[]"
    answer = await edge.ask("POST", events_path(environment), data=body, headers={"Content-Encoding": "zstd"})
    assert answer.status == 202


async def test_a_body_over_the_bound_is_refused_before_it_is_read(edge: Edge, environment: Environment) -> None:
    answer = await raw(edge, request("POST", events_path(environment), "Content-Length: 99999999999"))
    assert (answer.status, answer.json()["code"]) == (413, "too_large")


async def test_a_chunked_body_is_bounded_too(edge: Edge, environment: Environment) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 65_536

    answer = await edge.ask("POST", events_path(environment), data=endless())
    assert answer.status == 413


async def test_a_body_that_does_not_arrive_is_408(site: Site, environment: Environment) -> None:
    async with site.edge(edge_body_seconds=0.1) as edge:
        answer = await raw(edge, request("POST", events_path(environment), "Content-Length: 10") + b"[")
        assert (answer.status, answer.json()["code"]) == (408, "timeout")


async def test_more_posts_than_the_bound_are_429_and_the_place_is_given_back(
    site: Site, environment: Environment
) -> None:
    async with site.edge(edge_max_posts=1, edge_body_seconds=0.5) as edge:
        reader, writer = await connect(edge)
        writer.write(request("POST", events_path(environment), "Content-Length: 10", "Expect: 100-continue"))
        assert (await read_answer(reader)).status == 100
        refused = await edge.ask("POST", events_path(environment), json=[])
        assert (refused.status, refused.json()["code"]) == (429, "busy")
        assert int(refused.headers["Retry-After"]) > 0
        assert (await read_answer(reader)).status == 408
        assert (await edge.ask("POST", events_path(environment), json=[])).status == 202
        writer.close()


async def test_a_full_spool_is_503_and_keeps_nothing(site: Site, environment: Environment) -> None:
    async with site.edge(spool_max_bytes=200) as edge:
        answer = await edge.ask("POST", events_path(environment), json=[event()])
        assert (answer.status, answer.json()["code"]) == (503, "spool_full")
        assert int(answer.headers["Retry-After"]) > 0
    assert spooled(site.folder / "spool") == []


# --- registrations ---


def device_path(environment: Environment, device_id: str = "d-1") -> str:
    return f"/v2/environments/{environment.key}/devices/{device_id}"


async def registrations(site: Site) -> list[Registration]:
    client: Any = connect_redis(site.redis.url)
    try:
        async for delivery in Registrations(client).consume("test", "test"):
            return list(delivery.registrations)
    finally:
        await client.aclose()
    return []


async def test_a_registration_arrives_in_the_stream(site: Site, edge: Edge, environment: Environment) -> None:
    body = {"facts": {"os": "iOS", "os_version": "17.4"}, "push_token": "abc123", "push_service": "apns", "new": 1}
    before = metric("skafos_edge_registrations_total", outcome="accepted")
    answer = await edge.ask("PUT", device_path(environment, "A-b_c.1:2"), json=body)
    assert (answer.status, answer.json()) == (202, {"registered": "A-b_c.1:2"})
    assert metric("skafos_edge_registrations_total", outcome="accepted") == before + 1
    (told,) = await registrations(site)
    assert told.device_id == "A-b_c.1:2"
    assert told.environment_id == "env-1"
    assert told.key == environment.key
    assert told.facts == {"os": "iOS", "os_version": "17.4"}
    assert (told.push_token, told.push_service) == ("abc123", "apns")


async def test_a_registration_may_be_empty_encoded_and_repeated(edge: Edge, environment: Environment) -> None:
    for body in (b"{}", b"{}", b'{"facts":{},"push_token":null}'):
        assert (await edge.ask("PUT", device_path(environment), data=body)).status == 202
    packed = {"Content-Encoding": "zstd"}
    assert (
        await edge.ask("PUT", device_path(environment), data=zstandard.compress(b"{}"), headers=packed)
    ).status == 202


async def test_a_registration_has_a_bound_of_its_own(edge: Edge, environment: Environment) -> None:
    def of(size: int) -> bytes:
        return b'{"later":"' + b"x" * (size - 12) + b'"}'

    assert (await edge.ask("PUT", device_path(environment), data=of(MAX_DEVICE_BYTES))).status == 202
    for body, encoding in ((of(MAX_DEVICE_BYTES + 1), "identity"), (gzip.compress(of(1_000_000)), "gzip")):
        answer = await edge.ask("PUT", device_path(environment), data=body, headers={"Content-Encoding": encoding})
        assert (answer.status, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"facts":[]}',
        b'{"facts":{"os":1}}',
        b'{"facts":{"os":null}}',
        b'{"facts":{"OS":"x"}}',
        b'{"facts":{"":"x"}}',
        b'{"facts":{"os":"a\\u0000b"}}',
        b'{"facts":{"os":"a\\nb"}}',
        b'{"facts":{"os":"\xff"}}',
        b'{"facts":{"os":"' + b"x" * 101 + b'"}}',
        json.dumps({"facts": {f"fact{n}": "x" for n in range(17)}}).encode(),
        b'{"push_token":1}',
        b'{"push_token":""}',
        b'{"push_token":"a b"}',
        b'{"push_token":"' + b"a" * 513 + b'"}',
        b'{"push_service":"APNS"}',
        b'{"push_service":"abcdefghijklmnopq"}',
        b'{"facts":' * 5_000,
    ],
)
async def test_a_registration_that_is_not_by_the_rules_is_400(
    edge: Edge, environment: Environment, body: bytes
) -> None:
    answer = await edge.ask("PUT", device_path(environment), data=body)
    assert (answer.status, answer.json()["code"]) == (400, "invalid_device")
    assert len(answer.body) < 1000


@pytest.mark.parametrize(
    "device_id", ["x" * 65, "a%20b", "a%2Fb", "%00", "%0a", "a%0a", "%ff", "é", "%C3%A9", "a@b", "%"]
)
async def test_what_is_no_device_id_is_400(edge: Edge, environment: Environment, device_id: str) -> None:
    answer = await raw(edge, request("PUT", device_path(environment, device_id), body=b"{}"))
    assert answer.status == 400
    assert answer.json()["code"] in ("invalid_device_id", "malformed")


async def test_without_redis_a_registration_is_503_and_events_are_still_taken(
    site: Site, edge: Edge, environment: Environment
) -> None:
    site.redis.stop()
    answer = await edge.ask("PUT", device_path(environment), json={})
    assert (answer.status, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert (await edge.ask("POST", events_path(environment), json=[event()])).status == 202
    site.redis.start()
    assert (await edge.ask("PUT", device_path(environment), json={})).status == 202
