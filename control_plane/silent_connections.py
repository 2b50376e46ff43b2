"""Closing connections on which no request comes.

aiohttp bounds how long a connection is kept between requests, and not how long the first one may take: whoever opens
connections and says nothing, or a byte a minute, would use up our file descriptors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

# The head of a request is a kilobyte; over the slowest line that is of use it takes a few seconds.
HEAD_SECONDS = 20.0


class SilentConnections:
    """Knows on which connections a request has come, and closes the others.

    Args:
        head_seconds: for the head of the first request.
    """

    def __init__(self, head_seconds: float = HEAD_SECONDS) -> None:
        self._head_seconds = head_seconds
        # A connection that ends without a request stays here until its time is up.
        self._silent: dict[Any, asyncio.TimerHandle] = {}

    def watch(self, connect: Callable[[], Any]) -> Callable[[], Any]:
        """Return a protocol factory like ``connect`` whose connections are closed when they stay silent."""

        def connect_and_watch() -> Any:
            protocol = connect()
            loop = asyncio.get_running_loop()
            self._silent[protocol] = loop.call_later(self._head_seconds, self._close, protocol)
            return protocol

        return connect_and_watch

    def middleware(self) -> Any:
        """Return the aiohttp middleware that notes requests; the outermost one."""

        @web.middleware
        async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
            timer = self._silent.pop(request.protocol, None)
            if timer is not None:
                timer.cancel()
            return await handler(request)

        return note

    def _close(self, protocol: Any) -> None:
        del self._silent[protocol]
        if protocol.transport is not None:
            protocol.transport.close()
