"""Uploads over HTTP and their finishing: streamed, resumable, bounded, idempotent."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession, web
from aiohttp.typedefs import Handler
from sqlalchemy import func, select, update

from artifacts.errors import StoreUnavailable
from artifacts.store import open_store
from control_plane import receiving
from control_plane.api.openapi import document
from control_plane.api.table import ROUTES
from control_plane.errors import HTTP_STATUS, Conflict, ControlPlaneError, Invalid, Missing, TooLarge, Unavailable
from control_plane.presign import Presigner
from control_plane.tables import ArtifactEncoding, Model, ModelVersion, new_id, utc_now
from control_plane.uploads import ABANDONED_AFTER, MAX_OPEN_UPLOADS, Begun, Uploads
from tests.control_plane.running import assert_declared
from tests.control_plane.world import LIMITS, World, open_world, stage, zipped

DOCUMENT = document(ROUTES)
MODEL = {"weights": b"0123456789" * 3000, "labels.txt": b"cat\ndog\n"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


class Site:
    """The upload routes on a real server, and a client."""

    def __init__(self, base: str, client: ClientSession) -> None:
        self.base = base
        self.client = client

    def url(self, presigned_url: str) -> str:
        """Return the presigned URL at this server's address."""
        parts = urlsplit(presigned_url)
        return f"{self.base}{parts.path}?{parts.query}"

    async def put(self, url: str, data: bytes, **headers: str) -> tuple[int, dict[str, str]]:
        """PUT and return the status and the headers."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.put(self.url(url), data=data, headers=named, allow_redirects=False) as answer:
            assert_declared(DOCUMENT, "PUT", answer.url.raw_path.encode(), answer.status)
            return answer.status, dict(answer.headers)

    async def offset(self, url: str) -> int:
        """Ask how far an upload came."""
        async with self.client.head(self.url(url)) as answer:
            assert answer.status == 200
            return int(answer.headers["Upload-Offset"])


@web.middleware
async def errors_as_statuses(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ControlPlaneError as error:
        return web.json_response({"code": error.code}, status=HTTP_STATUS[type(error)])


@pytest.fixture
async def site(world: World) -> AsyncIterator[Site]:
    app = web.Application(middlewares=[errors_as_statuses])
    app.router.add_route("*", "/v2/uploads/{id}", world.uploads.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    async with ClientSession() as client:
        yield Site(f"http://{host}:{port}", client)
    await runner.cleanup()


async def begin(world: World, filename: str = "digits.zip") -> Begun:
    return await world.uploads.begin(world.actor, world.model.id, filename, "a first try")


async def finish(world: World, begun: Begun) -> ModelVersion:
    return await world.uploads.finish(world.actor, begun.model_version_id, begun.filepath)


# --- The whole path ---------------------------------------------------------------------------------------------------


async def test_what_is_put_and_finished_is_a_version_with_all_that_is_known_of_it(world: World, site: Site) -> None:
    begun = await begin(world)
    data = zipped(MODEL)
    assert (await site.put(begun.presigned_url, data))[0] == 200
    version = await finish(world, begun)
    assert (version.version, version.state, version.description) == (1, "ready", "a first try")
    assert version.upload_sha256 == hashlib.sha256(data).hexdigest()
    assert version.upload_length == len(data)
    assert version.format == "other"
    assert [(file["name"], file["length"]) for file in version.files] == [("labels.txt", 8), ("weights", 30000)]
    assert version.created_by == world.actor.user_id
    assert b"".join([chunk async for chunk in world.objects.stream(version.upload_sha256)]) == data


async def test_the_url_is_signed_and_the_path_names_the_upload(world: World) -> None:
    begun = await begin(world)
    assert begun.filepath == f"uploads/{begun.model_version_id}"
    assert begun.presigned_url.startswith(f"http://control.test/v2/uploads/{begun.model_version_id}?expires=")


async def test_versions_are_numbered_by_the_order_of_finishing(world: World) -> None:
    first, second = await begin(world), await begin(world)
    for begun in (first, second):
        stage(world.staging, begun.model_version_id, zipped(MODEL))
    assert (await finish(world, second)).version == 1
    assert (await finish(world, first)).version == 2


async def test_a_number_is_never_used_twice(world: World) -> None:
    version = await world.version(MODEL)
    async with world.database.write() as session:
        await session.delete(await session.get(ModelVersion, version.id))
    assert (await world.version(MODEL)).version == 2


async def test_the_same_bytes_again_share_their_blobs(world: World) -> None:
    first, second = await world.version(MODEL), await world.version(MODEL)
    assert first.upload_sha256 == second.upload_sha256
    async with world.database.read() as session:
        names = list(await session.scalars(select(ArtifactEncoding.name).order_by(ArtifactEncoding.name)))
    assert names == ["identity", "zstd"]


async def test_bytes_that_do_not_compress_have_no_compressed_form(world: World) -> None:
    await world.version({"weights": os.urandom(100_000)})
    async with world.database.read() as session:
        assert list(await session.scalars(select(ArtifactEncoding.name))) == ["identity"]


async def test_finishing_leaves_nothing_behind_in_staging(world: World) -> None:
    await world.version(MODEL)
    assert list((world.folder / "staging").iterdir()) == []


async def test_the_audit_log_has_the_upload(world: World) -> None:
    await world.version(MODEL)
    (entry,) = [entry for entry in await world.audit() if entry.action == "version.upload"]
    assert entry.target == "Camera/digits/1"


# --- Receiving --------------------------------------------------------------------------------------------------------


async def test_an_upload_in_parts_is_whole_with_the_last_one(world: World, site: Site) -> None:
    begun = await begin(world)
    data = zipped(MODEL)
    cut, end = 100, len(data)
    status, headers = await site.put(begun.presigned_url, data[:cut], Content_Range=f"bytes 0-{cut - 1}/{end}")
    assert (status, headers["Range"], headers["Upload-Offset"]) == (308, f"bytes=0-{cut - 1}", str(cut))
    assert await site.offset(begun.presigned_url) == cut
    status, _ = await site.put(begun.presigned_url, data[cut:], Content_Range=f"bytes {cut}-{end - 1}/{end}")
    assert status == 200
    assert (await finish(world, begun)).upload_sha256 == hashlib.sha256(data).hexdigest()


async def test_an_empty_question_tells_how_far_the_upload_came(world: World, site: Site) -> None:
    begun = await begin(world)
    status, headers = await site.put(begun.presigned_url, b"", Content_Range="bytes */10")
    assert (status, headers["Upload-Offset"], "Range" in headers) == (308, "0", False)
    await site.put(begun.presigned_url, b"01234", Content_Range="bytes 0-4/10")
    status, headers = await site.put(begun.presigned_url, b"", Content_Range="bytes */10")
    assert (status, headers["Range"]) == (308, "bytes=0-4")
    await site.put(begun.presigned_url, b"56789", Content_Range="bytes 5-9/10")
    assert (await site.put(begun.presigned_url, b"", Content_Range="bytes */10"))[0] == 200


async def test_a_part_at_the_wrong_offset_is_told_the_right_one(world: World, site: Site) -> None:
    begun = await begin(world)
    await site.put(begun.presigned_url, b"01234", Content_Range="bytes 0-4/10")
    status, headers = await site.put(begun.presigned_url, b"789", Content_Range="bytes 7-9/10")
    assert (status, headers["Upload-Offset"]) == (409, "5")
    assert await site.offset(begun.presigned_url) == 5


async def test_a_part_from_the_start_begins_anew(world: World, site: Site) -> None:
    begun = await begin(world)
    await site.put(begun.presigned_url, b"01234567", Content_Range="bytes 0-7/10")
    await site.put(begun.presigned_url, b"abc", Content_Range="bytes 0-2/10")
    assert await site.offset(begun.presigned_url) == 3


async def test_a_whole_upload_may_be_sent_again(world: World, site: Site) -> None:
    begun = await begin(world)
    data = zipped(MODEL)
    assert (await site.put(begun.presigned_url, b"something else"))[0] == 200
    assert (await site.put(begun.presigned_url, data))[0] == 200
    assert (await finish(world, begun)).upload_sha256 == hashlib.sha256(data).hexdigest()


async def test_what_came_before_the_connection_was_cut_off_is_kept_and_resumed(world: World, site: Site) -> None:
    begun = await begin(world)
    data = zipped({"weights": os.urandom(300_000)})
    await cut_off(world, begun, site.url(begun.presigned_url), len(data), data[:200_000])
    offset = await site.offset(begun.presigned_url)
    assert 100_000 <= offset <= 200_000
    with pytest.raises(Conflict, match=f"{offset} bytes have come"):
        await finish(world, begun)
    end = len(data)
    status, _ = await site.put(begun.presigned_url, data[offset:], Content_Range=f"bytes {offset}-{end - 1}/{end}")
    assert status == 200
    assert (await finish(world, begun)).upload_sha256 == hashlib.sha256(data).hexdigest()


async def cut_off(world: World, begun: Begun, url: str, length: int, data: bytes) -> None:
    """Announce ``length`` bytes, send only ``data``, and go away once most of it has arrived."""
    parts = urlsplit(url)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()
    staged = world.staging.upload(begun.model_version_id)
    await until(lambda: staged.offset >= 100_000)
    writer.close()
    await writer.wait_closed()
    await until(lambda: free(world, begun))


async def until(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds, for a bounded time."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("the condition never held")


def free(world: World, begun: Begun) -> bool:
    """Tell whether nobody is sending or finishing the upload."""
    try:
        with world.staging.upload(begun.model_version_id).lock():
            return True
    except Conflict:
        return False


async def test_a_sender_that_falls_silent_is_let_go_and_what_came_is_kept(
    world: World, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "PART_SECONDS", 0.2)
    begun = await begin(world)
    parts = urlsplit(site.url(begun.presigned_url))
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    writer.write(head.encode() + b"0123456789")
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)
    assert status_of(answer) == 408
    writer.close()
    assert await site.offset(begun.presigned_url) == 10


def status_of(line: bytes) -> int:
    """Return the status in an answer's first line, which the API's document must tell of."""
    status = int(line.split(b" ")[1])
    assert_declared(DOCUMENT, "PUT", b"/v2/uploads/x", status)
    return status


async def trickle(url: str, length: int, piece: bytes, pause: float) -> bytes:
    """Announce ``length`` bytes and send a piece after each pause until there is an answer; return its first line."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
    answer = asyncio.create_task(reader.readuntil(b"\r\n"))
    for _ in range(int(20 / pause)):
        if answer.done() or length <= 0:
            break
        writer.write(piece)
        length -= len(piece)
        await asyncio.sleep(pause)
    line = await asyncio.wait_for(answer, 10)
    writer.close()
    return line


async def test_a_sender_that_trickles_is_let_go_and_what_came_is_kept(
    world: World, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "PART_SECONDS", 0.5)
    begun = await begin(world)
    answer = await trickle(site.url(begun.presigned_url), LIMITS.max_upload_bytes, b"x", pause=0.02)
    assert status_of(answer) == 408
    assert await site.offset(begun.presigned_url) >= 1
    assert free(world, begun)


async def test_a_slow_sender_that_keeps_the_least_pace_is_waited_for(
    world: World, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "PART_SECONDS", 1.0)
    monkeypatch.setattr(receiving, "PART_BYTES", 10)
    begun = await begin(world)
    answer = await trickle(site.url(begun.presigned_url), 500, b"0123456789", pause=0.05)
    assert status_of(answer) == 200
    assert await site.offset(begun.presigned_url) == 500


async def test_a_sender_is_let_go_when_its_address_expires(world: World, site: Site) -> None:
    begun = await begin(world)
    bare = begun.presigned_url.partition("?")[0]
    soon = Presigner(bytes(32)).query(begun.model_version_id, utc_now() + timedelta(seconds=3))
    answer = await trickle(site.url(f"{bare}?{soon}"), LIMITS.max_upload_bytes, b"x", pause=0.02)
    assert status_of(answer) == 403
    assert await site.offset(begun.presigned_url) >= 1
    assert free(world, begun)


async def test_a_second_sender_is_refused_while_the_first_is_sending(world: World, site: Site) -> None:
    begun = await begin(world)
    going_on, sent = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"x" * 1000
        sent.set()
        await going_on.wait()
        yield b"y" * 1000

    async def first() -> int:
        async with site.client.put(site.url(begun.presigned_url), data=slowly()) as answer:
            return answer.status

    sending = asyncio.create_task(first())
    await sent.wait()
    await until(lambda: not free(world, begun))
    assert (await site.put(begun.presigned_url, b"z"))[0] == 409
    with pytest.raises(Conflict):
        await finish(world, begun)
    going_on.set()
    assert await sending == 200
    assert await site.offset(begun.presigned_url) == 2000


async def test_an_upload_that_says_it_is_too_large_is_refused_before_a_byte_is_read(world: World, site: Site) -> None:
    begun = await begin(world)
    too_much = LIMITS.max_upload_bytes + 1
    headers = {"Content_Range": f"bytes 0-9/{too_much}"}
    assert (await site.put(begun.presigned_url, b"0123456789", **headers))[0] == 413
    assert await site.offset(begun.presigned_url) == 0


async def test_an_upload_that_turns_out_to_be_too_large_is_cut_off_and_forgotten(world: World, site: Site) -> None:
    begun = await begin(world)

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(2 * LIMITS.max_upload_bytes // 65536):
            yield bytes(65536)

    async with site.client.put(site.url(begun.presigned_url), data=endless()) as answer:
        assert answer.status == 413
    assert await site.offset(begun.presigned_url) == 0


async def test_more_bytes_than_the_range_names_are_refused(world: World, site: Site) -> None:
    begun = await begin(world)

    async def more() -> AsyncIterator[bytes]:
        yield b"0123456789"

    headers = {"Content-Range": "bytes 0-4/20"}
    async with site.client.put(site.url(begun.presigned_url), data=more(), headers=headers) as answer:
        assert answer.status == 400
    assert await site.offset(begun.presigned_url) == 5


async def test_a_body_that_is_compressed_on_the_way_is_refused(world: World, site: Site) -> None:
    begun = await begin(world)
    status, _ = await site.put(begun.presigned_url, gzip.compress(zipped(MODEL)), Content_Encoding="gzip")
    assert status == 400
    assert await site.offset(begun.presigned_url) == 0


async def test_a_forged_an_altered_and_an_expired_url_are_forbidden(world: World, site: Site) -> None:
    begun = await begin(world)
    expired = Presigner(bytes(32)).query(begun.model_version_id, utc_now() - timedelta(seconds=1))
    bare = begun.presigned_url.partition("?")[0]
    other = (await begin(world)).presigned_url.partition("?")[2]
    for url in (bare, f"{bare}?{expired}", f"{bare}?{other}", begun.presigned_url[:-1] + "x"):
        assert (await site.put(url, b"x"))[0] == 403


async def test_an_upload_whose_model_is_gone_is_missing(world: World, site: Site) -> None:
    begun = await begin(world)
    async with world.database.write() as session:
        await session.delete(await session.get(Model, world.model.id))
    assert (await site.put(begun.presigned_url, b"x"))[0] == 404
    with pytest.raises(Missing):
        await finish(world, begun)


async def test_a_finished_upload_takes_no_more_bytes(world: World, site: Site) -> None:
    begun = await begin(world)
    await site.put(begun.presigned_url, zipped(MODEL))
    await finish(world, begun)
    assert (await site.put(begun.presigned_url, b"x"))[0] == 409


async def test_a_full_disk_is_told_as_unavailable(world: World, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(self: object, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("control_plane.staging.PartWriter.write", no_space)
    begun = await begin(world)
    assert (await site.put(begun.presigned_url, b"x"))[0] == 503


# --- Finishing --------------------------------------------------------------------------------------------------------


async def test_finishing_again_gives_the_same_version(world: World) -> None:
    begun = await begin(world)
    stage(world.staging, begun.model_version_id, zipped(MODEL))
    first = await finish(world, begun)
    again = await finish(world, begun)
    assert (first.id, first.version) == (again.id, again.version) == (begun.model_version_id, 1)


async def test_one_that_stops_waiting_does_not_stop_the_other(world: World) -> None:
    begun = await begin(world)
    stage(world.staging, begun.model_version_id, zipped(MODEL))
    first = asyncio.create_task(finish(world, begun))
    second = asyncio.create_task(finish(world, begun))
    await asyncio.sleep(0.01)
    first.cancel()
    assert (await second).version == 1


async def test_an_upload_without_bytes_cannot_be_finished(world: World) -> None:
    begun = await begin(world)
    with pytest.raises(Conflict, match="0 bytes have come"):
        await finish(world, begun)


async def test_the_path_of_another_upload_is_refused(world: World) -> None:
    first, second = await begin(world), await begin(world)
    with pytest.raises(Invalid, match="filepath"):
        await world.uploads.finish(world.actor, first.model_version_id, second.filepath)


async def test_an_upload_that_is_not_there_is_missing(world: World) -> None:
    with pytest.raises(Missing):
        await world.uploads.finish(world.actor, new_id(), "uploads/x")
    with pytest.raises(Missing):
        await world.uploads.begin(world.actor, new_id(), "model.zip")


async def test_a_zip_that_is_refused_says_why_and_leaves_nothing(world: World) -> None:
    begun = await begin(world)
    stage(world.staging, begun.model_version_id, zipped({"../escape": b"x"}))
    with pytest.raises(Invalid) as caught:
        await finish(world, begun)
    assert caught.value.code != "invalid"
    assert list((world.folder / "staging").iterdir()) == []
    assert not (world.folder / "objects" / "blobs").exists()


async def test_a_refused_upload_can_be_sent_again(world: World, site: Site) -> None:
    begun = await begin(world)
    stage(world.staging, begun.model_version_id, zipped({"../escape": b"x"}))
    with pytest.raises(Invalid):
        await finish(world, begun)
    assert (await site.put(begun.presigned_url, zipped(MODEL)))[0] == 200
    assert (await finish(world, begun)).version == 1


async def test_a_bare_file_keeps_its_name(world: World) -> None:
    begun = await world.uploads.begin(world.actor, world.model.id, "C:\\models\\digits.tflite")
    stage(world.staging, begun.model_version_id, b"not a real one")
    assert [file["name"] for file in (await finish(world, begun)).files] == ["digits.tflite"]


@pytest.mark.parametrize(
    "filename", ["", "..", "/", "a\x00b", "a\nb", "C:m.tflite", "x:", "\u00e9" * 128, "\u202em.tflite"]
)
async def test_a_file_name_that_names_no_file_is_invalid(world: World, filename: str) -> None:
    with pytest.raises(Invalid):
        await world.uploads.begin(world.actor, world.model.id, filename)


async def test_a_zip_may_be_called_what_no_file_inside_it_may(world: World) -> None:
    """The published client calls the zip as the model is called, in up to 100 characters of any script."""
    begun = await begin(world, "\u6f22" * 100 + ".zip")
    stage(world.staging, begun.model_version_id, zipped(MODEL))
    assert (await finish(world, begun)).version == 1


async def test_while_the_object_store_is_down_nothing_is_recorded_and_finishing_later_works(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = await begin(world)
    stage(world.staging, begun.model_version_id, zipped(MODEL))

    async def down(sha256: str, path: Path) -> None:
        raise StoreUnavailable("the object store does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(world.objects, "put_file", down)
        with pytest.raises(Unavailable):
            await finish(world, begun)
    async with world.database.read() as session:
        assert (await session.get_one(ModelVersion, begun.model_version_id)).state == "uploading"
    assert (await finish(world, begun)).version == 1


async def test_uploads_that_are_begun_and_not_finished_are_bounded(world: World) -> None:
    for _ in range(MAX_OPEN_UPLOADS):
        await begin(world)
    with pytest.raises(Conflict, match="100 uploads"):
        await begin(world)


# --- Cleaning up ------------------------------------------------------------------------------------------------------


async def test_abandoned_uploads_are_removed_after_a_day_and_nothing_else_is(world: World, site: Site) -> None:
    await world.version(MODEL)
    abandoned = await begin(world)
    await site.put(abandoned.presigned_url, b"01234", Content_Range="bytes 0-4/10")
    assert await world.uploads.clean(utc_now()) == 0
    later = utc_now() + ABANDONED_AFTER + timedelta(minutes=1)
    assert await world.uploads.clean(later) == 1
    assert list((world.folder / "staging").iterdir()) == []
    async with world.database.read() as session:
        assert await session.scalar(select(func.count()).select_from(ModelVersion)) == 1


async def test_an_upload_that_is_being_finished_is_not_abandoned(world: World) -> None:
    begun = await begin(world)
    stage(world.staging, begun.model_version_id, zipped(MODEL))
    async with world.database.write() as session:
        long_ago = utc_now() - 2 * ABANDONED_AFTER
        await session.execute(update(ModelVersion).values(created_at=long_ago))
    finishing = asyncio.create_task(finish(world, begun))
    await until(lambda: begun.model_version_id in world.uploads._finishing)
    await world.uploads.clean(utc_now())
    assert (await finishing).version == 1


# --- Uploads that go to the object store's own URL --------------------------------------------------------------------


async def test_an_upload_that_went_to_the_object_store_is_fetched_and_forgotten_there(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        begun = await begin(world)
        sent = tmp_path / "objects" / "uploads" / begun.model_version_id
        sent.parent.mkdir(parents=True)
        sent.write_bytes(zipped(MODEL))
        assert (await finish(world, begun)).upload_sha256 == hashlib.sha256(zipped(MODEL)).hexdigest()
        assert not sent.exists()


async def test_an_upload_in_the_object_store_that_is_too_large_is_never_fetched(tmp_path: Path) -> None:
    async with open_world(tmp_path, limits=replace(LIMITS, max_upload_bytes=10)) as world:
        begun = await begin(world)
        sent = tmp_path / "objects" / "uploads" / begun.model_version_id
        sent.parent.mkdir(parents=True)
        sent.write_bytes(bytes(11))
        with pytest.raises(TooLarge):
            await finish(world, begun)
        assert not sent.exists()


async def test_a_store_that_signs_urls_gets_the_bytes_itself(world: World, tmp_path: Path) -> None:
    options = {"access_key_id": "key", "secret_access_key": "secret", "region": "eu-central-1"}
    store = open_store("s3://bucket/prefix", options)
    uploads = Uploads(world.database, store, tmp_path / "s3", Presigner(bytes(32)), LIMITS, "http://control.test")
    begun = await uploads.begin(world.actor, world.model.id, "digits.zip")
    assert "X-Amz-Signature" in begun.presigned_url
    assert f"uploads/{begun.model_version_id}" in begun.presigned_url
