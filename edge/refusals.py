"""Who was refused, for finding abuse: off unless an operator asks, because an address is personal data.

The edge counts what it refuses and keeps nothing about who that was. While somebody floods it, an operator can turn
these lines on, see the addresses, and act where they can be turned away cheaply: in a firewall, a proxy or a CDN.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog
from aiohttp import web

from edge.clients import Clients
from edge.proxy_protocol import Address

# Enough to see who it is; a flood must not fill the disk as well. Some 15 MB a day at the most.
LINES_A_MINUTE = 60

log = structlog.get_logger(__name__)


class Refusals:
    """Writes refusals to the log.

    Args:
        clients: whose a request is.
        told: whether clients' addresses are logged.
        clock: seconds, monotonic.
    """

    def __init__(self, clients: Clients, *, told: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._clients = clients
        self._told = told
        self._ration = _Ration(clock)

    def request(self, request: web.Request, code: str) -> None:
        """A request was answered with an error: of the client, or because a bound is reached."""
        if self._told and self._ration.take():
            self._say(
                "refused", client=self._clients.of_request(request), code=code, route=request.match_info.route.name
            )

    def connection(self, transport: asyncio.BaseTransport | None, code: str) -> None:
        """A connection was refused before its request was known."""
        if self._told and self._ration.take():
            self._say("refused", client=self._clients.of_connection(transport), code=code)

    def proxy(self, address: Address | None, reason: str) -> None:
        """A trusted proxy does not speak as agreed: a mistake of its set-up or ours, and the address of no device."""
        if self._ration.take():
            self._say("proxy_refused", proxy=address, reason=reason)

    def _say(self, event: str, **told: object) -> None:
        shown = {name: str(value) for name, value in told.items() if value is not None}
        log.warning(event, **shown, **self._ration.told())


class _Ration:
    """A number of lines for each minute, and how many were left out since the last one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = clock()
        self._lines = 0
        self._left_out = 0

    def take(self) -> bool:
        """Tell whether there is a line to be had."""
        now = self._clock()
        if now - self._began >= 60:
            self._began, self._lines = now, 0
        if self._lines >= LINES_A_MINUTE:
            self._left_out += 1
            return False
        self._lines += 1
        return True

    def told(self) -> dict[str, int]:
        """Return what to say about lines that were left out, once."""
        left_out, self._left_out = self._left_out, 0
        return {"left_out": left_out} if left_out else {}
