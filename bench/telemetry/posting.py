"""Posts batches at a fixed rate, each with event ids that no other has, and counts what was acknowledged."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.edge.load import LoadFailed

CONNECTIONS: Final = 16
_ID_START: Final = re.compile(rb'(?<="event_id":")[0-9a-f]{8}')


@dataclass
class Posting:
    """A load that goes on until it is told to stop.

    Args:
        address: of the edge.
        path: of the environment's events.
        bodies: batches; they are posted in turn, with the beginning of each event id replaced.
        rate: batches per second.
        accepted: batches so far.
    """

    address: tuple[str, int]
    path: str
    bodies: Sequence[bytes]
    rate: float
    accepted: int = 0
    behind: float = 0.0
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _sent: int = 0

    async def run(self) -> None:
        """Post until `stop`.

        Raises:
            LoadFailed: an answer was not 202.
        """
        self._pieces = [_ID_START.split(body) for body in self.bodies]
        self._began = time.monotonic()
        await asyncio.gather(*(self._connection() for _ in range(CONNECTIONS)))

    def stop(self) -> None:
        """End the load; what is on its way is still answered."""
        self._stop.set()

    async def _connection(self) -> None:
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            while not self._stop.is_set():
                number, self._sent = self._sent, self._sent + 1
                pause = self._began + number / self.rate - time.monotonic()
                self.behind = max(self.behind, -pause)
                if pause > 0:
                    await asyncio.sleep(pause)
                body = (b"%08x" % number).join(self._pieces[number % len(self._pieces)])
                writer.write(self._head(len(body)) + body)
                await self._expect_accepted(reader)
                self.accepted += 1
        finally:
            writer.close()

    def _head(self, size: int) -> bytes:
        fields = f"Host: edge.test\r\nContent-Type: application/json\r\nContent-Length: {size}"
        return f"POST {self.path} HTTP/1.1\r\n{fields}\r\n\r\n".encode()

    @staticmethod
    async def _expect_accepted(reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        body = await reader.readexactly(int(length.group(1)) if length else 0)
        if not head.startswith(b"HTTP/1.1 202"):
            first = head.partition(b"\r\n")[0].decode()
            raise LoadFailed(f"{first}: {body[:200].decode(errors='replace')}")
