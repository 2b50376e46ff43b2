"""A small environment that a test edits: real keys, real TUF metadata, real blobs, served over real HTTP.

`Repository` publishes as the control plane does and speaks the device API as the edge does, but lets a test change,
hold back, cut off or forge anything that is served.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from securesystemslib.signer import CryptoSigner, Signer  # type: ignore[attr-defined]

from artifacts.archive import ArchiveInfo, archive_directory
from artifacts.encodings import IDENTITY, SKAFOS_DELTA, ZSTD, ZSTD_PREFIX, encode_full
from artifacts.patch.format import Layout
from artifacts.patch.zstd_prefix import make_patch
from manifests import trust
from manifests.keys import RANDOM_BYTES, make_key
from manifests.model import BUCKETS, Condition, Encoding, Release, Rule
from manifests.trust import Lifetimes, SignedManifest
from tests.patches import simple_patch

PIECE_BYTES = 64 << 10
_ENVIRONMENT = r"/v2/environments/(?P<key>[^/]+)"
_RANGE = re.compile(r"bytes=(\d+)-")


@dataclass
class Version:
    """A version that was uploaded: its files, its archive, and the release that offers it."""

    files: dict[str, bytes]
    info: ArchiveInfo
    archive: Path
    release: Release


@dataclass
class Request:
    """What was asked."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass
class Reply:
    """What is answered.

    `cut` ends the connection after that many bytes of the body; `endless` never ends it; `pause` waits that many
    seconds after each 64 KiB; `drip` sends a byte each that many seconds.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    endless: bool = False
    pause: float = 0.0
    drip: float = 0.0


def refusal(status: int, code: str) -> Reply:
    """Return what the edge says when it refuses; what is in between has no such word."""
    return Reply(status, json.dumps({"error": "No.", "code": code}).encode())


class Repository:
    """One environment, with its keys, its manifest and its blobs.

    Args:
        folder: for archives and blobs.
        now: when metadata is signed; a test moves it.
        lifetimes: of the metadata.
    """

    def __init__(self, folder: Path, now: datetime | None = None, lifetimes: Lifetimes | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.now = now or datetime.now(UTC)
        self.lifetimes = lifetimes or Lifetimes()
        self.root_signers: list[Signer] = [CryptoSigner.generate_ed25519()]
        self.online: Signer = CryptoSigner.generate_ed25519()
        self.roots = {1: trust.first_root(self.root_signers, self.online, self.now, self.lifetimes)}
        self.key = make_key("prod", self.roots[1], os.urandom(RANDOM_BYTES))
        self.first = 1
        self.blobs: dict[str, bytes] = {}
        self.events: list[dict[str, Any]] = []
        self.registrations: dict[str, dict[str, Any]] = {}
        self.requests: list[Request] = []
        # Seconds after each piece of a blob.
        self.pause = 0.0
        # Called before an answer is sent; a reply of its own takes the answer's place.
        self.intercept: Callable[[Request], Reply | None] = lambda request: None
        self.manifest = trust.sign_content([], None, self.online, 1, self.now, self.lifetimes)

    # --- publishing

    def add_version(
        self,
        number: int,
        files: Mapping[str, bytes],
        *,
        model: str = "vision",
        bases: Sequence[Version] = (),
        encodings: Sequence[str] = (IDENTITY, ZSTD),
        patches: str = ZSTD_PREFIX,
        interface: str | None = None,
        buckets: int = BUCKETS,
        conditions: Mapping[str, Condition] | None = None,
    ) -> Version:
        """Make a version of files, with its blobs and one kind of patches from ``bases``. It is not offered yet."""
        source = self.folder / f"{model}-{number}"
        for name, content in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(content)
        archive = self.folder / f"{model}-{number}.tar"
        info = archive_directory(source, archive)
        offered = [self._blob(name, archive) for name in encodings]
        offered += [self._patch(base, archive, patches) for base in bases]
        rule = Rule(f"salt-{number}", buckets, conditions or {})
        release = Release(model, number, info.sha256, info.length, 0, rule, tuple(offered), interface)
        return Version(dict(files), info, archive, release)

    def offer(self, *releases: Release) -> SignedManifest:
        """Sign a manifest that offers exactly these."""
        self.manifest = trust.sign_content(
            releases, self.manifest, self.online, self.newest_root, self.now, self.lifetimes
        )
        return self.manifest

    def resign(self) -> SignedManifest:
        """Sign the same content anew."""
        self.manifest = trust.resign(self.manifest, self.online, self.newest_root, self.now, self.lifetimes)
        return self.manifest

    def rotate(self, *, online: Signer | None = None, root_signers: list[Signer] | None = None) -> None:
        """Publish the next root, with another online key, other root keys, or both."""
        signers = root_signers or self.root_signers
        self.online = online or self.online
        number = self.newest_root + 1
        self.roots[number] = trust.next_root(
            self.roots[number - 1], self.root_signers, signers, self.online, self.now, self.lifetimes
        )
        self.root_signers = signers
        self.resign()

    @property
    def newest_root(self) -> int:
        return max(self.roots)

    @property
    def body(self) -> bytes:
        """The manifest as it is served."""
        return trust.render_body(self.manifest, self.first)

    def _blob(self, name: str, archive: Path) -> Encoding:
        if name == IDENTITY:
            return self._encoding(name, archive.read_bytes(), None)
        blob = self.folder / f"{archive.name}.{name}"
        encode_full(archive, blob)
        return self._encoding(name, blob.read_bytes(), None)

    def _patch(self, base: Version, archive: Path, name: str) -> Encoding:
        if name == SKAFOS_DELTA:
            # Small blocks, so that little content has many.
            patch = simple_patch(base.archive.read_bytes(), archive.read_bytes(), Layout(12, 12))
            return self._encoding(name, patch, base.info.sha256)
        blob = self.folder / f"{archive.name}.{base.release.version}.patch"
        make_patch(base.archive, archive, blob)
        return self._encoding(name, blob.read_bytes(), base.info.sha256)

    def _encoding(self, name: str, content: bytes, base: str | None) -> Encoding:
        digest = sha256(content).hexdigest()
        self.blobs[digest] = content
        return Encoding(name, digest, len(content), base)

    # --- serving

    def answer(self, request: Request) -> Reply:
        """Answer as the edge does."""
        self.requests.append(request)
        if (own := self.intercept(request)) is not None:
            return own
        if match := re.fullmatch(r"/v2/artifacts/([0-9a-f]{64})", request.path):
            return self._artifact(match[1], request)
        match = re.fullmatch(_ENVIRONMENT + r"/(?P<rest>.+)", request.path)
        if match is None or match["key"] != self.key:
            return refusal(404, "unknown_key")
        return self._environment(match["rest"], request)

    def _environment(self, rest: str, request: Request) -> Reply:
        if rest == "manifest":
            etag = trust.etag(self.body)
            if request.headers.get("if-none-match") == etag:
                return Reply(304, headers={"ETag": etag})
            return Reply(200, self.body, {"ETag": etag})
        if match := re.fullmatch(r"root/(\d+)\.json", rest):
            root = self.roots.get(int(match[1]))
            return Reply(200, root) if root else refusal(404, "not_found")
        if rest == "events":
            handed_in = _events(request)
            self.events += handed_in
            told = {"accepted": len(handed_in), "refused": [], "refused_count": 0}
            return Reply(202, json.dumps(told).encode())
        if match := re.fullmatch(r"devices/(.+)", rest):
            self.registrations[match[1]] = json.loads(request.body)
            return Reply(202, json.dumps({"registered": match[1]}).encode())
        return refusal(404, "unknown_route")

    def _artifact(self, name: str, request: Request) -> Reply:
        content = self.blobs.get(name)
        if content is None:
            return refusal(404, "not_found")
        etag = f'"{name}"'
        wanted = _RANGE.fullmatch(request.headers.get("range", ""))
        if wanted and request.headers.get("if-range", etag) == etag:
            start = int(wanted[1])
            if start >= len(content):
                return Reply(416, headers={"Content-Range": f"bytes */{len(content)}"})
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return Reply(206, content[start:], {"ETag": etag, "Content-Range": span}, pause=self.pause)
        return Reply(200, content, {"ETag": etag}, pause=self.pause)

    def asked(self, part: str) -> list[Request]:
        """Return the requests so far whose path holds ``part``."""
        return [request for request in self.requests if part in request.path]

    def events_of(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of one type that were handed in."""
        return [event for event in self.events if event["type"] == kind]


class Served:
    """A repository behind a real HTTP server on a loopback port, for the length of a ``with``."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        handler = type("Handler", (_Handler,), {"repository": repository})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop answering; connections are refused from now on, and those that were kept open are closed."""
        self._server.shutdown()
        self._server.server_close()
        self._server.hang_up()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Hundreds of devices may be killed while they connect.
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A device that hangs up, or is killed, is what many tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one packet each; Nagle's algorithm would wait 40 ms between them.
    disable_nagle_algorithm = True
    repository: Repository

    def do_GET(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.repository.answer(Request(self.command, self.path, headers, body))
        try:
            self._send(reply)
        except ConnectionError:
            self.close_connection = True

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.endless:
            self.send_header("Connection", "close")
            self.end_headers()
            while True:
                self.wfile.write(b"x" * 65536)
        if reply.status != 304:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        body = reply.body[: reply.cut]
        piece = 1 if reply.drip else PIECE_BYTES
        for start in range(0, len(body), piece):
            self.wfile.write(body[start : start + piece])
            time.sleep(reply.drip or reply.pause)
        if reply.cut is not None:
            self.close_connection = True


def _events(request: Request) -> list[dict[str, Any]]:
    body = gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body
    return [json.loads(line) for line in body.splitlines() if line]


def expired(repository: Repository, ago: timedelta = timedelta(days=30)) -> None:
    """Sign the repository's manifest as of a time so long ago that it has expired, and serve that."""
    present, repository.now = repository.now, repository.now - ago
    try:
        repository.resign()
    finally:
        repository.now = present
