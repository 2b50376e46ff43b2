"""Push servers in a thread of their own, for tests that wait for other processes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from tests.control_plane.push.certificates import make_pair, server_context
from tests.servers.http2 import Http2Server, running

START_SECONDS = 20.0


@contextmanager
def in_thread(folder: Path, *servers: Http2Server) -> Iterator[Path]:
    """Run servers within the block; give the file of the authority that they are trusted by."""
    pair = make_pair(topic=None, servers=(), address="127.0.0.1")
    file = folder / "push-authority.pem"
    file.write_bytes(pair.certificate_pem)
    ready, over = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with AsyncExitStack() as stack:
            for server in servers:
                await stack.enter_async_context(running(server, server_context(pair)))
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(START_SECONDS)
    try:
        yield file
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(START_SECONDS)
        loop.close()
