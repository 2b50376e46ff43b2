"""The typed clients against a real control plane."""

from __future__ import annotations

import asyncio
import http.server
import inspect
import json
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from skafos import fetching, figuring, operations, pushing, uploading
from skafos.calls import Answer, Call, ask
from skafos.client import API_PREFIX, AsyncClient, Client
from skafos.exceptions import (
    ConflictError,
    DownloadFailedError,
    InvalidAnswerError,
    InvalidParamError,
    InvalidTokenError,
    NotFoundError,
    UnavailableError,
    UploadFailedError,
)
from skafos.records import Begun, Model
from tests.flows.running import Running
from tests.skafos.flaky import flaky

APP = "Clients"


@pytest.fixture(scope="module")
def names(skafos_up: Running) -> tuple[str, str, str]:
    """An app with one model."""
    with skafos_up.client() as client:
        client.create_app(skafos_up.organization, APP, "org.example.clients", "ios")
        client.create_model(skafos_up.organization, APP, "vision")
    return skafos_up.organization, APP, "vision"


@pytest.fixture
def client(skafos_up: Running) -> Iterator[Client]:
    with skafos_up.client() as opened:
        yield opened


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    file = tmp_path / "model.bin"
    file.write_bytes(bytes(range(256)) * 80_000)
    return file


def test_both_clients_have_the_same_methods() -> None:
    def of(kind: type) -> set[str]:
        return {name for name, _ in inspect.getmembers(kind, callable) if not name.startswith("_")}

    assert of(Client) == of(AsyncClient)
    described = {
        name
        for room in (operations, figuring, pushing, uploading, fetching)
        for name, function in inspect.getmembers(room, inspect.isfunction)
        if name in of(Client) and function.__module__ == room.__name__
    }
    assert of(Client) - described == {"close", "run"}


# An upload's position is asked for as in Google's resumable uploads, which object stores speak too: by an empty PUT.
SAID_OTHERWISE = {("HEAD", "/v2/uploads/{}")}


def calls_of(name: str, file: Path) -> Iterator[tuple[str, str]]:
    """Yield the methods and paths that an operation of the client calls, each name in a path as ``{}``."""
    operation = inspect.unwrap(getattr(Client, name))
    stands_for: dict[str, Any] = {"str": "{}", "int": 1, "bytes": b"", "Path": file, "int | str": "{}"}
    stands_for["Literal['key', 'certificate', 'account']"] = "key"
    required = [
        parameter
        for parameter in inspect.signature(operation).parameters.values()
        if parameter.default is inspect.Parameter.empty
    ]
    by_name = {parameter.name: stands_for[str(parameter.annotation)] for parameter in required}
    steps = operation(**by_name)
    wanted = next(steps)
    with suppress(StopIteration, InvalidAnswerError):
        # Before it pauses it has called all that it ever calls.
        while isinstance(wanted, Call):
            url = wanted.url.removeprefix("http://server")
            path = unquote(urlsplit(url).path)
            yield wanted.method, path if path.startswith(("/v2/", fetching.DOWNLOAD_PREFIX)) else API_PREFIX + path
            begun = {"presigned_url": "http://server/v2/uploads/{}?signature=x", "filepath": "f"}
            body = json.dumps(begun | {"model_version_id": "{}"}) if wanted.method == "POST" else "{}"
            wanted = steps.send(Answer(200, {}, body.encode()))


def test_every_operation_that_the_server_documents_has_a_function_and_no_function_has_another(
    client: Client, upload: Path
) -> None:
    documented = {
        (method.upper(), re.sub(r"\{\w+\}", "{}", path))
        for path, operations_there in client.openapi()["paths"].items()
        for method in operations_there
    }
    functions = {name for name, _ in inspect.getmembers(Client, inspect.isfunction)} - {"close", "run"}
    called = {call for name in functions if not name.startswith("_") for call in calls_of(name, upload)}
    assert len(documented) > 40
    assert documented - called == SAID_OTHERWISE
    assert called - documented == set()


def test_an_app_is_changed_and_read_with_its_models_and_a_model_is_withdrawn(
    client: Client, skafos_up: Running, upload: Path
) -> None:
    org = skafos_up.organization
    client.create_app(org, "Changing", "org.example.changing", "ios")
    changed = client.update_app(org, "Changing", bundle_id="org.example.changed", platform="android")
    assert (changed.name, changed.bundle_id, changed.platform) == ("Changing", "org.example.changed", "android")
    assert client.update_app(org, "Changing", name="Changed").bundle_id == "org.example.changed"
    with pytest.raises(InvalidParamError, match="Nothing to change"):
        client.update_app(org, "Changed")
    client.create_model(org, "Changed", "m")
    assert [model.name for model in client.get_app(org, "Changed", with_models=True).models or []] == ["m"]
    assert client.get_app(org, "Changed").models is None
    client.upload_version(org, "Changed", "m", upload)
    client.deploy(org, "Changed", "m")
    with pytest.raises(ConflictError):
        client.delete_model(org, "Changed", "m")
    client.delete_model(org, "Changed", "m", withdraw=True)
    assert client.list_models(org, "Changed") == []


def test_an_environment_and_a_version_are_renamed(client: Client, names: tuple[str, str, str], upload: Path) -> None:
    added = client.create_environment(*names[:2], "beta")
    assert client.rename_environment(*names[:2], "beta", "gamma").key == added.key
    client.delete_environment(*names[:2], "gamma")
    version = client.upload_version(*names, upload)
    assert version.version is not None
    assert client.rename_version(*names, version.version, "better.bin").name == "better.bin"
    assert client.get_version(*names, version.version).name == "better.bin"
    with pytest.raises(InvalidParamError, match="no zip"):
        client.rename_version(*names, version.version, "better.zip")


def test_the_keys_of_an_environment_are_listed(client: Client, names: tuple[str, str, str]) -> None:
    before = client.list_keys(*names[:2], "dev")
    added = client.add_key(*names[:2], "dev", overlap_seconds=60)
    assert [key.id for key in client.list_keys(*names[:2], "dev")] == [added.id, *(key.id for key in before)]


def test_a_version_is_uploaded_described_fetched_and_deleted(
    client: Client, names: tuple[str, str, str], upload: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    version = client.upload_version(
        *names, upload, description="first", progress=lambda done, total: seen.append((done, total))
    )
    assert version.version is not None
    assert (version.description, version.model, version.state) == ("first", "vision", "ready")
    assert version.upload_sha256 == sha256(upload.read_bytes()).hexdigest()
    assert seen[-1] == (upload.stat().st_size, upload.stat().st_size)
    assert client.describe_version(*names, version.version, "better").description == "better"
    assert client.get_version(*names, version.version).files[0].length == upload.stat().st_size
    out = client.fetch_version(*names, tmp_path / "fetched", version=version.version)
    assert out.read_bytes() == upload.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if "fetched" in path.name] == ["fetched"]
    client.delete_version(*names, version.version)
    with pytest.raises(NotFoundError):
        client.get_version(*names, version.version)


async def test_the_asynchronous_client_does_the_same(
    skafos_up: Running, names: tuple[str, str, str], upload: Path, tmp_path: Path
) -> None:
    async with AsyncClient(skafos_up.connection["control_url"], skafos_up.connection["api_token"]) as client:
        one, two = await asyncio.gather(client.upload_version(*names, upload), client.me())
        assert two.organizations[0].name == skafos_up.organization
        assert one.version in {each.version for each in await client.list_versions(*names)}
        out = await client.fetch_version(*names, tmp_path / "fetched", version=one.version)
        assert out.read_bytes() == upload.read_bytes()
        with pytest.raises(NotFoundError):
            await client.get_model(*names[:2], "no such model")


def test_a_listing_is_read_to_its_last_page(client: Client, skafos_up: Running) -> None:
    client.create_app(skafos_up.organization, "Pages", "org.example.pages", "ios")
    for number in range(5):
        client.create_model(skafos_up.organization, "Pages", f"model-{number}")
    url = operations.of_app(skafos_up.organization, "Pages", "models")
    found = client.run(operations.listing(Model, url, {"limit": "2"}))
    assert [model.name for model in found] == [f"model-{number}" for number in range(5)]


def test_an_upload_that_is_cut_off_goes_on_where_it_stopped(
    client: Client, names: tuple[str, str, str], upload: Path, skafos_up: Running
) -> None:
    call = Call("POST", operations.of_model(*names, "model_versions"), json={"filename": "model.bin"})
    begun = client.run(ask(call, Begun))
    control = skafos_up.connection["control_url"]
    positions: list[int] = []
    with flaky(control) as proxy:
        # The first part is cut, so is the question how far it came, and the next part; then the network is well.
        proxy.cuts = [3_000_000, 100, 9_500_000]
        url = begun.presigned_url.replace(control, proxy.url)
        client.run(uploading.send_file(url, upload, lambda done, total: positions.append(done)))
        assert proxy.connections >= 4
    version = client.run(uploading.finish(*names, begun))
    assert version.upload_sha256 == sha256(upload.read_bytes()).hexdigest()
    assert any(later > earlier for earlier, later in pairwise(positions))


def test_an_upload_that_moves_nothing_fails_in_the_end(
    client: Client, names: tuple[str, str, str], upload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "FIRST_PAUSE_SECONDS", 0.0)
    with pytest.raises(UploadFailedError, match="times in a row"):
        client.run(uploading.send_file("http://127.0.0.1:9/v2/uploads/x?signature=y", upload))


def test_a_forged_upload_address_is_refused_at_once(client: Client, skafos_up: Running, upload: Path) -> None:
    url = f"{skafos_up.connection['control_url']}/v2/uploads/{'0' * 32}?expires=9999999999&signature={'0' * 64}"
    with pytest.raises(UploadFailedError, match="refused"):
        client.run(uploading.send_file(url, upload))


def test_a_fetch_that_is_cut_off_goes_on_where_it_stopped(
    client: Client, names: tuple[str, str, str], upload: Path, skafos_up: Running, tmp_path: Path
) -> None:
    version = client.upload_version(*names, upload)
    with flaky(skafos_up.connection["control_url"]) as proxy:
        proxy.cuts = [5_000_000, 5_000_000]
        with Client(proxy.url, skafos_up.connection["api_token"]) as shaky:
            out = shaky.fetch_version(*names, tmp_path / "fetched", version=version.version)
        assert proxy.connections == 3
    assert out.read_bytes() == upload.read_bytes()


def test_a_part_of_another_version_is_not_gone_on_with(
    client: Client, names: tuple[str, str, str], upload: Path, tmp_path: Path
) -> None:
    version = client.upload_version(*names, upload)
    (tmp_path / "fetched.part").write_bytes(b"?" * 1000)
    (tmp_path / "fetched.part.etag").write_text('"' + "0" * 64 + '"')
    out = client.fetch_version(*names, tmp_path / "fetched", version=version.version)
    assert out.read_bytes() == upload.read_bytes()


def test_a_damaged_part_is_found_out_and_thrown_away(
    client: Client, names: tuple[str, str, str], upload: Path, tmp_path: Path
) -> None:
    version = client.upload_version(*names, upload)
    (tmp_path / "fetched.part").write_bytes(b"?" * 1000)
    (tmp_path / "fetched.part.etag").write_text(f'"{version.upload_sha256}"')
    with pytest.raises(DownloadFailedError, match="damaged"):
        client.fetch_version(*names, tmp_path / "fetched", version=version.version)
    assert not (tmp_path / "fetched").exists()
    out = client.fetch_version(*names, tmp_path / "fetched", version=version.version)
    assert out.read_bytes() == upload.read_bytes()


# --- errors


def test_errors_say_what_the_caller_does_next(client: Client, names: tuple[str, str, str], skafos_up: Running) -> None:
    url = skafos_up.connection["control_url"]
    with pytest.raises(ConflictError, match="already has this name"):
        client.create_model(*names)
    with pytest.raises(InvalidParamError):
        client.create_model(*names[:2], "x" * 500)
    with pytest.raises(NotFoundError):
        client.list_versions(*names[:2], "../../../me")
    with Client(url, "sk_wrong") as stranger, pytest.raises(InvalidTokenError):
        stranger.me()


def test_members_come_and_go(client: Client, names: tuple[str, str, str], skafos_up: Running) -> None:
    member = client.add_member(skafos_up.organization, "viewer@example.org", "viewer")
    assert (member.email, member.role) == ("viewer@example.org", "viewer")
    assert client.change_member(skafos_up.organization, member.email, "developer").role == "developer"
    client.remove_member(skafos_up.organization, member.email)
    assert member.email not in {each.email for each in client.list_members(skafos_up.organization)}


def test_a_server_that_is_not_there_is_unavailable_and_the_address_is_named() -> None:
    with Client("http://127.0.0.1:9", "token") as client, pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9"):
        client.me()


def test_a_presigned_address_is_never_named_with_its_secret(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    call = Call("PUT", "http://127.0.0.1:9/bucket/x?X-Amz-Signature=secret", with_token=False)
    with Client("http://127.0.0.1:9", "token") as client, pytest.raises(UnavailableError) as caught:
        client.run(ask(call, dict[str, Any]))
    assert "secret" not in str(caught.value)


class _Other(http.server.BaseHTTPRequestHandler):
    """A server that is something else."""

    def do_GET(self) -> None:
        body = b"<html>It works!</html>" if self.path != "/v2/tokens" else json.dumps({"a": 1}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


def test_a_server_that_is_something_else_is_found_out() -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with Client(f"http://127.0.0.1:{server.server_port}", "token") as client:
            with pytest.raises(InvalidAnswerError):
                client.me()
            with pytest.raises(InvalidAnswerError):
                client.list_tokens()
    finally:
        server.shutdown()
        server.server_close()


def test_somebody_is_invited_and_taken_back_and_browsers_are_listed(client: Client, skafos_up: Running) -> None:
    org = skafos_up.organization
    made = client.invite(org, "soon@example.org", "viewer")
    assert made.url is not None
    assert made.url.startswith(f"{skafos_up.connection['control_url']}/links/")
    assert [(each.email, each.role, each.url) for each in client.list_invitations(org)] == [
        ("soon@example.org", "viewer", None)
    ]
    entry = client.list_audit(org, action="member.invite")[0]
    assert (entry.target, entry.client) == ("soon@example.org", "127.0.0.1")
    assert "soon@example.org" in client.export_audit(org, action="member.invite")
    assert client.list_audit(org, actor="nobody@example.org") == []
    client.take_back_invitation(org, made.id)
    assert client.list_invitations(org) == []
    assert [session for session in client.list_sessions() if session.present] == []
    with pytest.raises(InvalidParamError, match="password has"):
        client.change_password("short")
