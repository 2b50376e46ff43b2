"""A device downloads a blob: whole, or the ranges it lacks, from the local disk.

A blob is named by its hash, so its validators never change and are the same on every edge: the entity tag is the hash,
and the date is one fixed moment. So a download may go on at another edge, or after the blob was evicted and fetched
again. A whole blob and a single range go from the file to the socket within the kernel (`edge.sendfile`). Several
ranges, and everything over TLS, are read in a thread, one piece ahead of the client at most.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime

from aiohttp import web

from edge import metrics
from edge.blob_cache import BlobCache
from edge.blob_directory import OpenBlob
from edge.check import IMMUTABLE
from edge.conditional import Validators, Verdict, evaluate, range_applies
from edge.errors import EdgeError, Invalid, Missing, PreconditionFailed, Unavailable
from edge.gate import Gate
from edge.manifest_cache import ManifestCache
from edge.ranges import ByteRange, Multipart, lay_out, select_ranges
from edge.sendfile import FileSender, Stalled, can_send

# Large enough that the hop to a thread does not count, small enough that many slow readers fit in memory: a download
# that is copied holds one piece and its write buffer, half a MiB together.
PIECE_BYTES = 256 * 1024
# 500 MiB of pieces and buffers at the most. Downloads that the kernel sends hold none, and are as many as connections.
MAX_COPIED = 1_000

CONTENT_TYPE = "application/octet-stream"
# Bytes under a hash have no history, so any date before all of them is right; the same on every edge, it serves
# If-Range as a strong validator (RFC 9110 section 8.8.2.2).
LAST_MODIFIED = datetime(2020, 1, 1, tzinfo=UTC)

_FIXED_HEADERS = {
    "Last-Modified": format_datetime(LAST_MODIFIED, usegmt=True),
    "Cache-Control": IMMUTABLE,
    "Accept-Ranges": "bytes",
    "X-Content-Type-Options": "nosniff",
}

_SHA256 = re.compile(r"[0-9a-f]{64}")
_TARGET = re.compile(r"([0-9a-f]{64})\.[1-9][0-9]{0,9}")


class Downloads:
    """The routes that serve blobs.

    Args:
        blobs: where they are.
        manifests: which keys are valid, for targets below a key.
        sender: sends files.
        stall_seconds: time for a client to take the next piece.
        boundary: makes the boundary of a multipart answer.
    """

    def __init__(
        self,
        blobs: BlobCache,
        manifests: ManifestCache,
        sender: FileSender,
        stall_seconds: float,
        boundary: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._blobs = blobs
        self._manifests = manifests
        self._sender = sender
        self._stall_seconds = stall_seconds
        self._boundary = boundary
        self._gate = Gate(
            "downloads", MAX_COPIED, lambda: Unavailable("Too many downloads at once; ask again.", "busy")
        )

    async def artifact(self, request: web.Request) -> web.StreamResponse:
        """``GET /v2/artifacts/{sha256}``."""
        sha256 = request.match_info["sha256"]
        if not _SHA256.fullmatch(sha256):
            raise Invalid("An artifact is named by its SHA-256, 64 lower-case hex digits.", "invalid_hash")
        return await self._blob(request, sha256)

    async def target(self, request: web.Request) -> web.StreamResponse:
        """``GET /v2/environments/{key}/tuf/targets/{model}/{sha256}.{version}``: an artifact by its TUF target path.

        The hash alone decides: it names the same bytes for ever, also for a client whose metadata is a version behind.
        """
        self._manifests.require(request.match_info["key"])
        target = _TARGET.fullmatch(request.match_info["file"])
        if target is None:
            raise Missing("There is no such target.")
        return await self._blob(request, target[1])

    async def _blob(self, request: web.Request, sha256: str) -> web.StreamResponse:
        if request.method == "HEAD":
            return _head(request, sha256, await self._blobs.length(sha256))
        with await self._blobs.open(sha256) as blob:
            return await self._send(request, sha256, blob)

    async def _send(self, request: web.Request, sha256: str, blob: OpenBlob) -> web.StreamResponse:
        validators = validators_of(sha256)
        if _not_modified(request, validators):
            return web.Response(status=304, headers=_headers(validators))
        ranges = _ranges(request, validators, blob.length)
        if ranges is None:
            response = _response(200, validators, CONTENT_TYPE, blob.length)
            return await self._send_one(request, response, blob, ByteRange(0, blob.length - 1))
        if len(ranges) == 1:
            response = _response(206, validators, CONTENT_TYPE, ranges[0].length)
            response.headers["Content-Range"] = ranges[0].content_range(blob.length)
            return await self._send_one(request, response, blob, ranges[0])
        layout = lay_out(ranges, blob.length, CONTENT_TYPE, self._boundary())
        response = _response(206, validators, layout.content_type, layout.length)
        return await self._send_parts(request, response, blob, layout)

    async def _send_one(
        self, request: web.Request, response: web.StreamResponse, blob: OpenBlob, content: ByteRange
    ) -> web.StreamResponse:
        await blob.ready(content.first, content.last + 1)  # what fails until here has a status of its own
        if can_send(_transport(request)):
            await self._send_file(request, response, blob, content)
            return response
        with self._gate.enter():
            await response.prepare(request)
            await self._copy(request, response, blob, content)
        return response

    async def _send_parts(
        self, request: web.Request, response: web.StreamResponse, blob: OpenBlob, layout: Multipart
    ) -> web.StreamResponse:
        await blob.ready(blob.length, blob.length)
        with self._gate.enter():
            await response.prepare(request)
            for part in layout.parts:
                await self._write(request, response, part.head)
                await self._copy(request, response, blob, part.content)
            await self._write(request, response, layout.tail)
        return response

    async def _send_file(
        self, request: web.Request, response: web.StreamResponse, blob: OpenBlob, content: ByteRange
    ) -> None:
        transport = _transport(request)
        with self._patience(request):
            await self._send_head(request, response, transport)
            async for first, end in _arriving(blob, content):
                await self._sender.send(transport, blob.fileno(), first, end - first, self._stall_seconds)

    async def _send_head(
        self, request: web.Request, response: web.StreamResponse, transport: asyncio.Transport
    ) -> None:
        """Send the head, and what earlier answers left, so that nothing lies in the transport's buffer any more."""
        low, high = transport.get_write_buffer_limits()
        transport.set_write_buffer_limits(0)
        try:
            writer = await response.prepare(request)
            assert writer is not None
            if transport.get_write_buffer_size():
                async with asyncio.timeout(self._stall_seconds):
                    await writer.drain()
        finally:
            if not transport.is_closing():
                transport.set_write_buffer_limits(high, low)

    async def _copy(
        self, request: web.Request, response: web.StreamResponse, blob: OpenBlob, content: ByteRange
    ) -> None:
        async for piece in _pieces(blob, content):
            await self._write(request, response, piece)
            metrics.SENT_BYTES.inc(len(piece))

    async def _write(self, request: web.Request, response: web.StreamResponse, data: bytes) -> None:
        with self._patience(request):
            async with asyncio.timeout(self._stall_seconds):
                await response.write(data)

    @contextmanager
    def _patience(self, request: web.Request) -> Iterator[None]:
        """Cut a client off that took too long to read."""
        try:
            yield
        except (TimeoutError, Stalled):
            metrics.STALLED.inc()
            if request.transport is not None:
                request.transport.abort()  # closing would wait for the client to read what is buffered
            raise ConnectionResetError("the client took too long to read") from None


def _transport(request: web.Request) -> asyncio.Transport:
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client is gone")
    return transport


async def _arriving(blob: OpenBlob, content: ByteRange) -> AsyncIterator[tuple[int, int]]:
    """Yield first and end of the stretches of a range as they may be sent; a whole blob has one.

    Raises:
        ConnectionResetError: the rest will not come, or not in time; the answer must not look finished.
    """
    place, end = content.first, content.last + 1
    while place < end:
        try:
            ready = await blob.ready(place, end)
        except EdgeError as error:
            raise ConnectionResetError(f"the blob does not arrive: {error.code}") from None
        yield place, ready
        place = ready


async def _pieces(blob: OpenBlob, content: ByteRange) -> AsyncIterator[bytes]:
    """Yield the bytes of a range from the disk.

    Raises:
        ConnectionResetError: the file has become shorter, or the rest does not come; the answer cannot be finished, and
            must not look finished.
    """
    async for place, end in _arriving(blob, content):
        while place < end:
            piece = await asyncio.to_thread(blob.read, place, min(PIECE_BYTES, end - place))
            if not piece:
                raise ConnectionResetError("the blob has become shorter while it was read")
            yield piece
            place += len(piece)


def _head(request: web.Request, sha256: str, length: int) -> web.StreamResponse:
    """Return what a GET would, without the bytes; ``Range`` means nothing to HEAD (RFC 9110 section 14.2)."""
    validators = validators_of(sha256)
    if _not_modified(request, validators):
        return web.Response(status=304, headers=_headers(validators))
    return _response(200, validators, CONTENT_TYPE, length)


def validators_of(sha256: str) -> Validators:
    """Return what tells a blob from others: its hash, and the one date that all blobs have."""
    return Validators(f'"{sha256}"', LAST_MODIFIED)


def _not_modified(request: web.Request, validators: Validators) -> bool:
    verdict = evaluate(request.headers, validators)
    if verdict is Verdict.FAILED:
        raise PreconditionFailed("The artifact is not in the state that the request asks for.")
    return verdict is Verdict.NOT_MODIFIED


def _ranges(request: web.Request, validators: Validators, length: int) -> tuple[ByteRange, ...] | None:
    if not range_applies(request.headers.get("If-Range"), validators):
        return None
    return select_ranges(request.headers.getall("Range", ()), length)


def _headers(validators: Validators) -> dict[str, str]:
    return {"ETag": validators.etag, **_FIXED_HEADERS}


def blob_fields(validators: Validators, content_type: str, length: int) -> dict[str, str]:
    """Return the fields of an answer with ``length`` bytes of content, but for those that tell of ranges and time."""
    return {**_headers(validators), "Content-Type": content_type, "Content-Length": str(length)}


def _response(status: int, validators: Validators, content_type: str, length: int) -> web.StreamResponse:
    return web.StreamResponse(status=status, headers=blob_fields(validators, content_type, length))
