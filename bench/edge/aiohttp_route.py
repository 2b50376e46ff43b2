"""A manifest as a plain aiohttp route, at its best: uvloop, no access log, no middleware, everything made beforehand.

Beside it events as one would write that down first: a batch is parsed, appended to a file and synced, in a thread.

``python -m bench.edge.aiohttp_route PORT PATH FILE EVENTS`` serves the file under the path until it is ended, and
appends what is posted beside it to the file EVENTS.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from pathlib import Path

import orjson
import uvloop
from aiohttp import web

BACKLOG = 4096
IDLE_SECONDS = 300.0


def application(path: str, body: bytes, events_file: int) -> web.Application:
    """Return an application with both routes; ``events_file`` is a descriptor."""
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "public, max-age=30"}

    async def manifest(request: web.Request) -> web.Response:
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type="application/json", headers=headers)

    def append(batch: bytes) -> None:
        os.write(events_file, batch + b"\n")
        os.fdatasync(events_file)

    async def events(request: web.Request) -> web.Response:
        batch = await request.read()
        count = len(orjson.loads(batch))
        await asyncio.to_thread(append, batch)
        return web.json_response({"accepted": count, "refused": [], "refused_count": 0}, status=202)

    app = web.Application()
    app.router.add_get(path, manifest)
    app.router.add_post(f"{path.removesuffix('/manifest')}/events", events)
    return app


async def serve(port: int, path: str, body: bytes, events: Path) -> None:
    """Serve for ever."""
    events_file = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    runner = web.AppRunner(application(path, body, events_file), access_log=None, keepalive_timeout=IDLE_SECONDS)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=BACKLOG).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]).read_bytes(), Path(sys.argv[4])))
