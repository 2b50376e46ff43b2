"""A control plane as its own process, with a database, a Redis and folders of its own, and a client to talk to it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from control_plane.bootstrap import bootstrap, issue_token
from control_plane.database import Database
from tests.servers.redis import RedisServer, running_redis

START_SECONDS = 60.0
STOP_SECONDS = 20.0
ORGANIZATION = "Acme"
OWNER = "owner@example.org"


@dataclass
class Api:
    """A running control plane, seen from outside.

    Args:
        folder: its data folder's parent.
        database_url: of its database, which the tests reach to make tokens.
        redis: its Redis.
        settings: further `SKAFOS_*` variables.
    """

    folder: Path
    database_url: str
    redis: RedisServer
    settings: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    metrics_url: str = ""
    owner: str = ""
    process: subprocess.Popen[bytes] | None = None
    _document: Any = None
    _client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=60.0, trust_env=False))

    # --- Talking to it --------------------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: Any = None, token: str | None = None, **more: Any) -> httpx.Response:
        """Send a request with a token (the owner's if none is given, none at all if it is "")."""
        token = self.owner if token is None else token
        headers = {"X-API-TOKEN": token} if token else {}
        headers |= more.pop("headers", {})
        if body is not None:
            more["json"] = body
        return self.declared(self._client.request(method, f"{self.url}{path}", headers=headers, **more))

    def declared(self, answer: httpx.Response) -> httpx.Response:
        """Return an answer, once it is clear that the served OpenAPI document tells of its status."""
        if self._document is None:
            self._document = self._client.get(f"{self.url}/v2/openapi.json").json()
        assert_declared(self._document, answer.request.method, answer.request.url.raw_path, answer.status_code)
        return answer

    def get(self, path: str, **more: Any) -> Any:
        """Return the JSON answer to a GET that must succeed."""
        return _whole(self.call("GET", path, **more))

    def post(self, path: str, body: Any = None, **more: Any) -> Any:
        """Return the JSON answer to a POST that must succeed."""
        return _whole(self.call("POST", path, {} if body is None else body, **more))

    def patch(self, path: str, body: Any, **more: Any) -> Any:
        """Return the JSON answer to a PATCH that must succeed."""
        return _whole(self.call("PATCH", path, body, **more))

    def delete(self, path: str, **more: Any) -> None:
        """Send a DELETE that must succeed."""
        answer = self.call("DELETE", path, **more)
        assert answer.status_code == 204, answer.text

    def token_of(self, email: str) -> str:
        """Return a new token of a user who is a member somewhere."""
        return _with_database(self.database_url, lambda database: issue_token(database, email, "test"))

    def outsider(self, organization: str, email: str) -> str:
        """Return a token of the owner of another organization."""
        return _with_database(self.database_url, lambda database: bootstrap(database, organization, email, "test"))

    def upload(self, model: str, data: bytes, filename: str = "model.zip", description: str | None = None) -> Any:
        """Upload a version of the model at path ``model`` and return it."""
        asked = {"filename": filename} | ({"description": description} if description else {})
        begun = self.post(f"{model}/model_versions", asked)
        # The address names the host that clients reach it by, which a test may make up.
        at = httpx.URL(begun["presigned_url"]).raw_path.decode()
        sent = self.declared(self._client.put(f"{self.url}{at}", content=data))
        assert sent.status_code == 200, sent.text
        version = f"{model}/model_versions/{begun['model_version_id']}"
        return self.patch(version, {"filepath": begun["filepath"]})

    def log(self) -> str:
        """Return what it has logged so far."""
        return (self.folder / "log").read_text()

    # --- Its process ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it, and wait until it says that it is ready."""
        ready_file = self.folder / "ready.json"
        ready_file.unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "control_plane"], stderr=log, env=self.environment())
        deadline = time.monotonic() + START_SECONDS
        while not ready_file.exists():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)
        ready = json.loads(ready_file.read_text())
        assert ready["pid"] == self.process.pid
        self.url, self.metrics_url = f"http://{ready['listen']}", f"http://{ready['metrics']}"

    def stop(self) -> int:
        """End it in order and return its exit code."""
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_SECONDS)
        finally:
            process.kill()
            process.wait()

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m control_plane` with arguments, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "control_plane", *arguments],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )

    def environment(self) -> dict[str, str]:
        """Return the environment that it runs in."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SKAFOS_")}
        own = {
            "SKAFOS_CONTROL_LISTEN": "127.0.0.1:0",
            "SKAFOS_CONTROL_METRICS_LISTEN": "127.0.0.1:0",
            "SKAFOS_CONTROL_READY_FILE": str(self.folder / "ready.json"),
            "SKAFOS_DATA": str(self.folder / "data"),
            "SKAFOS_DATABASE_URL": self.database_url,
            "SKAFOS_REDIS_URL": self.redis.url,
        }
        return inherited | own | dict(self.settings)


@contextmanager
def running_api(folder: Path, database_url: str, **settings: str) -> Iterator[Api]:
    """Run a control plane with one organization and its owner while the block lasts."""
    with running_redis() as redis:
        api = Api(folder, database_url, redis, settings)
        try:
            api.start()
            api.owner = api.outsider(ORGANIZATION, OWNER)
            yield api
        finally:
            api.stop()


def assert_declared(document: Any, method: str, raw_path: bytes, status: int) -> None:
    """Check that the OpenAPI document has a status among the answers of the route that a request went to."""
    path = raw_path.decode("ascii").partition("?")[0]
    for template, operations in document["paths"].items():
        operation = operations.get(method.lower()) or (operations.get("get") if method == "HEAD" else None)
        if operation is not None and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            assert str(status) in operation["responses"], (
                f"{method} {template} answered {status}, which is not declared"
            )
            return


def _with_database(url: str, use: Callable[[Database], Awaitable[str]]) -> str:
    async def connected() -> str:
        database = Database(url)
        try:
            return await use(database)
        finally:
            await database.close()

    return asyncio.run(connected())


def _whole(answer: httpx.Response) -> Any:
    assert answer.is_success, f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}"
    return answer.json()
