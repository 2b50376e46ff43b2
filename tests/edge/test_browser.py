"""A browser updates from version to version by RFC 9842: Debian's Chromium, a page, and the edge behind a server."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.components import free_port
from tests.edge.site import Edge, Environment, Site, sha256
from tests.edge.versions import Versions, successor
from tests.servers.chromium import running_chromium

PAGE_SECONDS = 60.0
FIRST = random.Random(1).randbytes(3_000_000)
SECOND = successor(FIRST, 2)
THIRD = successor(SECOND, 3)

# A browser writes dictionaries in the background, so the page asks until the browser tells of the one it has just got.
PAGE = """<!doctype html><title>Update</title><script type="module">
const results = [];
const digest = async bytes => new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
const hex = bytes => [...bytes].map(byte => byte.toString(16).padStart(2, "0")).join("");
const base64 = bytes => btoa(String.fromCharCode(...bytes));

async function get(version) {
  const response = await fetch(VERSIONS.replace("*", version));
  const content = await response.arrayBuffer();
  const hash = await digest(content);
  results.push({version, status: response.status, length: content.byteLength, sha256: hex(hash)});
  return `:${base64(hash)}:`;
}

async function keeps(dictionary) {
  for (;;) {
    const seen = await fetch(VERSIONS.replace("*", "probe"), {cache: "no-store"});
    if (await seen.text() === dictionary) return;
    await new Promise(resolve => setTimeout(resolve, 20));
  }
}

try {
  await keeps(await get(1));
  await keeps(await get(2));
  await get(3);
  await get(3);
} catch (error) {
  results.push(String(error));
}
await fetch("/results", {method: "POST", body: JSON.stringify(results)});
</script>"""


@dataclass
class Front:
    """A server for the page, and one for the edge's API that writes down what passes.

    Args:
        edge: behind it.
        versions: what the page asks for.
    """

    edge: Edge
    versions: Versions
    passed: list[tuple[str, Mapping[str, str], web.Response]] = field(default_factory=list)
    results: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    api: str = ""

    async def page(self, _: web.Request) -> web.Response:
        versions = json.dumps(self.api + self.versions.path("*"))
        return web.Response(text=PAGE.replace("VERSIONS", versions), content_type="text/html")

    async def take_results(self, request: web.Request) -> web.Response:
        self.results.set_result(await request.json())
        return web.Response()

    async def probe(self, request: web.Request) -> web.Response:
        """Tell which dictionary the browser tells of."""
        told = request.headers.get("Available-Dictionary", "")
        return web.Response(text=told, headers={"Cache-Control": "no-store", "Access-Control-Allow-Origin": "*"})

    async def pass_on(self, request: web.Request) -> web.Response:
        kept = ("Accept-Encoding", "Available-Dictionary", "Range", "If-Range", "If-None-Match")
        fields = {name: request.headers[name] for name in kept if name in request.headers}
        answer = await self.edge.ask(request.method, request.path, headers=fields)
        dropped = {"date", "server", "content-length"}
        headers = {name: text for name, text in answer.headers.items() if name.lower() not in dropped}
        response = web.Response(status=answer.status, body=answer.body, headers=headers)
        self.passed.append((request.path, request.headers, response))
        return response

    @asynccontextmanager
    async def running(self, *, apart: bool) -> AsyncIterator[str]:
        """Serve within the block; give the page's URL.

        Args:
            apart: whether the API has an origin of its own.
        """
        app = web.Application()
        app.add_routes(
            [
                web.get("/", self.page),
                web.post("/results", self.take_results),
                web.get(self.versions.path("probe"), self.probe),
                web.get("/v2/{rest:.*}", self.pass_on),
            ]
        )
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            ports = [free_port() for _ in range(2)]
            for port in ports:
                await web.TCPSite(runner, "127.0.0.1", port).start()
            # Secure contexts without a certificate: RFC 9842 section 8 asks for one.
            self.api = f"http://localhost:{ports[1]}" if apart else ""
            yield f"http://localhost:{ports[0]}/"
        finally:
            await runner.cleanup()


@pytest.mark.parametrize("apart", [False, True], ids=["of the page's origin", "of another origin"])
async def test_chromium_goes_from_version_to_version_with_few_bytes(site: Site, tmp_path: Path, apart: bool) -> None:
    versions = await Versions(site, Environment(), (FIRST, SECOND, THIRD)).publish()
    async with site.edge() as edge:
        front = Front(edge, versions)
        async with front.running(apart=apart) as url:
            with running_chromium(tmp_path, url) as log:
                try:
                    async with asyncio.timeout(PAGE_SECONDS):
                        results = await front.results
                except TimeoutError:
                    pytest.fail(f"the page did not report; Chromium said: {log.read_text()[-2000:]}")
    got = [(1, FIRST), (2, SECOND), (3, THIRD), (3, THIRD)]
    assert results == [
        {"version": version, "status": 200, "length": len(content), "sha256": sha256(content)}
        for version, content in got
    ]
    assert [path for path, _, _ in front.passed] == [versions.path(1), versions.path(2), versions.path(3)]
    (_, asked_first, first), *updates = front.passed
    assert "Available-Dictionary" not in asked_first
    assert (first.headers.get("Content-Encoding"), first.body) == (None, FIRST)
    for (_, asked, response), base, patch in zip(updates, (FIRST, SECOND), versions.patches, strict=True):
        hashed = base64.b64encode(bytes.fromhex(sha256(base))).decode()
        assert asked["Available-Dictionary"] == f":{hashed}:"
        assert "dcz" in [coding.strip() for coding in asked["Accept-Encoding"].split(",")]
        assert response.headers["Content-Encoding"] == "dcz"
        assert response.body == bytes.fromhex("5e2a4d1820000000" + sha256(base)) + patch
        assert len(patch) < len(base) / 1000
