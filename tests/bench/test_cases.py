"""Every case asks what the edge answers as expected: checked with real servers, without a load."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.edge.__main__ import choose
from bench.edge.cases import DEFAULT, DOWNLOAD_CASES, NAMES, RATE_CASES, RateCase
from bench.edge.certificate import Certificate
from bench.edge.cores import Cores, TooFewCores, choose_cores
from bench.edge.downloads import download
from bench.edge.floods import FLOODS
from bench.edge.measuring import Bench
from bench.edge.nginx import configuration
from bench.edge.peers import PEERS
from bench.edge.probe import WrongAnswer, ask, request
from bench.edge.publishing import measure_publishing
from bench.edge.servers import NotStarted, Server, started
from bench.edge.site import BATCH_EVENTS, BLOB_BYTES, RANGE_BYTES, Site
from bench.edge.wrk import LUA


@pytest.fixture(scope="module")
def edge(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with PEERS["edge"](site, tmp_path_factory.mktemp("edge"), None) as server:
        yield server


def answered_as_expected(case: RateCase, site: Site, server: Server) -> None:
    etag = ask(server.address, request("GET", site.manifest_path)).header("ETag")
    asked = case.asking(site, etag, "w0")
    assert sum(share for share, _, _ in asked.examples) == pytest.approx(1)
    for _, sent, status in asked.examples:
        assert ask(server.address, sent).status == status
    assert (LUA / asked.script).is_file()


@pytest.mark.parametrize("case", RATE_CASES, ids=lambda case: case.name)
def test_the_edge_answers_each_case_as_it_expects(case: RateCase, site: Site, edge: Server) -> None:
    answered_as_expected(case, site, edge)


@pytest.mark.parametrize("case", [case for case in RATE_CASES if "aiohttp" in case.peers], ids=lambda case: case.name)
def test_the_plain_route_answers_like_the_edge(case: RateCase, site: Site, tmp_path: Path) -> None:
    with PEERS["aiohttp"](site, tmp_path, None) as server:
        answered_as_expected(case, site, server)
        assert ask(server.address, request("GET", site.manifest_path)).body == site.manifest


def test_the_manifest_has_about_two_kilobytes_and_a_batch_twenty_events(site: Site) -> None:
    assert 1_800 <= len(site.manifest) <= 2_300
    assert len(json.loads(site.events_json.read_text())) == BATCH_EVENTS
    assert len(site.events_ndjson.read_text().splitlines()) == BATCH_EVENTS


@pytest.mark.parametrize("case", DOWNLOAD_CASES, ids=lambda case: case.name)
def test_downloads_count_what_the_edge_sends(case: object, site: Site, edge: Server) -> None:
    part = getattr(case, "range")  # noqa: B009
    assert len(ask(edge.address, request("GET", site.blob_path)).body) == BLOB_BYTES
    asked = request("GET", site.blob_path, {"Range": part} if part else {})
    counted = download(edge.address[1], asked, 206 if part else 200, connections=2, seconds=0.5, server=edge.pid)
    assert counted.received >= counted.answers * (RANGE_BYTES if part else BLOB_BYTES)
    assert counted.received > 0


def test_a_download_that_is_answered_otherwise_ends_the_run(site: Site, edge: Server) -> None:
    asked = request("GET", site.blob_path, {"Range": "bytes=99999999-"})
    with pytest.raises(WrongAnswer, match="416"):
        download(edge.address[1], asked, 206, connections=1, seconds=5, server=edge.pid)


def test_a_publication_is_waited_for_on_all_workers(site: Site, tmp_path: Path) -> None:
    assert len(measure_publishing(site, tmp_path, publications=2)) == 2


def test_a_server_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    with (
        pytest.raises(NotStarted, match="No module named no_such_module"),
        started(["python3", "-m", "no_such_module"], tmp_path / "log", lambda _: False),
    ):
        pass


def test_nginx_is_tuned_as_the_documents_say(tmp_path: Path) -> None:
    plain = configuration(tmp_path, tmp_path, 8080, None)
    for line in ("worker_processes 1;", "sendfile on;", "open_file_cache ", "access_log off;"):
        assert line in plain
    assert "tcp_nopush on" in plain.partition("location /v2/artifacts/")[2]
    assert "tcp_nopush" not in plain.partition("location /v2/artifacts/")[0]
    assert "ssl" not in plain
    encrypted = configuration(tmp_path, tmp_path, 8443, Certificate(tmp_path / "c.pem", tmp_path / "k.pem"))
    assert f"ssl_certificate {tmp_path}/c.pem;" in encrypted


def test_load_and_server_have_a_core_each() -> None:
    assert choose_cores(frozenset({0, 1, 2, 3})) == Cores(load=0, server=3)
    with pytest.raises(TooFewCores):
        choose_cores(frozenset({0}))


def test_cases_run_in_their_order_and_locust_only_when_it_is_asked_for() -> None:
    assert choose("") == list(DEFAULT)
    assert choose("memory, 304-64") == ["304-64", "memory"]
    assert set(NAMES) - set(DEFAULT) == {"locust"}


def test_a_group_stands_for_its_cases() -> None:
    floods = [flood.name for flood in FLOODS]
    assert choose("floods latency") == ["latency", *floods]
    assert choose(f"floods {floods[0]}") == floods


def test_a_case_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="305"):
        choose("304-64 305")


def test_after_the_deadline_every_case_still_has_a_round_and_the_cut_is_told(site: Site, tmp_path: Path) -> None:
    bench = Bench(site, tmp_path, Cores(0, 1), rounds=5, seconds=1, deadline=0.0, say=lambda _: None)
    assert list(bench.turns("304")) == [0]
    assert bench.cut == [("304", 1)]


def test_a_case_may_have_fewer_rounds_than_others(site: Site, tmp_path: Path) -> None:
    bench = Bench(site, tmp_path, Cores(0, 1), rounds=5, seconds=1, deadline=math.inf, say=lambda _: None)
    assert list(bench.turns("floods", 2)) == [0, 1]
    assert list(bench.turns("floods", 9)) == [0, 1, 2, 3, 4]
    assert bench.cut == []
