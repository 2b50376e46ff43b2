"""Every flood does what it claims, and is answered as its case expects; what was seen beside it becomes a table."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.edge.__main__ import write
from bench.edge.cores import Cores
from bench.edge.counters import Counter, read_counter
from bench.edge.flood_report import render_floods
from bench.edge.flooding import Beside, Flooding, Turn, ordinary, turn
from bench.edge.floods import FLOODS, Flood, check, long_head, longest_head, many_checks, too_long_head, unknown_key
from bench.edge.measuring import Bench, etag_of
from bench.edge.openloop import Asked, Flooded, Latencies, Seen, run_beside
from bench.edge.peers import PEERS
from bench.edge.probe import WrongAnswer
from bench.edge.report import Results
from bench.edge.residence import forget_peak, peak_resident, resident
from bench.edge.servers import Server
from bench.edge.site import Site
from edge.connections import MAX_FIELD_BYTES, MAX_HEADERS
from tests.bench.conftest import row
from tests.components import require

# More than the edge reads bodies at once, and below what a process may commonly have open.
MOST_CONNECTIONS = 400
RATE = 500
# A machine that is busy with other things may not have come to what a counter shows after the first.
LENGTHS = (0.12, 1.0, 4.0)


@pytest.fixture(scope="module")
def bench(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    require("cc")
    folder = tmp_path_factory.mktemp("bench")
    return Bench(site, folder, Cores(0, 1), rounds=1, seconds=1, deadline=0.0, say=lambda _: None)


@pytest.fixture(scope="module")
def servers(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    require("nginx")
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(PEERS[name](site, tmp_path_factory.mktemp(name), None))
            for name in ("nginx", "edge")
        }


def few(flood: Flood) -> Flood:
    """Return a flood over fewer connections."""
    return replace(flood, connections=min(flood.connections, MOST_CONNECTIONS))


def named(name: str) -> Flood:
    return next(flood for flood in FLOODS if flood.name == name)


def tried(bench: Bench, server: Server, flood: Flood, seconds: float) -> Turn:
    """Load a server for a moment beside the flood."""
    asked = replace(ordinary(bench.site, server), rate=RATE, warm=0.05)
    etag = etag_of(bench.site, server)
    return turn(bench, server, flood, asked, seconds, flood.arguments(bench.site, etag, server.name, bench.folder))


@pytest.mark.parametrize("peer", ["edge", "nginx"])
@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.name)
def test_each_flood_comes_is_answered_as_expected_and_shown_by_its_counter(
    bench: Bench, servers: dict[str, Server], flood: Flood, peer: str
) -> None:
    for seconds in LENGTHS:
        seen = tried(bench, servers[peer], few(flood), seconds)
        assert seen.seen.wrong == 0
        assert seen.seen.flood is not None
        assert seen.seen.flood.requests > 0
        if peer not in flood.answers:
            assert seen.seen.flood.answers == 0
        answered = peer not in flood.answers or seen.seen.flood.answers > 0
        if answered and (peer == "nginx" or seen.counted):
            return
    pytest.fail(f"nothing answers, or {flood.counter} does not tell of it")


def test_a_flood_that_is_answered_otherwise_ends_the_run(bench: Bench, servers: dict[str, Server]) -> None:
    other = replace(named("unknown-keys"), answers={"edge": "304"})
    with pytest.raises(WrongAnswer, match="unknown-keys"):
        tried(bench, servers["edge"], other, 0.2)


def test_heads_are_just_below_and_above_the_bounds(site: Site) -> None:
    for template, most in ((long_head, MAX_FIELD_BYTES), (longest_head, MAX_FIELD_BYTES), (too_long_head, 1 << 16)):
        lines = template(site, '"tag"').split(b"\r\n")
        assert max(map(len, lines)) < most
        assert len(lines) - len([b"GET", b"", b""]) < MAX_HEADERS
    assert max(map(len, too_long_head(site, '"tag"').split(b"\r\n"))) > MAX_FIELD_BYTES
    # nginx has four buffers of 8 KiB, and no line goes over the end of one.
    assert len(long_head(site, '"tag"')) < 3 * 8192


async def recorded(program: Path, flood: Flood, site: Site, folder: Path) -> list[bytes]:
    """Return what each connection of a flood sent to a server that answers everything it takes for a head."""
    heard: list[bytearray] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(said := bytearray())
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                said += data
                writer.write(b"HTTP/1.1 304 Not Modified\r\n\r\n" * data.count(b"\r\n\r\n"))
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    asked = Asked(port, b"GET /ordinary HTTP/1.1\r\n\r\n", 29, "HTTP/1.1 304", 100, connections=4, warm=0.05)
    arguments = flood.arguments(site, '"tag"', "edge", folder)
    seen = await asyncio.to_thread(run_beside, program, asked, 0.3, arguments)
    assert seen.wrong == 0
    server.close()
    # Connections of the ordinary load that are not needed say nothing, as some of a flood's do.
    return [bytes(said) for said in heard if said and not said.startswith(b"GET /ordinary")]


async def test_no_key_comes_twice(bench: Bench, site: Site, tmp_path: Path) -> None:
    flood = replace(named("unknown-keys"), rate=1_000)
    said = b"".join(await recorded(bench.generator, flood, site, tmp_path))
    keys = re.findall(rb"/v2/environments/(\S+)/manifest", said)
    assert len(keys) > 20
    assert len(set(keys)) == len(keys)
    assert b"#" not in said


async def test_of_what_drips_a_byte_comes_at_a_time(bench: Bench, site: Site, tmp_path: Path) -> None:
    flood = replace(named("slow-heads"), connections=5, rate=50)
    begun = flood.template(site, "")
    said = await recorded(bench.generator, flood, site, tmp_path)
    assert len(said) == 5
    assert {one[: len(begun)] for one in said} == {begun}
    assert {one[len(begun) :].strip(b"x") for one in said} == {b""}
    assert 1 <= max(len(one) for one in said) - len(begun) <= 5


async def test_who_vanishes_has_said_half_or_all_when_it_said_anything(
    bench: Bench, site: Site, tmp_path: Path
) -> None:
    flood = replace(named("vanish"), connections=6, rate=100)
    whole = check(site, '"tag"')
    said = await recorded(bench.generator, flood, site, tmp_path)
    assert set(said) == {whole[: len(whole) // 2], whole}


def test_hundreds_of_checks_are_one_write(site: Site) -> None:
    assert many_checks(site, "").count(b"GET ") == 400
    assert unknown_key(site, "").count(b"GET ") == 1


def test_a_counter_is_read_by_name_and_labels(servers: dict[str, Server]) -> None:
    metrics = servers["edge"].metrics
    assert metrics is not None
    assert read_counter(metrics, Counter("skafos_edge_checks_total", {"status": "200"})) > 0
    assert read_counter(metrics, Counter("skafos_edge_checks_total", {"status": "none"})) == 0
    with pytest.raises(WrongAnswer, match="no_such_total"):
        read_counter(metrics, Counter("no_such_total"))


def test_the_most_memory_is_what_there_was_since_it_was_forgotten(servers: dict[str, Server]) -> None:
    pid = servers["nginx"].pid
    forget_peak(pid)
    assert 0 < resident(pid) <= peak_resident(pid) + (1 << 20)


def latencies(p99: float) -> Latencies:
    return Latencies(10_000, p99 / 2, p99, 2 * p99, 3, 6_000)


def one_round(quiet: float, flooded: float, counted: float | None, wrong: int = 0) -> Beside:
    sent = Flooded(2_000, 0, 64, 2_200, 2_200, 0, 0, 1)
    return Beside(
        Turn(Seen(latencies(quiet), 0, None), 0.5, 0.1, 0, None),
        Turn(Seen(latencies(flooded), wrong, sent), 1.1, 0.3, 12_500_000, counted),
    )


def test_a_row_tells_percentiles_alone_and_beside_the_flood_and_where_it_is_counted() -> None:
    rounds = {
        "nginx": [one_round(100, 200, None), one_round(100, 400, None)],
        "edge": [one_round(50, 100, 30), one_round(50, 600, 40)],
    }
    text = render_floods([Flooding(named("unknown-keys"), rounds, {})], "preface")
    ours = row(text, "| edge |")
    assert text.startswith("preface 10,000 checks per second over 64 connections")
    assert "| 2,000 | 25 → 175 µs (7.0) | 50 → 350 µs (7.0) | 100 → 700 µs (7.0) | 1.00 (0.50 to 1.50) |" in ours
    assert ours.endswith('| 3 → 3 µs | 0 | +12.5 MB | 10% → 30% | `skafos_edge_checks_total{status="404"}` + 35 |')
    assert row(text, "| nginx |").endswith("| +12.5 MB | 10% → 30% |  |")


def test_wrong_answers_and_missing_peers_are_told() -> None:
    rounds = {"edge": [one_round(50, 100, 30, wrong=3)]}
    text = render_floods([Flooding(named("vanish"), rounds, {"nginx": "nginx is not installed"})], "")
    assert "| **3** |" in row(text, "| edge |")
    assert "- Left out: nginx, nginx is not installed." in text


def test_without_floods_there_is_no_table() -> None:
    assert render_floods([], "preface") == ""


def test_only_what_was_measured_is_written_into_the_documents(tmp_path: Path) -> None:
    marks = {name: f"<!-- {name}: begin -->\nold\n<!-- {name}: end -->\n" for name in ("edge figures", "flood figures")}
    performance, capacity = tmp_path / "performance.md", tmp_path / "capacity.md"
    performance.write_text("".join(marks.values()))
    capacity.write_text("<!-- capacity figures: begin -->\nold\n<!-- capacity figures: end -->\n")
    write(tmp_path, "", "floods", Results())
    assert performance.read_text() == marks["edge figures"] + marks["flood figures"].replace("old", "floods")
    assert "old" in capacity.read_text()
    write(tmp_path, "rates", "", Results())
    assert performance.read_text() == "".join(
        (marks["edge figures"].replace("old", "rates"), marks["flood figures"].replace("old", "floods"))
    )
    assert "old" not in capacity.read_text()
