"""A manifest as a plain aiohttp route, at its best: uvloop, no access log, no middleware, everything made beforehand.

``python -m bench.edge.aiohttp_route PORT PATH FILE`` serves the file under the path until it is ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path

import uvloop
from aiohttp import web

BACKLOG = 4096
IDLE_SECONDS = 300.0


def application(path: str, body: bytes) -> web.Application:
    """Return an application with one route."""
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "public, max-age=30"}

    async def manifest(request: web.Request) -> web.Response:
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type="application/json", headers=headers)

    app = web.Application()
    app.router.add_get(path, manifest)
    return app


async def serve(port: int, path: str, body: bytes) -> None:
    """Serve for ever."""
    runner = web.AppRunner(application(path, body), access_log=None, keepalive_timeout=IDLE_SECONDS)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=BACKLOG).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]).read_bytes()))
