"""TLS at the edge: a real handshake with real files, which are renewed, broken, lost, and expire."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import ClientSession, TCPConnector
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs

from bench.edge.certificate import Certificate, make_certificate
from edge.certificates import EXPIRES_SOON, WARN_AGAIN, Certificates, CertificateUnusable
from tests.edge.raw import RawAnswer, connect, read_answer, request
from tests.edge.site import Edge, Environment, Site, eventually, metric, release_of, sha256
from tests.edge.test_process import fails
from tests.edge.test_proxy_protocol import LINE, version_2

FAILED = "skafos_edge_connections_failed_total"
CONTENT = random.Random(11).randbytes(3_000_000)


@pytest_asyncio.fixture
async def environment(site: Site) -> Environment:
    await site.put(CONTENT)
    made = Environment([release_of(CONTENT)])
    await site.publish(made)
    return made


@pytest.fixture
def files(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path)


@pytest_asyncio.fixture
async def edge(site: Site, environment: Environment, files: Certificate) -> AsyncIterator[Edge]:
    async with site.edge(**tls(files), edge_handshake_seconds=0.5) as running:
        yield running


def tls(files: Certificate) -> dict[str, str]:
    return {"edge_tls_certificate": str(files.certificate), "edge_tls_key": str(files.key)}


def client(files: Certificate) -> ssl.SSLContext:
    """Return a context that trusts this very certificate."""
    return ssl.create_default_context(cafile=files.certificate)


async def ask(edge: Edge, context: ssl.SSLContext, path: str, begun: bytes = b"") -> RawAnswer:
    """Ask over TLS on a connection of its own, behind the bytes of a proxy."""
    reader, writer = await connect(edge)
    if begun:
        writer.write(begun)
        await writer.drain()
    try:
        await writer.start_tls(context, server_hostname="127.0.0.1")
        writer.write(request("GET", path))
        return await read_answer(reader)
    finally:
        writer.close()


async def test_devices_are_served_over_tls(edge: Edge, environment: Environment, files: Certificate) -> None:
    async with ClientSession(connector=TCPConnector(ssl=client(files)), auto_decompress=False) as session:
        url = f"https://{edge.running.listen}/v2/environments/{environment.key}"
        async with session.get(f"{url}/manifest") as answer:
            assert answer.status == 200
            etag = answer.headers["ETag"]
        async with session.get(f"{url}/manifest", headers={"If-None-Match": etag}) as answer:
            assert answer.status == 304
        async with session.get(f"https://{edge.running.listen}/v2/artifacts/{sha256(CONTENT)}") as answer:
            assert await answer.read() == CONTENT
        async with session.post(f"{url}/events", json=[]) as answer:
            assert answer.status == 202
    assert (await edge.operations("/readyz")).status == 200, "the operators' port stays plain"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_http_1_1_is_agreed_on_in_both_versions(edge: Edge, files: Certificate, version: ssl.TLSVersion) -> None:
    context = client(files)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await asyncio.open_connection(*edge.address, ssl=context)
    agreed = writer.get_extra_info("ssl_object")
    assert agreed.selected_alpn_protocol() == "http/1.1"
    assert agreed.version() == version.name.replace("TLSv1_", "TLSv1.")
    writer.close()


async def test_older_versions_are_refused(edge: Edge, files: Certificate) -> None:
    before = metric(FAILED, cause="tls")
    context = client(files)
    context.set_ciphers("ALL:@SECLEVEL=0")  # else the client itself would not try
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(*edge.address, ssl=context)
    await eventually(lambda: _is(metric(FAILED, cause="tls") == before + 1))


async def _is(true: bool) -> bool:
    return true


@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\nHost: edge\r\n\r\n"])
async def test_a_client_without_a_handshake_is_closed_and_counted(
    edge: Edge, environment: Environment, files: Certificate, begun: bytes
) -> None:
    before = metric(FAILED, cause="tls")
    reader, writer = await connect(edge)
    writer.write(begun)
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(20):
            assert b"HTTP" not in await reader.read()
    writer.close()
    await eventually(lambda: _is(metric(FAILED, cause="tls") == before + 1))
    path = f"/v2/environments/{environment.key}/manifest"
    assert (await ask(edge, client(files), path)).status == 200


async def test_garbage_in_place_of_handshakes_harms_nobody(
    edge: Edge, environment: Environment, files: Certificate
) -> None:
    chance = random.Random(3)
    for _ in range(50):
        _, writer = await connect(edge)
        writer.write(b"\x16\x03\x01" * chance.randrange(2) + chance.randbytes(chance.randrange(1, 400)))
        writer.close()
    assert (await ask(edge, client(files), f"/v2/environments/{environment.key}/manifest")).status == 200


@pytest.mark.parametrize("header", [LINE, version_2()])
async def test_a_proxy_introduces_a_client_before_its_handshake(
    site: Site, environment: Environment, files: Certificate, header: bytes
) -> None:
    asked = {"edge_log_refusals": True, "edge_proxy_protocol": True, "edge_trusted_proxies": "127.0.0.1"}
    async with site.edge(**tls(files), **asked) as edge:
        with capture_logs() as logged:
            assert (await ask(edge, client(files), "/v2/artifacts/nonsense", header)).status == 400
        assert [line["client"] for line in logged] == ["203.0.113.9"]


async def test_a_renewed_certificate_serves_the_next_connection_and_those_that_are_open_go_on(
    site: Site, environment: Environment, files: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.certificates.LOOK_SECONDS", 0.02)
    path = f"/v2/environments/{environment.key}/manifest"
    old = client(files)
    async with site.edge(**tls(files)) as edge:
        reader, writer = await asyncio.open_connection(*edge.address, ssl=old, server_hostname="127.0.0.1")
        make_certificate(files.certificate.parent)
        new = client(files)

        async def renewed() -> bool:
            with contextlib.suppress(ssl.SSLCertVerificationError):
                return (await ask(edge, new, path)).status == 200
            return False

        await eventually(renewed)
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(edge, old, path)
        writer.write(request("GET", path))
        assert (await read_answer(reader)).status == 200
        writer.close()


def test_files_that_cannot_be_used_leave_the_old_ones_in_use_until_they_can(files: Certificate) -> None:
    certificates = Certificates(files.certificate, files.key)
    before, failures = certificates.context, metric("skafos_edge_certificate_failures_total")
    key = files.key.read_bytes()
    with capture_logs() as logged:
        files.key.write_bytes(b"half of a k")
        certificates.look()
        certificates.look()
        files.key.unlink()
        certificates.look()
    assert [line["event"] for line in logged] == ["certificate_not_reloaded"] * 2
    assert certificates.context is before
    assert metric("skafos_edge_certificate_failures_total") == failures + 2
    files.key.write_bytes(key)
    certificates.look()
    assert certificates.context is not before


def test_files_that_stay_are_loaded_once(files: Certificate) -> None:
    certificates = Certificates(files.certificate, files.key)
    before = certificates.context
    certificates.look()
    assert certificates.context is before


def test_files_swapped_by_a_symbolic_link_are_seen(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        make_certificate(tmp_path / name)
    current = tmp_path / "current"
    current.symlink_to(tmp_path / "first")
    certificates = Certificates(current / "certificate.pem", current / "key.pem")
    before = certificates.context
    (tmp_path / "next").symlink_to(tmp_path / "second")
    (tmp_path / "next").replace(current)
    certificates.look()
    assert certificates.context is not before


def test_an_end_that_comes_near_is_told_once_a_day_and_as_a_metric(tmp_path: Path) -> None:
    files = make_certificate(tmp_path, EXPIRES_SOON + timedelta(hours=1))
    now = [datetime.now(UTC)]
    with capture_logs() as logged:
        certificates = Certificates(files.certificate, files.key, lambda: now[0])
        assert logged == []
        for step in (timedelta(hours=2), timedelta(hours=1), WARN_AGAIN, EXPIRES_SOON):
            now[0] += step
            certificates.look()
    assert [line["event"] for line in logged] == ["certificate_expires_soon"] * 2 + ["certificate_expired"]
    told = metric("skafos_edge_certificate_expiry_timestamp_seconds")
    assert told == x509.load_pem_x509_certificate(files.certificate.read_bytes()).not_valid_after_utc.timestamp()


def test_an_expired_certificate_is_reported_at_the_start(tmp_path: Path) -> None:
    files = make_certificate(tmp_path, -timedelta(hours=1))
    with capture_logs() as logged:
        Certificates(files.certificate, files.key)
    assert [line["event"] for line in logged] == ["certificate_expired"]


def broken_files(folder: Path) -> Iterator[tuple[str, Path, Path, str]]:
    """Yield what is wrong, the two files, and what is said."""
    good = make_certificate(folder)
    (folder / "other").mkdir()
    other = make_certificate(folder / "other")
    empty = folder / "empty.pem"
    empty.touch()
    encrypted = folder / "encrypted.pem"
    key = serialization.load_pem_private_key(good.key.read_bytes(), None)
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    yield "missing", folder / "nowhere.pem", good.key, "certificate .*nowhere.pem cannot be read: No such file"
    yield "missing", good.certificate, folder / "nowhere.pem", "key .*nowhere.pem cannot be read: No such file"
    yield "unreadable", good.certificate, folder, "key .* cannot be read: Is a directory"
    yield "empty", empty, good.key, "holds no certificate"
    yield "empty", good.certificate, empty, "cannot be used"
    yield "swapped", good.key, good.certificate, "holds no certificate"
    yield "others", good.certificate, other.key, "does not belong to the certificate"
    yield "encrypted", good.certificate, encrypted, "it is encrypted"


def test_what_is_wrong_with_the_files_is_said(tmp_path: Path) -> None:
    for _, certificate, key, said in broken_files(tmp_path):
        with pytest.raises(CertificateUnusable, match=said):
            Certificates(certificate, key)


async def test_an_edge_with_wrong_files_does_not_start_and_says_why(site: Site, files: Certificate) -> None:
    given = {"EDGE_TLS_CERTIFICATE": str(files.certificate), "EDGE_TLS_KEY": str(files.key)}
    for changes, said in [
        ({"EDGE_TLS_KEY": str(site.folder / "nowhere.pem")}, "nowhere.pem cannot be read"),
        ({"EDGE_TLS_KEY": ""}, "EDGE_TLS_KEY belong together"),
        ({"EDGE_PROXY_PROTOCOL": "yes"}, "EDGE_TRUSTED_PROXIES names nobody"),
        ({"EDGE_TRUSTED_PROXIES": "10.0.0.1/8"}, "SKAFOS_EDGE_TRUSTED_PROXIES"),
    ]:
        process = site.process(**{name: value for name, value in (given | changes).items() if value})
        code, log = await fails(process)
        assert code == 2
        assert said in log
        assert "Traceback" not in log


async def test_as_a_process_it_serves_over_tls_behind_a_proxy_and_ends_in_order(
    site: Site, environment: Environment, files: Certificate
) -> None:
    """On uvloop, which a process runs on."""
    process = site.process(
        EDGE_TLS_CERTIFICATE=str(files.certificate),
        EDGE_TLS_KEY=str(files.key),
        EDGE_PROXY_PROTOCOL="true",
        EDGE_TRUSTED_PROXIES="127.0.0.0/8, ::1",
        EDGE_LOG_REFUSALS="true",
        EDGE_SHUTDOWN_SECONDS="5",
    )
    digest = sha256(CONTENT)
    async with process.running() as edge:
        for number in (8, 9):
            header = LINE.replace(b".9 ", f".{number} ".encode())
            assert (await ask(edge, client(files), f"/v2/artifacts/{digest}", header)).body == CONTENT
            assert (await ask(edge, client(files), "/v2/artifacts/nonsense", header)).status == 400
            reader, writer = await connect(edge)
            writer.write(header)
            await writer.start_tls(client(files), server_hostname="127.0.0.1")
            for asked, status in (
                (request("GET", f"/v2/environments/{environment.key}/manifest"), 200),
                (b"nonsense\r\n\r\n", 400),
            ):
                writer.write(asked)
                assert (await read_answer(reader)).status == status
            writer.close()
        held = await connect(edge)  # neither introduced nor encrypted when the end comes
        assert await asyncio.to_thread(process.end, signal.SIGTERM) == 0
        held[1].close()
    assert [part for part in ("203.0.113.8", "203.0.113.9") if process.log.count(f'"client": "{part}"') == 2] == [
        "203.0.113.8",
        "203.0.113.9",
    ]
    assert '"level": "error"' not in process.log
    assert os.fspath(files.key) not in process.log
