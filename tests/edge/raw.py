"""Bytes to an edge's socket and back, for what no well-behaved client sends."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from tests.edge.site import Edge

ANSWER_SECONDS = 30.0


@dataclass(frozen=True)
class RawAnswer:
    """An answer as it came over the wire, until the server closed or the body was whole."""

    status: int
    fields: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


async def connect(edge: Edge) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(*edge.address)


async def read_answer(reader: asyncio.StreamReader, *, head_only: bool = False) -> RawAnswer:
    """Read one answer; ``head_only`` for HEAD, whose answers have no body whatever their Content-Length."""
    async with asyncio.timeout(ANSWER_SECONDS):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.strip().split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(status_line.split()[1])
        length = 0 if head_only or status in (204, 304) else int(fields.get("content-length", "0"))
        return RawAnswer(status, fields, await reader.readexactly(length))


async def raw(edge: Edge, data: bytes, *, head_only: bool = False) -> RawAnswer:
    """Send bytes on a connection of their own and return the first answer."""
    reader, writer = await connect(edge)
    try:
        writer.write(data)
        return await read_answer(reader, head_only=head_only)
    finally:
        writer.close()


def request(method: str, path: str, *fields: str, body: bytes = b"") -> bytes:
    """Return a request with the fields as given and, with a body, its length."""
    lines = [f"{method} {path} HTTP/1.1", "Host: edge", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body
