"""The real nginx, as ``deploy/`` sets it up, before real edges: what it caches, what it passes on, and whose it is."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from artifacts.archive import archive_directory
from bench.edge.certificate import Certificate
from edge.connections import MAX_FIELD_BYTES
from edge.settings import EdgeSettings
from skafos.device import DeviceClient
from tests.deploy.behind import BLOB, BLOB_PATH, CLIENT, Behind, Start, behind, reached, revalidations
from tests.edge.rfc9842 import Client
from tests.edge.site import Edge, Environment, Site, eventually, metric, release_of
from tests.edge.test_dictionary import holding
from tests.edge.test_intake import event
from tests.edge.versions import Versions, successor
from tests.servers.proxies import DEPLOY, running_nginx

SLICE = 4 * 1024 * 1024
IMMUTABLE = "public, max-age=31536000, immutable"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "nginx"
    made.mkdir()
    return made


@pytest_asyncio.fixture
async def nginx(site: Site, folder: Path) -> AsyncIterator[Behind]:
    """nginx with edges whose manifests are fresh for as long as by default."""
    async with behind(site, starter(folder)) as running:
        yield running


@pytest_asyncio.fixture
async def hasty(site: Site, folder: Path) -> AsyncIterator[Behind]:
    """nginx with edges whose manifests are fresh for a second."""
    async with behind(site, starter(folder), manifest_max_age_seconds=1) as running:
        yield running


def starter(folder: Path) -> Start:
    def start(edges: list[Edge], certificate: Certificate) -> AbstractContextManager[str]:
        return running_nginx(folder, [edge.running.listen for edge in edges], certificate)

    return start


async def test_a_manifest_reaches_the_edge_once_and_is_answered_with_200_and_304(nginx: Behind) -> None:
    direct = await nginx.edges[0].get(nginx.manifest)
    before = reached("manifest")
    first = await nginx.get(nginx.manifest)
    assert (first.status, first.body) == (200, direct.body)
    assert first.headers["ETag"] == direct.headers["ETag"]
    assert first.headers["Cache-Control"] == direct.headers["Cache-Control"]
    for _ in range(3):
        again = await nginx.get(nginx.manifest, If_None_Match=first.headers["ETag"])
        assert (again.status, again.body) == (304, b"")
        assert again.headers["ETag"] == first.headers["ETag"]
    assert (await nginx.get(nginx.manifest, If_None_Match='"other"')).body == first.body
    assert (await nginx.ask("HEAD", nginx.manifest)).status == 200
    assert (await nginx.get(nginx.manifest, Accept_Encoding="gzip")).body == first.body
    assert reached("manifest") == before + 1


async def test_all_who_ask_first_are_answered_by_one_request_to_the_edge(nginx: Behind) -> None:
    before = reached("manifest"), reached("artifact")
    answers = await asyncio.gather(*(nginx.get(nginx.manifest) for _ in range(40)))
    assert {answer.status for answer in answers} == {200}
    parts = await asyncio.gather(*(nginx.get(BLOB_PATH, Range="bytes=5-104") for _ in range(40)))
    assert {answer.body for answer in parts} == {BLOB[5:105]}
    assert (reached("manifest"), reached("artifact")) == (before[0] + 1, before[1] + 1)


async def test_what_is_no_longer_fresh_is_revalidated_and_a_new_manifest_comes_through(hasty: Behind) -> None:
    first = await hasty.get(hasty.manifest)
    before = revalidations()

    async def revalidated() -> bool:
        assert (await hasty.get(hasty.manifest)).body == first.body
        return revalidations() > before

    await eventually(revalidated)
    await hasty.site.publish(hasty.environment, release_of(b"another"))

    async def renewed() -> bool:
        answer = await hasty.get(hasty.manifest, If_None_Match=first.headers["ETag"])
        return answer.status == 200 and answer.body != first.body

    await eventually(renewed)


async def test_what_was_cached_is_served_on_while_all_edges_are_away(hasty: Behind) -> None:
    manifest, blob = await hasty.get(hasty.manifest), await hasty.get(BLOB_PATH)
    assert blob.body == BLOB
    await hasty.stop_all()
    await asyncio.sleep(2)  # so that the manifest is no longer fresh
    stale = await hasty.get(hasty.manifest)
    assert (stale.status, stale.body) == (200, manifest.body)
    assert (await hasty.get(hasty.manifest, If_None_Match=manifest.headers["ETag"])).status == 304
    assert (await hasty.get(BLOB_PATH, Range="bytes=9000000-")).body == BLOB[9_000_000:]
    assert (await hasty.ask("POST", hasty.events, json=[event()])).status == 502


async def test_one_edge_that_ends_is_not_noticed(hasty: Behind) -> None:
    await hasty.get(hasty.manifest)
    await hasty.stop(0)
    for _ in range(6):
        assert (await hasty.ask("POST", hasty.events, json=[event()])).status == 202
    assert (await hasty.get(BLOB_PATH)).body == BLOB


async def test_a_blob_is_the_same_whole_and_in_ranges_and_is_cached_for_ever(nginx: Behind) -> None:
    before = reached("artifact")
    whole = await nginx.get(BLOB_PATH)
    assert (whole.status, whole.body) == (200, BLOB)
    slices = -(-len(BLOB) // SLICE)
    assert reached("artifact") == before + slices
    direct = await nginx.edges[0].ask("HEAD", BLOB_PATH)
    for name in ("ETag", "Last-Modified", "Cache-Control", "Content-Length", "X-Content-Type-Options"):
        assert whole.headers[name] == direct.headers[name], name
    assert whole.headers["Cache-Control"] == IMMUTABLE
    assert whole.headers["Accept-Ranges"] == "bytes"
    etag, length = whole.headers["ETag"], len(BLOB)
    reached_once = reached("artifact")
    for asked, first, last in [
        ("0-0", 0, 0),
        ("0-", 0, length - 1),
        (f"{SLICE - 1}-{SLICE}", SLICE - 1, SLICE),
        (f"{SLICE - 5}-{3 * SLICE + 5}", SLICE - 5, 3 * SLICE + 5),
        (f"{length - 1}-", length - 1, length - 1),
        (f"{length - 10}-{length + 10}", length - 10, length - 1),
        ("-7", length - 7, length - 1),
    ]:
        part = await nginx.get(BLOB_PATH, Range=f"bytes={asked}", If_Range=etag)
        assert (part.status, part.body) == (206, BLOB[first : last + 1]), asked
        assert part.headers["Content-Range"] == f"bytes {first}-{last}/{length}"
        assert (part.headers["ETag"], part.headers["Cache-Control"]) == (etag, IMMUTABLE)
    assert (await nginx.get(BLOB_PATH, Range="bytes=5-9", If_Range='"other"')).body == BLOB
    assert (await nginx.get(BLOB_PATH, Range="bytes=0-1,5-6")).body == BLOB
    head = await nginx.ask("HEAD", BLOB_PATH)
    assert (head.status, head.headers["Content-Length"]) == (200, str(length))
    assert reached("artifact") == reached_once
    assert (await nginx.get(BLOB_PATH, Range=f"bytes={length}-")).status == 416


async def test_a_download_that_goes_on_fetches_the_slices_that_it_needs(nginx: Behind) -> None:
    sent = metric("skafos_edge_sent_bytes_total")
    rest = await nginx.get(BLOB_PATH, Range=f"bytes={2 * SLICE + 5}-{3 * SLICE - 1}")
    assert rest.body == BLOB[2 * SLICE + 5 : 3 * SLICE]
    assert metric("skafos_edge_sent_bytes_total") == sent + SLICE


async def test_events_and_registrations_pass_each_time(nginx: Behind) -> None:
    device = f"/v2/environments/{nginx.environment.key}/devices/device-1"
    before = reached("events"), reached("device")
    for _ in range(2):
        told = await nginx.ask("POST", nginx.events, json=[event()])
        assert (told.status, told.json()["accepted"]) == (202, 1)
        registered = await nginx.ask("PUT", device, json={"facts": {"os": "ios"}})
        assert (registered.status, registered.json()) == (202, {"registered": "device-1"})
    assert (reached("events"), reached("device")) == (before[0] + 2, before[1] + 2)
    assert (await nginx.get(nginx.events)).status == 405


async def test_a_whole_device_is_kept_up_to_date_and_reports(hasty: Behind, tmp_path: Path) -> None:
    with (
        httpx.Client(verify=hasty.context) as http,
        DeviceClient(f"https://{hasty.address}", hasty.environment.key, tmp_path / "device", http=http) as device,
    ):
        for version in (1, 2):
            weights = random.Random(version).randbytes(6_000_000)
            source, archive = tmp_path / f"version-{version}", tmp_path / f"version-{version}.tar"
            source.mkdir()
            (source / "weights.bin").write_bytes(weights)
            archive_directory(source, archive)
            await hasty.site.put(archive.read_bytes())
            await hasty.site.publish(hasty.environment, release_of(archive.read_bytes(), version=version))
            before = reached("events")

            async def updated(version: int = version) -> bool:
                result = await asyncio.to_thread(device.sync, "digits")
                return result.version == version

            await eventually(updated)
            installed = await asyncio.to_thread(device.sync, "digits")
            assert installed.path is not None
            assert (installed.path / "weights.bin").read_bytes() == weights
            assert reached("events") > before


@pytest_asyncio.fixture
async def versions(nginx: Behind) -> Versions:
    """Three versions at the edges behind nginx."""
    first = random.Random(1).randbytes(300_000)
    second = successor(first, 2)
    made = Versions(nginx.site, nginx.environment, (first, second, successor(second, 3)))
    await made.publish()

    async def served() -> bool:
        answers = [await edge.ask("HEAD", made.path(3)) for edge in nginx.edges]
        return {answer.status for answer in answers} == {200}

    await eventually(served)
    return made


async def test_a_client_of_the_rfc_updates_through_nginx_and_each_answer_is_cached(
    nginx: Behind, versions: Versions
) -> None:
    before = reached("version")
    for _ in range(3):
        client = Client(lambda url, headers: nginx.ask("GET", url.removeprefix("https://edge"), headers=headers))
        got = [await client.get(f"https://edge{versions.path(number)}") for number in (1, 2, 3)]
        assert [each.coding for each in got] == ["identity", "dcz", "dcz"]
        assert [each.content for each in got] == list(versions.artifacts)
        assert [each.sent_bytes for each in got[1:]] == [40 + len(patch) for patch in versions.patches]
    assert reached("version") == before + 3
    direct = await nginx.edges[0].get(versions.path(2), headers=holding(versions.artifacts[0]))
    for name in ("ETag", "Vary", "Use-As-Dictionary", "Cache-Control", "Content-Encoding", "Content-Length"):
        assert got[1].response.headers[name] == direct.headers[name], name


async def test_no_client_gets_from_the_cache_what_it_cannot_decode(nginx: Behind, versions: Versions) -> None:
    first, second, _ = versions.artifacts
    path, before = versions.path(2), reached("version")
    patched = await nginx.ask("GET", path, headers=holding(first))
    assert patched.headers["Content-Encoding"] == "dcz"
    plain: list[Mapping[str, str]] = [
        {},
        {"Accept-Encoding": "gzip, deflate, br, zstd"},
        {"Accept-Encoding": "dcz"},
        holding(first, "gzip, br"),
        holding(first, "dcz;q=0"),
        holding(first, "dczx, x-dcz"),
        holding(first) | {"Available-Dictionary": "nonsense"},
        holding(first) | {"Available-Dictionary": ":" + "A" * 42 + "=:"},
        holding(first, Range="bytes=0-"),
    ]
    for fields in plain:
        answer = await nginx.ask("GET", path, headers=fields)
        assert (answer.body == second, "Content-Encoding" in answer.headers) == (True, False), fields
        assert answer.headers["Vary"] == "accept-encoding, available-dictionary"
    for codings in ("dcz", "gzip, deflate, br, zstd, dcb, dcz", "DCZ,br"):
        again = await nginx.ask("GET", path, headers=holding(first, codings))
        assert (again.body, again.headers["ETag"]) == (patched.body, patched.headers["ETag"])
    assert reached("version") == before + 2, "the patch, and the artifact that all the others have in common"


async def test_a_dictionary_that_does_not_help_takes_no_room_in_the_cache(
    nginx: Behind, versions: Versions, folder: Path
) -> None:
    def kept() -> int:
        return sum(path.stat().st_size for path in (folder / "skafos-blobs").rglob("*") if path.is_file())

    before, room = reached("version"), kept()
    for number in range(4):
        answer = await nginx.ask("GET", versions.path(2), headers=holding(f"made up {number // 2}".encode()))
        assert (answer.status, answer.body) == (200, versions.artifacts[1])
    assert (reached("version"), kept()) == (before + 4, room)


async def test_tags_and_ranges_of_both_representations_hold_through_nginx(nginx: Behind, versions: Versions) -> None:
    first, second, _ = versions.artifacts
    path = versions.path(2)
    plain, patched = await nginx.get(path), await nginx.ask("GET", path, headers=holding(first))
    tag = patched.headers["ETag"]
    assert plain.headers["ETag"] != tag
    held = await nginx.ask("GET", path, headers=holding(first, If_None_Match=tag))
    assert (held.status, held.headers["ETag"], held.headers["Vary"]) == (304, tag, plain.headers["Vary"])
    assert (await nginx.get(path, If_None_Match=plain.headers["ETag"])).status == 304
    assert (await nginx.get(path, If_None_Match=tag)).status == 200
    part = await nginx.ask("GET", path, headers=holding(first, Range="bytes=100-199"))
    assert (part.status, part.body, "Content-Encoding" in part.headers) == (206, second[100:200], False)
    resumed = await nginx.ask("GET", path, headers=holding(first, Range="bytes=30-99", If_Range=tag))
    assert (resumed.status, resumed.body) == (206, patched.body[30:100])
    assert resumed.headers["Content-Encoding"] == "dcz"
    other = await nginx.ask("GET", path, headers=holding(first, Range="bytes=30-", If_Range=plain.headers["ETag"]))
    assert (other.status, other.body) == (206, second[30:])


async def test_models_whose_names_are_encoded_pass_through(nginx: Behind) -> None:
    first = random.Random(1).randbytes(300_000)
    versions = Versions(nginx.site, nginx.environment, (first, successor(first, 2)), "Größe 50%")
    await versions.publish()

    async def served() -> bool:
        return (await nginx.get(versions.path(1))).status == 200

    await eventually(served)
    answer = await nginx.ask("GET", versions.path(2), headers=holding(first))
    assert (answer.headers["Content-Encoding"], len(answer.body)) == ("dcz", 40 + len(versions.patches[0]))


async def test_failures_are_not_cached(nginx: Behind) -> None:
    other = Environment([release_of(b"artifact")], seed=2)
    path, blob = f"/v2/environments/{other.key}/manifest", f"/v2/artifacts/{'0' * 64}"
    before = reached("artifact")
    for _ in range(2):
        assert ((await nginx.get(path)).status, (await nginx.get(blob)).status) == (404, 404)
    assert reached("artifact") == before + 2
    await nginx.site.publish(other)

    async def served() -> bool:
        return (await nginx.get(path)).status == 200

    await eventually(served)


async def test_no_spelling_of_a_path_puts_an_answer_under_another_name(nginx: Behind) -> None:
    other = Environment([release_of(b"artifact")], seed=2)
    await nginx.site.publish(other)
    direct = await nginx.edges[0].get(nginx.manifest)
    mine, theirs = nginx.environment.key, other.key
    for path in (
        f"/v2/environments/{theirs}/../{mine}/manifest",
        f"/v2/environments/{theirs}/%2e%2e/{mine}/manifest",
        f"/v2/environments/{mine}/manifest/../../{theirs}/manifest",
        f"/v2/environments/{mine}%2fmanifest",
        f"/v2/environments/{mine}/manifest%0a",
        f"/v2//environments/{mine}/manifest",
        f"/v2/environments/{mine}/manifest?other={theirs}",
        f"/v2/environments/{mine}/manifest%3fother",
        f"/v2/environments/{mine}/manifest;{theirs}",
        f"/v2/environments/{mine}/%6danifest",
    ):
        await nginx.get(path)
    assert (await nginx.get(nginx.manifest)).body == direct.body
    assert (await nginx.get(f"/v2/environments/{theirs}/manifest")).body != direct.body
    before = reached("manifest")
    for number in range(5):
        assert (await nginx.get(f"{nginx.manifest}?{number}")).body == direct.body
    assert reached("manifest") == before, "a query makes no place of its own in the cache"


async def test_the_edge_learns_whose_a_request_is_and_believes_no_client(nginx: Behind) -> None:
    with capture_logs() as logged:
        await nginx.get("/v2/artifacts/nonsense")
        await nginx.get("/v2/artifacts/nonsense", X_Forwarded_For="198.51.100.1")
        await nginx.ask("POST", nginx.events, data=b"nonsense")
    assert [line["client"] for line in logged if line["event"] == "refused"] == [CLIENT] * 3


async def test_huge_heads_and_bodies_are_refused_before_they_reach_the_edge(nginx: Behind) -> None:
    before = reached("manifest"), reached("events")
    assert (await nginx.get(nginx.manifest, X_Huge="x" * (MAX_FIELD_BYTES + 100))).status == 400
    many = {f"X-Field-{number}": "x" * 4000 for number in range(20)}
    assert (await nginx.ask("GET", nginx.manifest, headers=many)).status == 400
    assert (await nginx.ask("POST", nginx.events, data=b"x" * 2_100_000)).status == 413
    assert (reached("manifest"), reached("events")) == before
    largest = EdgeSettings.model_fields["edge_max_body_bytes"].default
    assert (await nginx.ask("POST", nginx.events, data=b"x" * largest)).status == 400


async def test_connections_to_the_edge_are_kept(nginx: Behind) -> None:
    for _ in range(30):
        assert (await nginx.ask("POST", nginx.events, json=[])).status == 202
    shown = (await nginx.edges[0].operations("/metrics")).body.decode()
    (kept,) = re.findall(r"^skafos_edge_connections (\S+)$", shown, re.MULTILINE)
    assert 0 < float(kept) <= 4, "two workers of nginx, a connection each to two edges at the most"


async def test_only_the_device_api_is_to_be_had_and_nobody_is_logged(nginx: Behind, folder: Path) -> None:
    for path in ("/", "/metrics", "/healthz", "/v1/environments"):
        assert (await nginx.get(path)).status == 404
    assert (
        "Server" not in (await nginx.get(nginx.manifest)).headers
        or "/" not in (await nginx.get(nginx.manifest)).headers["Server"]
    )
    assert (folder / "access.log").read_text() == ""


def test_the_bounds_are_the_edges_own() -> None:
    text = (DEPLOY / "nginx" / "skafos-edge.conf").read_text()
    assert EdgeSettings.model_fields["edge_max_body_bytes"].default == 2 * 1024 * 1024
    assert "client_max_body_size 2m;" in text
    (read,) = re.findall(r"proxy_read_timeout (\d+)s;", text)
    assert int(read) > EdgeSettings.model_fields["blob_wait_seconds"].default
    assert EdgeSettings.model_fields["edge_keepalive_seconds"].default > 60, "the time of nginx's idle connections"
