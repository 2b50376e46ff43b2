"""A device downloads a blob: whole, or the ranges it lacks, from the local disk.

A blob is named by its hash, so its validators never change and are the same on every edge: the entity tag is the hash,
and the date is one fixed moment. So a download may go on at another edge, or after the blob was evicted and fetched
again. A whole blob and a single range go from the file to the socket within the kernel (`edge.sendfile`). Several
ranges, and everything over TLS, are read in a thread, one piece ahead of the client at most.

A version, asked for by its number, is answered with the artifact's blob, or, for a client that holds another version,
with a patch (`edge.dictionary`). These are two representations of one resource, each with an entity tag of its own.
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
from edge.dictionary import DCZ, VARY, Patches, dcz_etag, prologue, use_as_dictionary, wanted_patch
from edge.errors import EdgeError, Invalid, Missing, PreconditionFailed, Unavailable
from edge.gate import Gate
from edge.manifest_cache import ManifestCache
from edge.offers import Offers
from edge.ranges import ByteRange, Multipart, lay_out, select_ranges
from edge.representation import Representation, Stretch
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

# Versions are for browsers too: pages of any origin may read them, as anybody who knows the key may. No dates: the
# representations of a version share its URL, and one date for them all would resume one with bytes of another.
_VERSION_FIELDS = {
    "Cache-Control": IMMUTABLE,
    "Vary": VARY,
    "Accept-Ranges": "bytes",
    "Access-Control-Allow-Origin": "*",
    "X-Content-Type-Options": "nosniff",
}

_SHA256 = re.compile(r"[0-9a-f]{64}")
_TARGET = re.compile(r"([0-9a-f]{64})\.[1-9][0-9]{0,9}")
_VERSION = re.compile(r"[1-9][0-9]{0,9}")


class Downloads:
    """The routes that serve blobs.

    Args:
        blobs: where they are.
        manifests: which keys are valid, and what is offered below them.
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
        self._offers = Offers(manifests)
        self._patches = Patches(blobs)
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

    async def version(self, request: web.Request) -> web.StreamResponse:
        """``GET /v2/environments/{key}/models/{model}/versions/{version}/artifact``: an artifact by its number.

        The one route whose answer depends on what the client holds and can decode, as standard clients tell it.
        """
        key, model, number = (request.match_info[name] for name in ("key", "model", "version"))
        release = self._offers.find(key, model, int(number) if _VERSION.fullmatch(number) else 0)
        as_dictionary = {"Use-As-Dictionary": use_as_dictionary(key, release)}
        patch = wanted_patch(request.headers, release)
        blob = await self._patches.open(release, patch) if patch else None
        if patch and blob:
            metrics.VERSIONS_ASKED.labels(DCZ).inc()
            form = Representation(
                Validators(dcz_etag(patch)), _VERSION_FIELDS, {"Content-Encoding": DCZ}, as_dictionary, prologue(patch)
            )
            with blob:
                return await self._send(request, form, blob)
        metrics.VERSIONS_ASKED.labels("identity").inc()
        form = Representation(Validators(f'"{release.artifact}"'), _VERSION_FIELDS, whole_fields=as_dictionary)
        return await self._answer(request, form, release.artifact)

    async def _blob(self, request: web.Request, sha256: str) -> web.StreamResponse:
        return await self._answer(request, Representation(validators_of(sha256), _FIXED_HEADERS), sha256)

    async def _answer(self, request: web.Request, form: Representation, sha256: str) -> web.StreamResponse:
        if request.method == "HEAD":
            return _head(request, form, await self._blobs.length(sha256))
        with await self._blobs.open(sha256) as blob:
            return await self._send(request, form, blob)

    async def _send(self, request: web.Request, form: Representation, blob: OpenBlob) -> web.StreamResponse:
        length = form.length(blob.length)
        if request.method == "HEAD":
            return _head(request, form, length)
        if _not_modified(request, form.validators):
            return web.Response(status=304, headers=form.head(304))
        ranges = _ranges(request, form.validators, length)
        if ranges is None:
            response = _response(200, form, CONTENT_TYPE, length)
            return await self._send_one(request, response, form.stretch(blob, ByteRange(0, length - 1)))
        if len(ranges) == 1:
            response = _response(206, form, CONTENT_TYPE, ranges[0].length)
            response.headers["Content-Range"] = ranges[0].content_range(length)
            return await self._send_one(request, response, form.stretch(blob, ranges[0]))
        layout = lay_out(ranges, length, CONTENT_TYPE, self._boundary())
        response = _response(206, form, layout.content_type, layout.length)
        return await self._send_parts(request, response, form, blob, layout)

    async def _send_one(
        self, request: web.Request, response: web.StreamResponse, content: Stretch
    ) -> web.StreamResponse:
        await content.blob.ready(content.first, content.end)  # what fails until here has a status of its own
        if can_send(_transport(request)):
            await self._send_file(request, response, content)
            return response
        with self._gate.enter():
            await response.prepare(request)
            await self._copy(request, response, content)
        return response

    async def _send_parts(
        self,
        request: web.Request,
        response: web.StreamResponse,
        form: Representation,
        blob: OpenBlob,
        layout: Multipart,
    ) -> web.StreamResponse:
        await blob.ready(blob.length, blob.length)
        with self._gate.enter():
            await response.prepare(request)
            for part in layout.parts:
                await self._write(request, response, part.head)
                await self._copy(request, response, form.stretch(blob, part.content))
            await self._write(request, response, layout.tail)
        return response

    async def _send_file(self, request: web.Request, response: web.StreamResponse, content: Stretch) -> None:
        transport = _transport(request)
        with self._patience(request):
            await self._send_head(request, response, transport, content.before)
            async for first, end in _arriving(content):
                await self._sender.send(transport, content.blob.fileno(), first, end - first, self._stall_seconds)

    async def _send_head(
        self, request: web.Request, response: web.StreamResponse, transport: asyncio.Transport, before: bytes
    ) -> None:
        """Send the head, what stands before the blob, and what earlier answers left.

        Nothing lies in the transport's buffer any more then.
        """
        low, high = transport.get_write_buffer_limits()
        transport.set_write_buffer_limits(0)
        try:
            writer = await response.prepare(request)
            assert writer is not None
            if before:
                async with asyncio.timeout(self._stall_seconds):
                    await response.write(before)
            if transport.get_write_buffer_size():
                async with asyncio.timeout(self._stall_seconds):
                    await writer.drain()
        finally:
            if not transport.is_closing():
                transport.set_write_buffer_limits(high, low)

    async def _copy(self, request: web.Request, response: web.StreamResponse, content: Stretch) -> None:
        if content.before:
            await self._write(request, response, content.before)
        async for piece in _pieces(content):
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


async def _arriving(content: Stretch) -> AsyncIterator[tuple[int, int]]:
    """Yield first and end of the parts of a stretch of a blob as they may be sent; a blob that is here has one.

    Raises:
        ConnectionResetError: the rest will not come, or not in time; the answer must not look finished.
    """
    place = content.first
    while place < content.end:
        try:
            ready = await content.blob.ready(place, content.end)
        except EdgeError as error:
            raise ConnectionResetError(f"the blob does not arrive: {error.code}") from None
        yield place, ready
        place = ready


async def _pieces(content: Stretch) -> AsyncIterator[bytes]:
    """Yield the bytes of a blob from the disk.

    Raises:
        ConnectionResetError: the file has become shorter, or the rest does not come; the answer cannot be finished, and
            must not look finished.
    """
    async for place, end in _arriving(content):
        while place < end:
            piece = await asyncio.to_thread(content.blob.read, place, min(PIECE_BYTES, end - place))
            if not piece:
                raise ConnectionResetError("the blob has become shorter while it was read")
            yield piece
            place += len(piece)


def _head(request: web.Request, form: Representation, length: int) -> web.StreamResponse:
    """Return what a GET would, without the bytes; ``Range`` means nothing to HEAD (RFC 9110 section 14.2)."""
    if _not_modified(request, form.validators):
        return web.Response(status=304, headers=form.head(304))
    return _response(200, form, CONTENT_TYPE, length)


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


def blob_fields(validators: Validators, content_type: str, length: int) -> dict[str, str]:
    """Return the fields of an answer with ``length`` bytes of content, but for those that tell of ranges and time."""
    return {"ETag": validators.etag, **_FIXED_HEADERS, "Content-Type": content_type, "Content-Length": str(length)}


def _response(status: int, form: Representation, content_type: str, length: int) -> web.StreamResponse:
    fields = {**form.head(status), "Content-Type": content_type, "Content-Length": str(length)}
    return web.StreamResponse(status=status, headers=fields)
