"""A device checks for an update: the manifest, roots, and TUF's own layout, over HTTP from a real Redis."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
from tuf.ngclient.updater import Updater

from edge.settings import EdgeSettings
from manifests.trust import parse_body
from tests.edge.raw import connect, raw, read_answer, request
from tests.edge.site import Edge, Environment, Site, eventually, release_of
from tests.manifests.builders import signer


def manifest_path(environment: Environment) -> str:
    return f"/v2/environments/{environment.key}/manifest"


async def test_the_manifest_comes_with_a_strong_tag_and_may_be_cached(edge: Edge, environment: Environment) -> None:
    answer = await edge.get(manifest_path(environment))
    assert answer.status == 200
    assert answer.body == environment.publication().body
    assert answer.headers["ETag"] == environment.publication().etag
    assert not answer.headers["ETag"].startswith("W/")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "public, max-age=30, stale-if-error=604800"
    assert parse_body(answer.body)[0].revision == environment.repository.manifest.revision


@pytest.mark.parametrize("shape", ["{etag}", "W/{etag}", '"x", {etag}', "*"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_who_has_it_already_gets_304_without_a_body(
    edge: Edge, environment: Environment, shape: str, method: str
) -> None:
    etag = environment.publication().etag
    data = request(method, manifest_path(environment), f"If-None-Match: {shape.format(etag=etag)}")
    reader, writer = await connect(edge)
    writer.write(data)
    answer = await read_answer(reader)
    assert (answer.status, answer.body) == (304, b"")
    assert answer.fields["etag"] == etag
    assert answer.fields["cache-control"].startswith("public")
    writer.write(request("GET", manifest_path(environment)))  # the connection is where a next answer is expected
    assert (await read_answer(reader)).status == 200
    writer.close()


async def test_who_has_another_gets_the_whole(edge: Edge, environment: Environment) -> None:
    answer = await edge.get(manifest_path(environment), headers={"If-None-Match": '"something else"'})
    assert answer.status == 200
    assert answer.body == environment.publication().body


async def test_if_match_on_another_state_is_412(edge: Edge, environment: Environment) -> None:
    answer = await edge.get(manifest_path(environment), headers={"If-Match": '"something else"'})
    assert (answer.status, answer.json()["code"]) == (412, "precondition_failed")


async def test_head_tells_the_length_and_sends_nothing(edge: Edge, environment: Environment) -> None:
    reader, writer = await connect(edge)
    writer.write(request("HEAD", manifest_path(environment), "Connection: close"))
    answer = await read_answer(reader, head_only=True)
    assert answer.status == 200
    assert int(answer.fields["content-length"]) == len(environment.publication().body)
    assert await reader.read() == b""
    writer.close()


async def test_a_publication_is_served_as_soon_as_it_is_told(site: Site, edge: Edge, environment: Environment) -> None:
    before = await edge.get(manifest_path(environment))
    publication = await site.publish(environment, release_of(b"another", version=2))

    async def arrived() -> bool:
        return (await edge.get(manifest_path(environment))).body == publication.body

    await eventually(arrived)
    answer = await edge.get(manifest_path(environment), headers={"If-None-Match": before.headers["ETag"]})
    assert answer.status == 200


async def test_unknown_and_withdrawn_keys_are_the_same_404(site: Site, edge: Edge, environment: Environment) -> None:
    unknown = await edge.get("/v2/environments/prod-aaaaaaaaaaaa-bbbbbbbbbbbbbbbbbbbbbbbbbb/manifest")
    assert unknown.status == 404
    assert unknown.json() == {"error": "No environment has this key.", "code": "unknown_key"}
    await site.store.withdraw(environment.key, 1)

    async def gone() -> bool:
        return (await edge.get(manifest_path(environment))).status == 404

    await eventually(gone)
    withdrawn = await edge.get(manifest_path(environment))
    assert withdrawn.body == unknown.body
    assert {name: value for name, value in withdrawn.headers.items() if name != "Date"} == {
        name: value for name, value in unknown.headers.items() if name != "Date"
    }


async def test_every_route_below_an_unknown_key_gives_that_404(edge: Edge) -> None:
    base = "/v2/environments/unknown"
    asked = [
        ("GET", f"{base}/manifest"),
        ("GET", f"{base}/root/1.json"),
        ("GET", f"{base}/root/0.json"),
        ("GET", f"{base}/tuf/metadata/timestamp.json"),
        ("GET", f"{base}/tuf/targets/m/{'0' * 64}.1"),
        ("PUT", f"{base}/devices/not%20valid"),
        ("POST", f"{base}/events"),
    ]
    answers = [await edge.ask(method, path) for method, path in asked]
    assert {answer.status for answer in answers} == {404}
    assert len({answer.body for answer in answers}) == 1


async def test_roots_never_change_and_stay(site: Site, edge: Edge, environment: Environment) -> None:
    environment.repository.rotate_root(signer(50))
    publication = await site.publish(environment)

    async def arrived() -> bool:
        return (await edge.get(manifest_path(environment))).body == publication.body

    await eventually(arrived)
    for number in (1, 2):
        answer = await edge.get(f"/v2/environments/{environment.key}/root/{number}.json")
        assert answer.status == 200
        assert answer.body == environment.repository.roots[number]
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        tag = {"If-None-Match": answer.headers["ETag"]}
        assert (await edge.get(f"/v2/environments/{environment.key}/root/{number}.json", headers=tag)).status == 304
    assert (await edge.get(f"/v2/environments/{environment.key}/root/3.json")).status == 404


@pytest.mark.parametrize("number", ["0", "01", "-1", "1.0", "x", "٣", "9999999999", "1%00"])
async def test_what_is_no_root_number_is_400(edge: Edge, environment: Environment, number: str) -> None:
    answer = await edge.get(f"/v2/environments/{environment.key}/root/{number}.json")
    assert (answer.status, answer.json()["code"]) == (400, "invalid_root_number")


async def test_numbered_metadata_is_immutable_and_the_timestamp_is_not(edge: Edge, environment: Environment) -> None:
    base = f"/v2/environments/{environment.key}/tuf/metadata"
    for name, content in environment.repository.files().items():
        answer = await edge.get(f"{base}/{name}")
        assert answer.status == 200
        assert answer.body == content
        assert answer.headers["ETag"] == f'"{hashlib.sha256(content).hexdigest()}"'
        assert ("immutable" in answer.headers["Cache-Control"]) == (name != "timestamp.json")
    for name in ("snapshot.json", "99.snapshot.json", "..%2f..%2fetc%2fpasswd", "timestamp.json%00", "labels"):
        assert (await edge.get(f"{base}/{name}")).status == 404


@pytest.mark.parametrize("model", ["digits", "speech/voice detection v2", "größe"])
async def test_an_unmodified_tuf_client_refreshes_and_downloads(
    site: Site, edge: Edge, tmp_path: Path, model: str
) -> None:
    content = b"artifact of " + model.encode()
    await site.put(content)
    environment = Environment([release_of(content, model)], seed=9)
    await site.publish(environment)

    async def arrived() -> bool:
        return (await edge.get(manifest_path(environment))).status == 200

    await eventually(arrived)
    (tmp_path / "targets").mkdir()
    base = edge.url(f"/v2/environments/{environment.key}/tuf")

    def update() -> bytes:
        updater = Updater(
            str(tmp_path / "metadata"),
            f"{base}/metadata",
            str(tmp_path / "targets"),
            f"{base}/targets",
            bootstrap=environment.repository.roots[1],
        )
        updater.refresh()
        target = updater.get_targetinfo(release_of(content, model).path)
        assert target is not None
        return Path(updater.download_target(target)).read_bytes()

    assert await asyncio.to_thread(update) == content


async def test_caching_times_are_settings(site: Site, environment: Environment) -> None:
    async with site.edge(manifest_max_age_seconds=5, manifest_stale_seconds=60) as edge:
        answer = await edge.get(manifest_path(environment))
        assert answer.headers["Cache-Control"] == "public, max-age=5, stale-if-error=60"
    assert EdgeSettings.model_fields["manifest_max_age_seconds"].default == 30


async def test_pipelined_checks_are_answered_in_order(edge: Edge, environment: Environment) -> None:
    reader, writer = await connect(edge)
    writer.write(
        request("GET", manifest_path(environment))
        + request("GET", "/nowhere")
        + request("GET", manifest_path(environment), "If-None-Match: *")
    )
    assert [(await read_answer(reader)).status for _ in range(3)] == [200, 404, 304]
    writer.close()


async def test_an_old_client_without_keep_alive_is_served(edge: Edge, environment: Environment) -> None:
    answer = await raw(edge, f"GET {manifest_path(environment)} HTTP/1.0\r\n\r\n".encode())
    assert answer.status == 200
    assert answer.body == environment.publication().body
