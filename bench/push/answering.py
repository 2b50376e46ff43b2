"""Answers each request after a while: ``python -m bench.push.answering SOCKET DELAY`` until it is ended.

nginx speaks HTTP/2 in front of it, at a fraction of what that costs in Python.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

END = b"\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Answering(asyncio.Protocol):
    """A connection of nginx, which sends one request at a time and no bodies.

    Args:
        delay: in seconds.
    """

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer a whole request later."""
        self._read += data
        if self._read.endswith(END):
            self._read = b""
            asyncio.get_running_loop().call_later(self._delay, self._transport.write, ANSWER)


async def serve(path: str, delay: float) -> None:
    """Answer until the process is ended."""
    await asyncio.get_running_loop().create_unix_server(lambda: Answering(delay), path)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], float(sys.argv[2])))
