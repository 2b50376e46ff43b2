"""Blobs that lie on the disk, whole or one range of them: sent in the lane, without a task or a parser of aiohttp's.

What `edge.download` answers with several ranges, from preconditions, from the object store, over TLS, or with an
error is for aiohttp; so is a connection on which earlier answers have not been taken yet, because the head of this one
goes past the transport, as the file does.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from edge import metrics
from edge.blob_cache import BlobCache
from edge.blob_directory import OpenBlob
from edge.download import CONTENT_TYPE, blob_fields, validators_of
from edge.errors import NotSatisfiable
from edge.prepared import Clock
from edge.ranges import ByteRange, select_ranges
from edge.request_head import CRLF, HeadReader
from edge.sendfile import FileSender, Stalled, Transfer, can_send, descriptor_of, unread

_REQUEST_LINE = re.compile(rb"GET /v2/artifacts/([0-9a-f]{64}) HTTP/1\.1")

_WHOLE = metrics.REQUESTS.labels("artifact", "200")
_PART = metrics.REQUESTS.labels("artifact", "206")


@dataclass(slots=True)
class Sending:
    """A blob on its way to a client.

    Args:
        end: where its request ends in what was read.
        transfer: None once it has ended.
    """

    end: int
    transfer: Transfer | None = None


class BlobLane:
    """Sends blobs for all lanes of a worker.

    Args:
        blobs: which are here.
        sender: sends files.
        stall_seconds: time for a client to take the next piece.
    """

    def __init__(self, blobs: BlobCache, sender: FileSender, stall_seconds: float) -> None:
        self._blobs = blobs
        self._sender = sender
        self._stall_seconds = stall_seconds

    def take(
        self,
        reader: HeadReader,
        data: bytes,
        start: int,
        head_end: int,
        transport: asyncio.Transport,
        clock: Clock,
        sent: Callable[[Exception | None], None],
    ) -> Sending | None:
        """Begin to answer a request, or return None when aiohttp is to answer it.

        Args:
            reader: reads its head.
            data: what was read.
            start: where the request begins in it.
            head_end: where its head ends, with the empty line.
            transport: of the connection.
            clock: tells the date.
            sent: called once, later, when all is with the kernel, or with the error that ended it; the connection is of
                no use then.
        """
        line_end = data.find(CRLF, start, head_end)
        line = _REQUEST_LINE.fullmatch(data, start, line_end)
        if line is None:
            return None
        head = reader.read(data[start:head_end], line_end - start)
        if head is None or head.tag is not None or head.body_bytes is not None:
            return None
        if (head.conditional and head.range is None) or not _is_clear(transport):
            return None
        blob = self._blobs.open_here(line[1].decode())
        if blob is None:
            return None
        try:
            content = _content(head.range, blob.length)
            if content is None:
                blob.close()
                return None
            answer = _head(line[1].decode(), blob.length, content, clock.date)
            return self._begin(blob, content, answer, head_end, transport, sent)
        except BaseException:
            blob.close()
            raise

    def cancel(self, sending: Sending) -> None:
        """Send nothing more: the connection is lost."""
        if sending.transfer is not None:
            self._sender.cancel(sending.transfer, ConnectionResetError("the client is gone"))

    def _begin(
        self,
        blob: OpenBlob,
        content: _Content,
        answer: bytes,
        head_end: int,
        transport: asyncio.Transport,
        sent: Callable[[Exception | None], None],
    ) -> Sending | None:
        try:
            written = os.write(descriptor_of(transport), answer)
        except OSError:  # nothing of it is sent, so aiohttp can still find out what is wrong
            blob.close()
            return None
        (_PART if content.is_part else _WHOLE).inc()
        sending = Sending(head_end)

        def ended(error: Exception | None) -> None:
            sending.transfer = None
            blob.close()
            if isinstance(error, Stalled):
                metrics.STALLED.inc()
            sent(error)

        if written < len(answer):
            # Nothing was in the socket's buffer, so some hundred bytes go whole; a part of a head cannot be mended.
            asyncio.get_running_loop().call_soon(ended, ConnectionResetError("the socket took a part of a head"))
            return sending
        sending.transfer = self._sender.begin(
            transport, blob.fileno(), content.bytes.first, content.bytes.length, self._stall_seconds, ended
        )
        return sending


def _is_clear(transport: asyncio.Transport) -> bool:
    """Say whether bytes can go past the transport: a plain socket, with nothing of earlier answers left to send."""
    return can_send(transport) and not transport.get_write_buffer_size() and not unread(descriptor_of(transport))


class _Content(NamedTuple):
    """Which bytes of a blob are sent, and whether as a part of it."""

    bytes: ByteRange
    is_part: bool


def _content(field: bytes | None, length: int) -> _Content | None:
    """Return what to send of a blob; None when that is nothing, several ranges, or an error."""
    if length == 0:
        return None
    try:
        # Decoded as aiohttp decodes.
        ranges = None if field is None else select_ranges((field.decode("utf-8", "surrogateescape"),), length)
    except NotSatisfiable:
        return None
    if ranges is None:
        return _Content(ByteRange(0, length - 1), is_part=False)
    return _Content(ranges[0], is_part=True) if len(ranges) == 1 else None


def _head(sha256: str, length: int, content: _Content, date: bytes) -> bytes:
    fields = blob_fields(validators_of(sha256), CONTENT_TYPE, content.bytes.length)
    if content.is_part:
        fields["Content-Range"] = content.bytes.content_range(length)
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    status = "206 Partial Content" if content.is_part else "200 OK"
    return b"%bDate: %b\r\n\r\n" % (f"HTTP/1.1 {status}\r\n{lines}".encode("latin-1"), date)
