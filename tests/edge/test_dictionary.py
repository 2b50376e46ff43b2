"""Standard clients update by RFC 9842: which answer a request gets, and that it is right in every byte and field."""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
import random
import re
import ssl
import subprocess
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from bench.edge.certificate import make_certificate
from edge.dictionary import accepts_dcz, available_dictionary, is_decodable
from edge.offers import read_targets, release_of
from manifests.model import Encoding
from tests.components import require
from tests.edge.raw import connect, read_answer, request
from tests.edge.rfc9842 import Client
from tests.edge.site import Answer, Edge, Environment, Site, eventually, metric, sha256
from tests.edge.versions import Versions, patch_between, successor, version_release

FIRST = random.Random(1).randbytes(1_000_003)
SECOND = successor(FIRST, 2)
THIRD = successor(SECOND, 3, grown=70_000)
IMMUTABLE = "public, max-age=31536000, immutable"
MIB = 1024 * 1024


@pytest_asyncio.fixture
async def versions(site: Site) -> Versions:
    return await Versions(site, Environment(), (FIRST, SECOND, THIRD)).publish()


@pytest_asyncio.fixture
async def edge(site: Site, versions: Versions) -> AsyncIterator[Edge]:
    async with site.edge() as running:
        yield running


def holding(dictionary: bytes, codings: str = "gzip, deflate, br, zstd, dcb, dcz", **more: str) -> dict[str, str]:
    """Return the fields of a client that holds some bytes as a dictionary."""
    digest = base64.b64encode(bytes.fromhex(sha256(dictionary))).decode()
    fields = {name.replace("_", "-"): text for name, text in more.items()}
    return {"Accept-Encoding": codings, "Available-Dictionary": f":{digest}:", **fields}


def dcz(base: bytes, patch: bytes) -> bytes:
    return bytes.fromhex("5e2a4d1820000000" + sha256(base)) + patch


def is_plain(answer: Answer, content: bytes) -> bool:
    """Tell whether an answer is the artifact itself."""
    return (answer.status, answer.body) == (200, content) and "Content-Encoding" not in answer.headers


async def test_a_version_by_its_number_is_the_artifact_and_a_dictionary_for_the_others(
    edge: Edge, versions: Versions
) -> None:
    answer = await edge.get(versions.path(1))
    assert is_plain(answer, FIRST)
    assert answer.headers["Use-As-Dictionary"] == f'match="{versions.path("*")}"'
    assert answer.headers["ETag"] == f'"{sha256(FIRST)}"'
    assert answer.headers["Cache-Control"] == IMMUTABLE
    assert answer.headers["Vary"] == "accept-encoding, available-dictionary"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Last-Modified" not in answer.headers, "the representations would share it, and could be mixed by it"


async def test_a_client_by_the_rfc_goes_from_version_to_version_with_few_bytes(edge: Edge, versions: Versions) -> None:
    client = Client(lambda url, headers: edge.get(url.removeprefix(edge.url("")), headers=headers))
    before = {coding: metric("skafos_edge_versions_asked_total", coding=coding) for coding in ("dcz", "identity")}
    got = [await client.get(edge.url(versions.path(number))) for number in (1, 2, 3)]
    assert [each.content for each in got] == [FIRST, SECOND, THIRD]
    assert [each.coding for each in got] == ["identity", "dcz", "dcz"]
    assert got[1].sent_bytes == 40 + len(versions.patches[0]) < 2_000
    assert got[2].sent_bytes == 40 + len(versions.patches[1]) < 75_000
    assert got[1].response.headers["Use-As-Dictionary"] == got[0].response.headers["Use-As-Dictionary"]
    after = {coding: metric("skafos_edge_versions_asked_total", coding=coding) for coding in ("dcz", "identity")}
    assert after == {"dcz": before["dcz"] + 2, "identity": before["identity"] + 1}


async def test_debian_s_zstd_decodes_the_body_as_it_is(edge: Edge, versions: Versions, tmp_path: Path) -> None:
    answer = await edge.get(versions.path(2), headers=holding(FIRST))
    assert answer.headers["Content-Encoding"] == "dcz"
    (tmp_path / "first").write_bytes(FIRST)
    (tmp_path / "body").write_bytes(answer.body)
    options = ["-q", "-d", f"--patch-from={tmp_path / 'first'}", f"{tmp_path / 'body'}", "-o", f"{tmp_path / 'second'}"]
    await asyncio.to_thread(subprocess.check_call, [f"{require('zstd')}", *options])
    assert (tmp_path / "second").read_bytes() == SECOND


async def test_every_way_to_accept_dcz_gets_it(edge: Edge, versions: Versions) -> None:
    for codings in ("dcz", "DCZ", "gzip,dcz", "br;q=1.0 , dcz;q=0.001", "dcz; q=1", "identity, dcz", "*, dcz"):
        answer = await edge.get(versions.path(2), headers=holding(FIRST, codings))
        assert (answer.headers["Content-Encoding"], answer.body) == ("dcz", dcz(FIRST, versions.patches[0])), codings


async def test_whoever_cannot_decode_a_patch_gets_the_artifact(edge: Edge, versions: Versions) -> None:
    for fields in (
        holding(FIRST, "gzip, br, zstd, dcb"),
        holding(FIRST, "dcz;q=0"),
        holding(FIRST, "dcz;q=0.000, gzip"),
        holding(FIRST, "*"),
        holding(FIRST, "dcz;level=3"),
        holding(FIRST, "xdcz, dczx, dcz/1"),
        holding(FIRST, "dcz;q=x"),
        holding(SECOND),  # the artifact itself
        holding(THIRD),  # there is no patch back
        holding(b"what nobody knows"),
        {"Accept-Encoding": "dcz"},
        holding(FIRST) | {"Available-Dictionary": sha256(FIRST)},
        holding(FIRST) | {"Available-Dictionary": f'"{sha256(FIRST)}"'},
        holding(FIRST) | {"Available-Dictionary": ":AAAA:"},
        holding(FIRST) | {"Available-Dictionary": holding(FIRST)["Available-Dictionary"] * 2},
        holding(FIRST) | {"Available-Dictionary": ":" + "!" * 43 + "=:"},
        holding(FIRST) | {"Available-Dictionary": ""},
    ):
        answer = await edge.get(versions.path(2), headers=fields)
        assert is_plain(answer, SECOND), fields
        assert answer.headers["Vary"] == "accept-encoding, available-dictionary"


async def test_two_dictionaries_at_once_are_none(edge: Edge, versions: Versions) -> None:
    fields = [*holding(FIRST).items(), ("Available-Dictionary", holding(SECOND)["Available-Dictionary"])]
    assert is_plain(await edge.get(versions.path(2), headers=fields), SECOND)


async def test_codings_may_come_in_several_lines(edge: Edge, versions: Versions) -> None:
    fields = [("Accept-Encoding", "gzip"), *holding(FIRST, "dcz").items()]
    assert (await edge.get(versions.path(2), headers=fields)).headers["Content-Encoding"] == "dcz"


async def test_each_representation_has_a_tag_of_its_own_and_is_confirmed_by_it(edge: Edge, versions: Versions) -> None:
    plain = (await edge.get(versions.path(2))).headers["ETag"]
    patched = (await edge.get(versions.path(2), headers=holding(FIRST))).headers["ETag"]
    assert plain != patched
    assert not patched.startswith("W/")
    other = (await edge.get(versions.path(3), headers=holding(SECOND))).headers["ETag"]
    assert len({plain, patched, other}) == 3
    for tags, confirmed in ((plain, plain), (patched, patched), (f'"x", W/{patched}', patched), ("*", plain)):
        for method in ("GET", "HEAD"):
            answer = await edge.ask(method, versions.path(2), headers=holding(FIRST, If_None_Match=tags))
            assert (answer.status, answer.body, answer.headers["ETag"]) == (304, b"", confirmed), tags
            assert answer.headers["Vary"] == "accept-encoding, available-dictionary"
            assert answer.headers["Cache-Control"] == IMMUTABLE
            assert not {"Use-As-Dictionary", "Content-Encoding"} & answer.headers.keys()
    # A client that has no dictionary, or has lost it, cannot use what it does not hold.
    assert is_plain(await edge.get(versions.path(2), headers={"If-None-Match": patched}), SECOND)
    for tag, status, coding in ((plain, 200, None), (patched, 200, "dcz"), ('"x"', 412, None)):
        answer = await edge.get(versions.path(2), headers=holding(FIRST, If_Match=tag))
        assert (answer.status, answer.headers.get("Content-Encoding")) == (status, coding)


async def test_dates_are_no_conditions_here(edge: Edge, versions: Versions) -> None:
    date = "Wed, 01 Jan 2020 00:00:00 GMT"
    for fields in ({"If-Modified-Since": date}, {"If-Range": date, "Range": "bytes=5-"}):
        assert is_plain(await edge.get(versions.path(2), headers=fields), SECOND)


async def test_a_head_tells_of_the_representation_that_a_get_would_bring(edge: Edge, versions: Versions) -> None:
    for fields, length in ((holding(FIRST), 40 + len(versions.patches[0])), ({}, len(SECOND))):
        head = await edge.ask("HEAD", versions.path(2), headers=fields)
        get = await edge.get(versions.path(2), headers=fields)
        assert (head.status, head.body, int(head.headers["Content-Length"])) == (200, b"", length)
        passing = {"Date", "Server"}
        assert {n: t for n, t in head.headers.items() if n not in passing} == {
            n: t for n, t in get.headers.items() if n not in passing
        }


async def test_a_range_is_of_the_artifact_unless_it_goes_on_with_the_very_patch(edge: Edge, versions: Versions) -> None:
    whole = await edge.get(versions.path(2), headers=holding(FIRST))
    tag, body = whole.headers["ETag"], whole.body
    for if_range in ({}, {"If_Range": f'"{sha256(SECOND)}"'}):
        part = await edge.get(versions.path(2), headers=holding(FIRST, Range="bytes=500000-500009", **if_range))
        assert (part.status, part.body) == (206, SECOND[500_000:500_010])
        assert not {"Use-As-Dictionary", "Content-Encoding"} & part.headers.keys()
        assert part.headers["Content-Range"] == f"bytes 500000-500009/{len(SECOND)}"
    for if_range in ({"If_Range": '"other"'}, {"If_Range": f"W/{tag}"}):
        assert is_plain(await edge.get(versions.path(2), headers=holding(FIRST, Range="bytes=5-9", **if_range)), SECOND)
    without = await edge.get(versions.path(2), headers={"Range": "bytes=5-9", "If-Range": tag})
    assert is_plain(without, SECOND), "a part of a patch is of no use to who has no dictionary any more"
    end = len(body)
    for asked, first, last in [
        ("0-0", 0, 0),
        ("0-", 0, end - 1),
        ("3-38", 3, 38),
        ("39-40", 39, 40),
        ("39-39", 39, 39),
        ("40-", 40, end - 1),
        ("100-200", 100, 200),
        ("-7", end - 7, end - 1),
        (f"-{end}", 0, end - 1),
    ]:
        part = await edge.get(versions.path(2), headers=holding(FIRST, Range=f"bytes={asked}", If_Range=tag))
        assert (part.status, part.body) == (206, body[first : last + 1]), asked
        assert part.headers["Content-Range"] == f"bytes {first}-{last}/{end}"
        assert (part.headers["Content-Encoding"], part.headers["ETag"]) == ("dcz", tag)
        assert "Use-As-Dictionary" not in part.headers
    beyond = await edge.get(versions.path(2), headers=holding(FIRST, Range=f"bytes={end}-", If_Range=tag))
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{end}")


async def test_several_ranges_of_a_patch_are_one_multipart_answer(edge: Edge, versions: Versions) -> None:
    whole = await edge.get(versions.path(3), headers=holding(SECOND))
    asked = holding(SECOND, Range="bytes=30-49, 60000-60009, 5-6", If_Range=whole.headers["ETag"])
    answer = await edge.get(versions.path(3), headers=asked)
    assert (answer.status, answer.headers["Content-Encoding"]) == (206, "dcz")
    head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.body, policy=email.policy.HTTP)
    (first, second) = [part.get_payload(decode=True) for part in message.iter_parts()]
    assert (first, second) == (whole.body[5:50], whole.body[60_000:60_010]), "what is near to each other is one part"


async def test_patches_among_other_answers_keep_their_order_on_one_connection(edge: Edge, versions: Versions) -> None:
    for number in (2, 3):  # so that all of them lie on the disk
        await edge.get(versions.path(number), headers=holding(versions.artifacts[number - 2]))
    reader, writer = await connect(edge)
    fields = [f"{name}: {value}" for name, value in holding(FIRST).items()]
    patched = request("GET", versions.path(2), *fields)
    blob = request("GET", f"/v2/artifacts/{sha256(versions.patches[0])}")
    manifest = request("GET", f"/v2/environments/{versions.environment.key}/manifest")
    writer.write(patched + manifest + blob + patched + patched + request("GET", versions.path(9)) + patched)
    answers = [await read_answer(reader) for _ in range(7)]
    assert [answer.status for answer in answers] == [200, 200, 200, 200, 200, 404, 200]
    assert {answers[place].body for place in (0, 3, 4, 6)} == {dcz(FIRST, versions.patches[0])}
    assert answers[2].body == versions.patches[0]
    writer.close()


async def test_the_same_over_tls_where_bytes_are_copied(site: Site, versions: Versions) -> None:
    certificate = make_certificate(site.folder)
    context = ssl.create_default_context(cafile=certificate.certificate)
    async with site.edge(
        edge_name="tls", edge_tls_certificate=certificate.certificate, edge_tls_key=certificate.key
    ) as edge:

        async def ask(url: str, headers: Mapping[str, str]) -> Answer:
            async with session.get(url, headers=headers, ssl=context) as response:
                return await Answer.of(response)

        async with ClientSession(auto_decompress=False) as session:
            client = Client(ask)
            got = [await client.get(f"https://{edge.running.listen}{versions.path(n)}") for n in (1, 2, 3)]
            assert [(each.content, each.coding) for each in got] == [
                (FIRST, "identity"),
                (SECOND, "dcz"),
                (THIRD, "dcz"),
            ]
            resumed = holding(FIRST, Range="bytes=39-60", If_Range=got[1].response.headers["ETag"])
            part = await ask(f"https://{edge.running.listen}{versions.path(2)}", resumed)
            assert (part.status, part.body) == (206, got[1].response.body[39:61])


# --- what every client can decode ---


@pytest.mark.parametrize(
    ("window", "dictionary", "decodable"),
    [
        (0, 0, True),
        (8 * MIB - 1, 8, True),
        (8 * MIB, 8, False),
        (8 * MIB, 8 * MIB, True),
        (9_000_000, 9_000_000, True),
        (10_000_000, 9_000_000, True),
        (11_250_000, 9_000_000, False),
        (11_249_999, 9_000_000, True),
        (16 * MIB, 16 * MIB, True),
        (16 * MIB + 1, 16 * MIB, False),  # within the RFC, but not what Chromium's first releases allow
        (16 * MIB + 1, 16 * MIB + 1, True),
        (20_000_000, 40_000_000, True),
        (128 * MIB - 1, 120 * MIB, True),
        (128 * MIB, 128 * MIB, False),
        (2**31, 2**31, False),
    ],
)
def test_a_patch_is_offered_when_every_client_can_decode_it(window: int, dictionary: int, decodable: bool) -> None:
    assert is_decodable(window, dictionary) is decodable
    if decodable:
        assert window < max(8 * MIB, min(128 * MIB, dictionary * 5 / 4)), "section 5 of the RFC"


@pytest.mark.parametrize(("base_length", "coding"), [(17_000_000, "dcz"), (12_000_000, None)])
async def test_a_large_patch_depends_on_the_length_of_the_dictionary(
    site: Site, base_length: int, coding: str | None
) -> None:
    base = random.Random(4).randbytes(base_length)
    versions = await Versions(site, Environment(), (base, successor(base, 5, grown=17_100_000 - base_length))).publish()
    async with site.edge() as edge:
        for _ in range(2):  # asked of the object store, then known
            answer = await edge.get(versions.path(2), headers=holding(base))
            assert answer.headers.get("Content-Encoding") == coding
            assert answer.body == (dcz(base, versions.patches[0]) if coding else versions.artifacts[1])


# --- what is in the way ---


async def test_a_patch_that_cannot_be_had_or_is_none_is_not_missed(site: Site) -> None:
    good = patch_between(site.folder, FIRST, SECOND)
    environment = Environment()
    bad = {
        "not stored": b"whatever",
        "no frame": b"this is no zstd frame",
        "nothing": b"",
        "of another length": patch_between(site.folder, FIRST, SECOND + b"."),
        "with a dictionary id": good[:4] + bytes([good[4] | 1]) + b"\x07" + good[5:],
    }
    await site.put(SECOND)
    for what, blob in bad.items():
        if what != "not stored":
            await site.put(blob)
    releases = [replace(version_release(2, SECOND, {sha256(FIRST): blob}), model=what) for what, blob in bad.items()]
    await site.publish(environment, *releases)
    async with site.edge() as edge:
        for what in bad:
            path = Versions(site, environment, (), what).path(2)
            assert is_plain(await edge.get(path, headers=holding(FIRST)), SECOND), what


async def test_other_encodings_are_no_patches_for_standard_clients(site: Site) -> None:
    patch, environment = patch_between(site.folder, FIRST, SECOND), Environment()
    await site.put(patch)
    await site.put(SECOND)
    release = version_release(2, SECOND, {})
    other = Encoding("tensors", sha256(patch), len(patch), sha256(FIRST))
    await site.publish(environment, replace(release, encodings=(*release.encodings, other)))
    async with site.edge() as edge:
        path = Versions(site, environment, ()).path(2)
        assert is_plain(await edge.get(path, headers=holding(FIRST)), SECOND)


async def test_while_the_object_store_is_away_what_is_on_the_disk_is_served(
    edge: Edge, versions: Versions, site: Site
) -> None:
    await edge.get(versions.path(2))
    path = site.folder / "edge" / "edge-0" / "blobs" / sha256(SECOND)[:2] / sha256(SECOND)

    async def stored() -> bool:
        return path.exists()

    await eventually(stored)
    (site.folder / "objects").rename(site.folder / "elsewhere")
    assert is_plain(await edge.get(versions.path(2), headers=holding(FIRST)), SECOND)
    assert (await edge.get(versions.path(3), headers=holding(SECOND))).status in (404, 503)


async def test_a_version_that_is_not_offered_is_404(edge: Edge, versions: Versions) -> None:
    for version in ("0", "4", "01", "x", "-1", "1.0", "%31%00", "99999999999", "٣", "*"):
        answer = await edge.get(versions.path(version))
        assert (answer.status, answer.json()["code"]) == (404, "not_found"), version
        assert answer.headers["Cache-Control"] == "no-store"


async def test_other_models_keys_and_methods_are_refused(edge: Edge, versions: Versions) -> None:
    other = Versions(versions.site, versions.environment, (), "other")
    assert (await edge.get(other.path(1))).json()["code"] == "not_found"
    unknown = versions.path(1).replace(versions.environment.key, Environment(seed=2).key)
    assert (await edge.get(unknown)).json()["code"] == "unknown_key"
    assert (await edge.get(versions.path(1).replace("digits", "%ff"))).status == 404
    assert (await edge.ask("POST", versions.path(1))).status == 405


async def test_what_is_offered_follows_the_manifest(edge: Edge, versions: Versions, site: Site) -> None:
    assert (await edge.get(versions.path(1))).status == 200
    patch = patch_between(site.folder, FIRST, THIRD)
    await site.put(patch)
    await site.publish(versions.environment, version_release(3, THIRD, {sha256(FIRST): patch}))

    async def gone() -> bool:
        return (await edge.get(versions.path(1))).status == 404

    await eventually(gone)
    answer = await edge.get(versions.path(3), headers=holding(FIRST))
    assert (answer.headers["Content-Encoding"], answer.body) == ("dcz", dcz(FIRST, patch))


async def test_every_name_of_a_model_can_be_asked_for_and_matched(site: Site) -> None:
    environment = Environment()
    names = ("two words", "größer", 'a"b', "50%", "a*b:c(d){e}?#", "back\\slash", ".hidden", "模型", "%2F", "x" * 250)
    models = [Versions(site, environment, (FIRST, SECOND), name) for name in names]
    await site.publish(environment, *[release for versions in models for release in await versions.store()])
    async with site.edge() as edge:
        for versions in models:
            client = Client(lambda url, headers: edge.get(url.removeprefix(edge.url("")), headers=headers))
            got = [await client.get(edge.url(versions.path(number))) for number in (1, 2)]
            assert [each.coding for each in got] == ["identity", "dcz"], versions.model
            assert [each.content for each in got] == [FIRST, SECOND]
            pattern = got[0].response.headers["Use-As-Dictionary"]
            assert re.fullmatch(r'match="[A-Za-z0-9/._~%*-]+"', pattern)
            assert pattern.count("*") == 1
            target = f"/v2/environments/{environment.key}/tuf/targets/{quote(versions.model, safe='')}"
            assert (await edge.get(f"{target}/{sha256(FIRST)}.1")).body == FIRST


async def test_blobs_by_their_hash_are_as_they_were(edge: Edge, versions: Versions) -> None:
    answer = await edge.get(f"/v2/artifacts/{sha256(SECOND)}", headers=holding(FIRST))
    assert is_plain(answer, SECOND)
    assert not {"Vary", "Use-As-Dictionary", "Access-Control-Allow-Origin"} & answer.headers.keys()


# --- the parts ---


def test_a_manifest_that_cannot_be_read_offers_nothing() -> None:
    body = Environment([version_release(1, FIRST, {})]).publication().body
    assert release_of(read_targets(body), "digits", 1) == version_release(1, FIRST, {})
    for broken in (b"", b"[]", b"{}", b'{"targets": {"signed": {"targets": []}}}', body[:-1], b"\xff"):
        assert read_targets(broken) == {}
    unsound: list[Any] = [None, [], "", 7, {}, {"length": 1}, {"length": 1, "hashes": 1, "custom": {}}]
    for target in unsound:
        assert release_of({"digits/1": target}, "digits", 1) is None
    for asked in (("digits", 2), ("digit", 1), ("\udcff", 1), ("..", 1), ("digits/1", 1)):
        assert release_of(read_targets(body), *asked) is None


def test_the_hash_of_a_dictionary_is_read_strictly() -> None:
    digest = sha256(FIRST)
    value = holding(FIRST)["Available-Dictionary"]
    assert available_dictionary([value]) == available_dictionary([f" {value}\t"]) == digest
    for values in ([], [value, value], [value[1:]], [value[:-1]], [value + ";a=1"], [f"{value}, {value}"], ["::"]):
        assert available_dictionary(values) is None


def test_accepting_reads_any_field_without_failing() -> None:
    for values in (
        [],
        [""],
        [","],
        ["dcz;"],
        ["dcz;q"],
        ["dcz;q="],
        ["dcz;q=2"],
        ["dcz q=1"],
        ["\x00dcz"],
        ["d" * 9000],
    ):
        assert accepts_dcz(values) is False
    assert accepts_dcz(["gzip", " , dcz\t"]) is True
