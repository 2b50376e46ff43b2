"""One connection at a time to servers in this very loop, piece by piece, until nothing more comes."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

READ_BYTES = 1 << 20
# Turns of the loop without a byte after which nothing is under way: an answer takes aiohttp a handful. Only timers
# could bring more, and none of the servers' runs out this soon.
QUIET_TURNS = 40
# What differs between two answers that are the same: when it was, and which program spoke.
_PASSING = re.compile(rb"(?:Date|Server): [^\r\n]*\r\n")


@dataclass(frozen=True)
class Exchange:
    """What came back, without ``Date`` and ``Server``, and whether the server left the connection open."""

    received: bytes
    open: bool

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", self.received)]


async def exchange(address: tuple[str, int], pieces: Sequence[bytes], *, end: bool = False) -> Exchange:
    """Send each piece, let the server see it alone, and return what came of it.

    Args:
        address: of the server.
        pieces: of what is sent.
        end: whether the client says at once that it sends no more.
    """
    with socket.create_connection(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        received = bytearray()
        is_open = True
        for piece in pieces:
            try:
                await asyncio.get_running_loop().sock_sendall(connection, piece)
            except OSError:
                break
            is_open = is_open and await _read(connection, received, 4)
        if end and is_open:
            connection.shutdown(socket.SHUT_WR)
        is_open = is_open and await _read(connection, received, QUIET_TURNS)
        return Exchange(_PASSING.sub(b"", bytes(received)), is_open)


async def _read(connection: socket.socket, received: bytearray, quiet_turns: int) -> bool:
    """Read until the loop has made so many turns without a byte; say whether the connection is still open."""
    quiet = 0
    while quiet < quiet_turns:
        await asyncio.sleep(0)
        try:
            data = connection.recv(READ_BYTES)
        except BlockingIOError:
            quiet += 1
            continue
        except ConnectionResetError:
            return False
        if not data:
            return False
        received += data
        quiet = 0
    return True
